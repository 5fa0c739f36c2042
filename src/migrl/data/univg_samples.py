"""UniVG-R1's stages: in which image a box lies, and which samples the splits take (the rules: data/univg.py)."""

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

from migrl.benchmarks.fields import open_record
from migrl.data.json_stream import Tally, convert_records
from migrl.data.mgrounding import ARCHIVE_ROOT, FIXED_IMAGE, POOL_FOLDER
from migrl.data.mgrounding import find_target as find_pool_target
from migrl.data.pool import Choice, Chosen, Drops, Pool, PoolSizes, Split, shows_any
from migrl.data.target_image import NOT_NAMED, place_by_question
from migrl.data.turns import SHAREGPT, read_turns
from migrl.data.univg import COCO_FOLDER, STAGES, Drop, Item, read_stage
from migrl.grounding.boxes import Box
from migrl.grounding.samples import BoxTarget, Sample
from migrl.recipe import SINGLE_IMAGE


class PoolIndex:
    """In which image MGrounding-630k says that a box lies, for the sets of images that the stages show."""

    def __init__(self, items: Iterable[Item | Drop]) -> None:
        self._wanted = {_digest(item.images) for item in items if isinstance(item, Item)}
        self._images: dict[int, int | None] = {}

    def read(self, path: Path, tally: Tally) -> dict[str, Any]:
        """Look through MGrounding-630k.json; what it says in two ways counts as not said. Returns counts of records.

        Raises:
            UserError: a torn file, or too many broken records.
        """
        for images, places in convert_records(path, self._find_places, tally):
            for image, box in places:
                key = _digest(images, box)
                self._images[key] = image if self._images.get(key, image) == image else None
        return tally.describe()

    def _find_places(self, path: Path, index: int, data: Any) -> tuple[tuple[str, ...], list[tuple[int, Box]]]:
        """Images of a record, and what its answers say: (image, box in unit frame), whatever the questions are like."""
        record = open_record(path, index, data, ("images", "conversations"), optional=None)
        names = [name.removeprefix(f"{ARCHIVE_ROOT}/") for name in record.paths("images")]
        images = tuple(f"{POOL_FOLDER}/{name}" for name in names)
        if _digest(images) not in self._wanted:
            return images, []
        task = names[0].split("/", 1)[0]
        targets = [find_pool_target(task, len(images), *turn) for turn in read_turns(record, SHAREGPT)]
        return images, [(image, box) for image, box, _ in targets if image is not None and box is not None]

    def find(self, item: Item) -> int | None:
        return self._images.get(_digest(item.images, item.box_unit))


def _digest(images: tuple[str, ...], box: Box | None = None) -> int:
    """Eight bytes instead of long paths: there are a hundred thousand sets of images."""
    return int.from_bytes(hashlib.blake2b(f"{images}{box or ''}".encode(), digest_size=8).digest())


def find_target(item: Item, index: PoolIndex) -> tuple[int | None, str]:
    """(image, how it is known), or (None, why it is not)."""
    if len(item.images) == 1:
        return 1, "one picture"
    how, reason = "MGrounding-630k", ""
    image = index.find(item)
    if image is None and item.task in FIXED_IMAGE:
        image, how = FIXED_IMAGE[item.task], "task"
    elif image is None:
        (image, reason), how = place_by_question(item.question, tracked=item.task == "Object_Tracking"), "question"
        if reason == NOT_NAMED:
            (image, reason), how = place_by_question(item.thought), "thought"
    if image is None:
        return None, reason
    if not 1 <= image <= len(item.images):
        return None, "image out of range"
    twice = item.images.count(item.images[image - 1]) > 1
    return (None, "picture of the box shown twice") if twice else (image, how)


def choose_stages(
    folder: Path, pool: Path, sizes: PoolSizes, forbidden: Container[str | None] = ()
) -> tuple[Chosen, dict[str, Any]]:
    """The samples of both splits, images below the data folder, and what was counted on the way.

    Args:
        folder: where the stage files lie.
        pool: MGrounding-630k.json.
        sizes: samples of each task; `Single_Image` is one of them if questions over one picture are wanted.
        forbidden: pictures that a benchmark shows, by `identify_picture`; nothing is trained on them.

    Raises:
        UserError: a torn file, or a record that is not of the known form.
    """
    share = sizes.broken_share
    index = PoolIndex(item for split, name in STAGES.items() for item in read_stage(folder / name, split, Tally(share)))
    facts = {"pool": index.read(pool, Tally(share))}
    choice = Choice(sizes)
    rl = _offer_stage(folder, "rl", index, choice, forbidden, taken=set())
    taken = {sample.cluster for sample in choice.list_samples("rl")}
    cot = _offer_stage(folder, "cot", index, choice, forbidden, taken)
    facts |= {"cot": cot, "rl": rl, **choice.describe()}
    return {split: choice.list_samples(split) for split in STAGES}, facts


def _offer_stage(
    folder: Path, split: Split, index: PoolIndex, choice: Choice, forbidden: Container[str | None], taken: set[str]
) -> dict[str, Any]:
    """Offer every usable sample of a stage; count the rest by reason."""
    tally = Tally(choice.sizes.broken_share)
    drops, known, turns, other_instruction = Drops(), Counter[str](), 0, 0
    for item in read_stage(folder / STAGES[split], split, tally):
        turns += 1
        sample, how = (None, item.reason) if isinstance(item, Drop) else make_sample(item, index, choice.sizes)
        if sample is None:
            drops.add(item.task, how)
        elif sample.cluster in taken:
            drops.add(item.task, "images of an RL sample")
        elif shows_any(sample, forbidden):
            drops.add(item.task, "picture of a benchmark")
        elif twin := choice.offer(split, sample):
            drops.add(item.task, twin)
        else:
            known[how] += 1
            other_instruction += isinstance(item, Item) and item.other_instruction
    return {
        **tally.describe(),
        "turns": turns,
        "usable": dict(sorted(choice.offered[split].items())),
        "dropped": drops.describe(),
        "target_known_from": dict(sorted(known.items())),
        "other_instruction": other_instruction,
    }


def make_sample(item: Item, index: PoolIndex, sizes: PoolSizes) -> tuple[Sample | None, str]:
    """(sample, how its image is known), or (None, why it is left out)."""
    if item.task not in sizes.tasks:
        return None, "task not wanted"
    image, how = find_target(item, index)
    if image is None:
        return None, how
    target, cluster = BoxTarget(image, item.box_unit), "|".join(sorted(item.images))
    return Sample(item.uid, "univg", item.task, item.images, item.question, target, cluster, item.thought), how


def choose_from_records(
    records: Mapping[str, Path], sizes: PoolSizes, forbidden: Container[str | None]
) -> tuple[Chosen, dict[str, Any]]:
    """`choose_stages` with the catalogue's files."""
    return choose_stages(records["univg"].parent, records["mgrounding"], sizes, forbidden)


UNIVG = Pool(
    entries={"univg": None, "coco": SINGLE_IMAGE, "mgrounding": None},
    pictures={"mgrounding": POOL_FOLDER, "coco": COCO_FOLDER},
    choose=choose_from_records,
)
