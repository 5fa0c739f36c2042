"""A training pool: which of its samples a split takes, within sizes that bound the memory."""

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from migrl.grounding.samples import Sample

Split = Literal["cot", "rl"]
_MAX_REASONS = 40
_SIX_DIGITS, _LETTER = re.compile(r"\d{6}"), re.compile(r"[A-Za-z]")


@dataclass(frozen=True)
class PoolSizes:
    """How many samples a split takes of each task, one count for all or one for each, and the seed that decides which.

    A mapping names every one of `tasks`; samples of other tasks are not taken. `broken_share` of a file's records, and
    of the pictures, may be unusable.
    """

    cot: int | Mapping[str, int]
    rl: int | Mapping[str, int]
    seed: int
    tasks: tuple[str, ...]
    broken_share: float = 0.0

    def find_limit(self, split: Split, task: str) -> int:
        """The most samples of a task that a split takes."""
        counts = self.cot if split == "cot" else self.rl
        return counts if isinstance(counts, int) else counts[task]

    def find_split(self, task: str, cluster: str) -> Split:
        """The one split that a set of images of this task may belong to: by its hash, in proportion to the sizes."""
        cot, rl = self.find_limit("cot", task), self.find_limit("rl", task)
        return "cot" if hash_text(self.seed, cluster) < cot / (cot + rl) else "rl"


Chosen = dict[Split, list[Sample]]


@dataclass(frozen=True)
class Pool:
    """A published pool of training samples: the entries of the catalogue that it needs, and how samples are chosen.

    Attributes:
        entries: names in the catalogue, each with the task that needs it, or None: always needed. An archive of
            theirs that unpacks into a task's folder is fetched for that task only, once the samples are chosen.
        pictures: of those entries, where the pictures are laid out in the data folder.
        choose: reads (annotation files by entry, sizes, pictures that a benchmark shows); returns the samples of both
            splits, images below the data folder, and what was counted on the way.
    """

    entries: Mapping[str, str | None]
    pictures: Mapping[str, str]
    choose: Callable[[Mapping[str, Path], PoolSizes, Container[str | None]], tuple[Chosen, dict[str, Any]]]


class Drops:
    """What was left out, counted by task and reason; a file may hold any number of reasons, a count only so many."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, task: str, reason: str, number: int = 1) -> None:
        reasons = self._counts.setdefault(task, Counter())
        reasons[reason if reason in reasons or len(reasons) < _MAX_REASONS else "other reasons"] += number

    def describe(self) -> dict[str, dict[str, int]]:
        return {task: dict(sorted(reasons.items())) for task, reasons in sorted(self._counts.items())}


class Choice:
    """Of every split and task the samples with the smallest hashes, up to the sizes.

    So memory is bounded by the sizes, and what is chosen depends on the seed and not on the order of the file. The
    hash is of images and question: what is asked twice meets its twin here, and one answered in two ways goes.
    """

    def __init__(self, sizes: PoolSizes) -> None:
        self.sizes = sizes
        self.offered: dict[Split, Counter[str]] = {"cot": Counter(), "rl": Counter()}
        self._heaps: dict[tuple[Split, str], list[int]] = {}
        self._kept: dict[tuple[Split, str], dict[int, Sample | None]] = {}

    def offer(self, split: Split, sample: Sample) -> str:
        """Take a sample, as long as none with a smaller hash has its place.

        Returns:
            Why it was refused: its question was asked before over the same images, by a sample that is held.
        """
        heap, kept = self._heaps.setdefault((split, sample.task), []), self._kept.setdefault((split, sample.task), {})
        key = _digest(self.sizes.seed, "\n".join((*sample.images, sample.question)))
        if key in kept:
            twin = kept[key]
            if twin is not None and twin.target == sample.target:
                return "asked twice"
            kept[key] = None
            return "asked twice with several answers"
        self.offered[split][sample.task] += 1
        # Negated: the root of the heap is the largest of the kept hashes.
        if len(heap) < self.sizes.find_limit(split, sample.task):
            heapq.heappush(heap, -key)
            kept[key] = sample
        elif key < -heap[0]:
            del kept[-heapq.heapreplace(heap, -key)]
            kept[key] = sample
        return ""

    def list_samples(self, split: Split) -> list[Sample]:
        """The samples of a split, in the order of their records."""
        samples = [s for (name, _), kept in self._kept.items() if name == split for s in kept.values() if s is not None]
        return sorted(samples, key=lambda sample: [int(part) for part in sample.uid.split(":") if part.isdigit()])

    def describe(self) -> dict[str, Any]:
        """Chosen samples of each split and task, those withdrawn because a twin has another answer, and pictures that
        both splits show in different sets."""
        chosen: dict[Split, list[Sample]] = {"cot": self.list_samples("cot"), "rl": self.list_samples("rl")}
        shown = [{image for sample in samples for image in sample.images} for samples in chosen.values()]
        withdrawn = sum(sample is None for kept in self._kept.values() for sample in kept.values())
        counts = count_tasks(chosen, self.sizes.tasks)
        return {"chosen": counts, "withdrawn": withdrawn, "pictures_in_both": len(shown[0] & shown[1])}


def count_tasks(chosen: Mapping[Split, list[Sample]], tasks: Iterable[str]) -> dict[Split, dict[str, int]]:
    """Samples of each split by task, also where there are none; tasks by name."""
    found = {split: Counter(sample.task for sample in samples) for split, samples in chosen.items()}
    return {split: {task: found[split][task] for task in sorted(tasks)} for split in chosen}


def identify_picture(path: str) -> str | None:
    """The stem of a file name that tells a picture apart in its own data set, such as `objects365_v2_00900003`.

    It has a letter and a number of six digits; a frame's `00000001` or a `case001` says nothing.
    """
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return stem if _SIX_DIGITS.search(stem) and _LETTER.search(stem) else None


def shows_any(sample: Sample, forbidden: Container[str | None]) -> bool:
    """Whether a sample shows a picture that is `forbidden` by `identify_picture`, because a benchmark shows it."""
    return any((name := identify_picture(image)) and name in forbidden for image in sample.images)


def hash_text(seed: int, text: str) -> float:
    """A number of 0 to 1 that the seed and the text fix."""
    return _digest(seed, text) / (1 << 64)


def _digest(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest())
