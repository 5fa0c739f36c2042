"""The view "Rollouts": what groups of some training steps answered, early against late.

The rows are GRPO's own (training/rollout_log.py says which groups it keeps). Of more steps than fit, every second is
left out until they do; the first stays.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.grounding.boxes import Box
from migrl.grounding.samples import Sample
from migrl.report.embed import Picture, embed_picture
from migrl.report.shots import Part, Shot, place_true_boxes, split_completion

BUDGET = 600_000  # characters of the page
TAKE_CHARS, GROUP_CHARS, SHOT_CHARS = 700, 900, 350  # markup around the texts

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Take:
    """One completion of a group: the row's facts, its text in parts, and the image it points into, if any."""

    facts: Mapping[str, Any]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Frame:
    """A picture of the prompt with the true box, and the boxes of the takes in it, hits apart, in original px."""

    shot: Shot
    hits_px: tuple[Box, ...]
    misses_px: tuple[Box, ...]


@dataclass(frozen=True)
class Group:
    """The completions of one prompt at one step."""

    sample: Sample
    frames: tuple[Frame, ...]
    takes: tuple[Take, ...]


@dataclass(frozen=True)
class RolloutView:
    """Groups by step, their pictures, and how many steps were kept by the training."""

    steps: Mapping[int, tuple[Group, ...]]
    pictures: tuple[Picture, ...]
    kept: int


def build_rollouts(rows: Sequence[Row], samples: Iterable[Sample], images_root: Path) -> RolloutView:
    """The view of a training's rows; `samples` are those it learnt on.

    Raises:
        UserError: a row of a sample that is not there, or a picture that is missing or unreadable.
    """
    known = {sample.uid: sample for sample in samples}
    steps = {step: list(some) for step, some in groupby(rows, key=lambda row: int(row["step"]))}
    shown = list(steps)
    while len(shown) > 1 and sum(_estimate_chars(row) for step in shown for row in steps[step]) > BUDGET:
        shown = shown[::2]
    pictures: dict[str, Picture] = {}
    view: dict[int, tuple[Group, ...]] = {}
    for step in shown:
        groups = []
        for row in steps[step]:
            if row["sample"] not in known:
                raise UserError(f"rollouts.jsonl: sample {row['sample']!r} is not in the pool; run `migrl grpo` again")
            groups.append(_make_group(row, known[row["sample"]], pictures, images_root))
        view[step] = tuple(groups)
    return RolloutView(view, tuple(pictures.values()), len(steps))


def _make_group(row: Row, sample: Sample, pictures: dict[str, Picture], images_root: Path) -> Group:
    for path, size in zip(sample.images, sample.sizes, strict=True):
        if path not in pictures:
            pictures[path] = embed_picture(images_root, path, size, f"r{len(pictures)}")
    frames = []
    for shot in place_true_boxes(sample, pictures):
        inside = [
            (one["hit"], tuple(box["box_px"]))
            for one in row["completions"]
            for box in one["boxes"]
            if box["image"] == shot.number
        ]
        hits, misses = (tuple(box for was_hit, box in inside if was_hit == hit) for hit in (True, False))
        frames.append(Frame(shot, hits, misses))
    takes = [Take(one, split_completion(one["text"])) for one in row["completions"]]
    return Group(sample, tuple(frames), tuple(takes))


def _estimate_chars(row: Row) -> int:
    texts = sum(len(one["text"]) + TAKE_CHARS for one in row["completions"])
    return GROUP_CHARS + texts + SHOT_CHARS * len(row["completions"])
