"""UniVG-R1's stages: in which image a box lies, and which samples the splits take (the rules: data/univg.py)."""

import hashlib
from collections import Counter
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from migrl.benchmarks.fields import open_record
from migrl.boxes import Box
from migrl.data.json_stream import stream_records
from migrl.data.mgrounding import FIXED_IMAGE, ROOT, convert_record
from migrl.data.pool import Choice, Drops, PoolSizes, Split, shows_any
from migrl.data.univg import POOL_FOLDER, STAGES, Drop, Item, read_stage
from migrl.mentions import find_images
from migrl.records import BoxTarget, Sample


class PoolIndex:
    """In which image MGrounding-630k says that a box lies, for the sets of images that the stages show."""

    def __init__(self, items: Iterator[Item | Drop]) -> None:
        self._wanted = {_digest(item.images) for item in items if isinstance(item, Item)}
        self._images: dict[int, int | None] = {}

    def read(self, path: Path) -> None:
        """Look through MGrounding-630k.json; what it says in two ways counts as not said.

        Raises:
            UserError: a torn file or a broken record.
        """
        for index, data in stream_records(path):
            record = open_record(path, index, data, ("images", "conversations"), optional=None)
            images = tuple(f"{POOL_FOLDER}/{name.removeprefix(f'{ROOT}/')}" for name in record.paths("images"))
            if _digest(images) not in self._wanted:
                continue
            for sample in convert_record(path, index, data).samples:
                assert isinstance(sample.target, BoxTarget)
                key, image = _digest(images, sample.target.box_unit), sample.target.image
                self._images[key] = image if self._images.get(key, image) == image else None

    def find(self, item: Item) -> int | None:
        return self._images.get(_digest(item.images, item.box_unit))


def _digest(images: tuple[str, ...], box: Box | None = None) -> int:
    """Eight bytes instead of long paths: there are a hundred thousand sets of images."""
    return int.from_bytes(hashlib.blake2b(f"{images}{box or ''}".encode(), digest_size=8).digest())


def find_target(item: Item, index: PoolIndex) -> tuple[int | None, str]:
    """(image, how it is known), or (None, why it is not)."""
    named = find_images(item.question)
    if len(item.images) == 1:
        image, how = 1, "one picture"
    elif (said := index.find(item)) is not None:
        image, how = said, "MGrounding-630k"
    elif item.task in FIXED_IMAGE:
        image, how = FIXED_IMAGE[item.task], "task"
    elif len(named) == 1:
        image, how = named.pop(), "question"
    elif not named and len(thought := find_images(item.thought)) == 1:
        image, how = thought.pop(), "thought"
    else:
        return None, "several images named" if named else "no image named"
    return (image, how) if 1 <= image <= len(item.images) else (None, "image out of range")


def choose_stages(
    folder: Path, pool: Path, sizes: PoolSizes, forbidden: Container[str | None] = ()
) -> tuple[dict[Split, list[Sample]], dict[str, Any]]:
    """The samples of both splits, images below the data folder, and what was counted on the way.

    Args:
        folder: where the stage files lie.
        pool: MGrounding-630k.json.
        sizes: samples of each task; `Single_Image` is one of them if questions over one picture are wanted.
        forbidden: pictures that a benchmark shows, by `identify_picture`; nothing is trained on them.

    Raises:
        UserError: a torn file, or a record that is not of the known form.
    """
    index = PoolIndex(item for split, name in STAGES.items() for item in read_stage(folder / name, split))
    index.read(pool)
    choice = Choice(sizes)
    rl = _offer_stage(folder, "rl", index, choice, forbidden, taken=set())
    taken = {sample.cluster for sample in choice.list_samples("rl")}
    cot = _offer_stage(folder, "cot", index, choice, forbidden, taken)
    return {split: choice.list_samples(split) for split in STAGES}, {"cot": cot, "rl": rl, **choice.describe()}


def _offer_stage(
    folder: Path, split: Split, index: PoolIndex, choice: Choice, forbidden: Container[str | None], taken: set[str]
) -> dict[str, Any]:
    """Offer every usable sample of a stage; count the rest by reason."""
    drops, known, turns, other_instruction = Drops(), Counter[str](), 0, 0
    for item in read_stage(folder / STAGES[split], split):
        turns += 1
        sample, how = (None, item.reason) if isinstance(item, Drop) else make_sample(item, index, choice.sizes)
        if sample is None:
            drops.add(item.task, how)
        elif sample.cluster in taken:
            drops.add(item.task, "images of an RL sample")
        elif shows_any(sample, forbidden):
            drops.add(item.task, "picture of a benchmark")
        else:
            known[how] += 1
            other_instruction += isinstance(item, Item) and item.other_instruction
            choice.offer(split, sample)
    return {
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
