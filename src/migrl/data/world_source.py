"""The tiny world as a data source: splits with pictures on disk, disjoint down to single scenes.

Evaluation sets are drawn first, so they do not depend on the size of the training splits; the set of lists is drawn
last, so nothing depends on it. A case is refused if any of its scenes is already in another split; the test is the
hash of the scene's content, and the count of refusals is part of the evidence.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from migrl.files import write_jsonl
from migrl.grounding.samples import BoxesTarget, BoxTarget, ChoiceTarget, Sample, Target
from migrl.progress import track
from migrl.recipe import WorldSource
from migrl.recipe.sources import LIST_SET
from migrl.world.cases import SEEN, Case, Palette, TaskMaker
from migrl.world.in_domain import MINI_MIG
from migrl.world.scenes import Scene, hash_scenes, render_scene
from migrl.world.tasks import SETS


@dataclass
class Splits:
    """Scene hashes by split, and how many cases were refused for sharing a scene with another split."""

    owner: dict[str, str] = field(default_factory=dict)
    refused: int = 0

    def claim(self, scenes: tuple[Scene, ...], split: str) -> bool:
        """Take the scenes for `split`; False if another split has one of them."""
        hashes = [hash_scenes([scene]) for scene in scenes]
        if any(self.owner.get(value, split) != split for value in hashes):
            self.refused += 1
            return False
        self.owner.update(dict.fromkeys(hashes, split))
        return True


def build_world(source: WorldSource, folder: Path) -> dict[str, Any]:
    """Write `<split>.jsonl` and pictures under `folder`; return counts. Splits: cot, rl and each benchmark."""
    splits = Splits()
    counts: dict[str, int] = {}
    plan: list[tuple[str, dict[str, TaskMaker], Palette, int]] = [
        (name, *SETS[name], count) for name, count in source.eval_per_task.items() if name != LIST_SET
    ]
    plan.append(("cot", MINI_MIG, SEEN, source.cot_per_task))
    plan.append(("rl", MINI_MIG, SEEN, source.rl_per_task))
    if LIST_SET in source.eval_per_task:
        plan.append((LIST_SET, *SETS[LIST_SET], source.eval_per_task[LIST_SET]))
    for name, makers, palette, per_task in track(plan, "drawing the world", quick=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        rows = []
        for task, make in makers.items():
            rng = Random(f"{source.seed}/{name}/{task}")
            for number, cases in enumerate(draw_cases(rng, make, palette, per_task, splits, name)):
                rows += [sample.to_json() for sample in save_cases(cases, name, task, number, folder)]
        counts[name] = write_jsonl(folder / f"{name}.jsonl", rows)
    return {"samples": counts, "scenes": len(splits.owner), "refused_shared_scenes": splits.refused}


def draw_cases(
    rng: Random, make: TaskMaker, palette: Palette, count: int, splits: Splits, split: str
) -> Iterator[list[Case]]:
    """Image sets with their questions until `count` questions are drawn."""
    drawn = 0
    while drawn < count:
        cases = make(rng, palette)[: count - drawn]
        if splits.claim(cases[0].scenes, split):
            drawn += len(cases)
            yield cases


def save_cases(cases: list[Case], benchmark: str, task: str, number: int, folder: Path) -> list[Sample]:
    """Write the pictures of one image set and return its samples."""
    cluster = f"{benchmark}:{task}:{number}"
    images = []
    for index, scene in enumerate(cases[0].scenes, 1):
        name = f"{benchmark}/{task}_{number:04d}_{index}.png"
        render_scene(scene).save(folder / name, compress_level=1)
        images.append(name)
    samples = []
    for index, case in enumerate(cases):
        target: Target
        if case.letter is not None:
            target = ChoiceTarget(case.letter, len(case.options))
        elif case.every is not None:
            target = BoxesTarget(tuple(BoxTarget(image, case.box_unit(image, look)) for image, look in case.every))
        else:
            assert case.image is not None and case.look is not None
            target = BoxTarget(case.image, case.box_unit(case.image, case.look))
        uid = f"{cluster}:{index}"
        samples.append(Sample(uid, benchmark, task, tuple(images), case.question, target, cluster, case.facts))
    return samples
