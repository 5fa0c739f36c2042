"""MIG-Bench, original and revised: ten multi-image grounding tasks.

Source      original: Hub dataset Michael4933/MIG-Bench, `MIG_data.json`, 4,295 records (arXiv 2501.05767).
            revised: Hub dataset GD-ML/UniVG-R1-data, `revised_MIG_bench.json`, 4,276 records, the same images.
Version     told apart by content: answers are decimals 0 to 1 in the original, integers 0 to 1000 in the revised
            file. The two are not interchangeable; every score names its version.
Licence     Apache-2.0 (original), MIT (revised). Pictures keep the terms of their sources.
Target      image 1 in region; 2 in view_diff, refer_grounding, reasoning, correspondence; the "Nth" of the question
            in common_object, object_tracking, multi_view and (revised) diff; the ordinal of `additional_info` in
            group_grounding. Not trusted, so that a hit needs the box only: original diff (any of two aligned
            pictures), and the 126 revised group_grounding records whose `additional_info` no longer fits the answer.
Scorer      original: Migician `eval/`; revised: UniVG-R1 `eval/MIG_bench/`. Both: first hit of the same cascade of
            patterns, continuous IoU, hits at >= 0.7, 0.5, 0.3, no look at the image chosen; they differ in decimals.
            Published averages are unweighted means over the ten tasks at 0.5.
Different   IoUs are exact rationals, so a box that reaches a threshold exactly counts on every machine; the
            scripts use floating point. Numbers of more than 32 characters are a failed parse. Defects of the
            original file (five inverted boxes, two beyond the picture, one question with two answers) are counted
            and stay in the denominators.
Checked     rescoring the stored Qwen2-VL-7B outputs on the revised file gives the official counts of every task.
"""

import re
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item, OfficialRule
from migrl.benchmarks.box_parsers import MIG_BENCH_OFFICIAL, MIG_BENCH_PARSERS
from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.fields import Record, open_record, read_json_list
from migrl.benchmarks.readings import ExactBox
from migrl.grounding.samples import BoxTarget, Defect, Sample

KEYS = ("task", "images", "question", "answer", "additional_info", "need_format")
TASKS = (
    "diff",
    "view_diff",
    "common_object",
    "object_tracking",
    "multi_view",
    "region",
    "refer_grounding",
    "group_grounding",
    "reasoning",
    "correspondence",
)
MAX_ORIGINAL = 1.1  # the published file goes up to 1.048; another frame would go far beyond
COUNTS = {"original": 4295, "revised": 4276}
_IMAGES = {  # fewest and most pictures of a task's records, in both versions
    **dict.fromkeys(("diff", "view_diff", "refer_grounding", "reasoning", "correspondence"), (2, 2)),
    "common_object": (3, 5),
    "object_tracking": (6, 6),
    "multi_view": (2, 6),
    "region": (2, 4),
    "group_grounding": (3, 5),
}
_SECOND = ("view_diff", "refer_grounding", "reasoning", "correspondence")
_NTH = ("common_object", "object_tracking", "multi_view")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
_NTH_TEXT = re.compile(r"\b([1-9])th\b")
_ORDINAL_TEXT = re.compile(r"\b(" + "|".join(_ORDINALS) + r")\b")
_INFO_BOX = re.compile(r"\((\d{1,4}),(\d{1,4})\),\((\d{1,4}),(\d{1,4})\)")


def load_mig_bench(annotations: Path, images: Path, name: str = "mig_bench") -> Annotations:
    """Every record of either version; uids are `<name>:<index in the file>`. Images are not opened.

    Raises:
        UserError: a broken file or record, naming file, index and key.
    """
    rows = read_json_list(annotations)
    records = [open_record(annotations, index, row, KEYS) for index, row in enumerate(rows)]
    version = tell_version(records)
    parsed = [_parse_record(record, version, name) for record in records]
    clusters = name_clusters([tuple(f"{item.sample.task}/{path}" for path in item.sample.images) for item in parsed])
    items = tuple(
        replace(item, sample=replace(item.sample, cluster=cluster))
        for item, cluster in zip(parsed, clusters, strict=True)
    )
    return Annotations(version, items, _count_defects(items))


def tell_version(records: list[Record]) -> str:
    """`revised` if at least as many answers are whole numbers as are decimals of 0 to 1, else `original`.

    Every answer has a vote, and one that is neither has none: a single broken record is an error later, in its place.
    """
    whole = sum(_is_whole(record.data["answer"]) for record in records)
    decimal = sum(_is_decimal(record.data["answer"]) for record in records)
    return "revised" if whole >= decimal and whole else "original"


def _is_whole(answer: Any) -> bool:
    return isinstance(answer, list) and all(type(v) is int for v in answer)


def _is_decimal(answer: Any) -> bool:
    return isinstance(answer, list) and all(type(v) is float and 0 <= v <= MAX_ORIGINAL for v in answer)


def _parse_record(record: Record, version: str, name: str) -> Item:
    task = record.text("task")
    if task not in TASKS:
        raise record.fail("task", f"{task!r} is none of {', '.join(TASKS)}")
    images = record.paths("images")
    fewest, most = _IMAGES[task]
    if not fewest <= len(images) <= most:
        raise record.fail("images", f"{task} has {fewest} to {most} pictures, not {len(images)}")
    question = record.text("question")
    info = record.text("additional_info", empty=True)
    record.flag("need_format")
    box, defect = _read_answer(record, version)
    image, trusted = _find_target(record, task, len(images), question, info, version, box)
    if image > len(images):
        raise record.fail("images", f"the box lies in image {image}, but there are {len(images)}")
    x1, y1, x2, y2 = (float(v) for v in box)
    target = BoxTarget(image, (x1, y1, x2, y2), trusted, defect)
    sample = Sample(f"{name}:{record.index}", name, task, images, question, target, cluster="")
    return Item(sample, exact_box_unit=box)


def _read_answer(record: Record, version: str) -> tuple[ExactBox, Defect]:
    """The answer in unit frame, exactly as the file's decimals say, and its defect."""
    numbers = record.numbers("answer", record.data["answer"])
    if version == "revised":
        if not _is_whole(record.data["answer"]) or max(numbers) > 1000:
            raise record.fail("answer", f"must be whole numbers 0 to 1000 as in the rest of the file, not {numbers}")
        x1, y1, x2, y2 = (Fraction(v, 1000) for v in numbers)  # type: ignore[arg-type]
    else:
        if max(numbers) > MAX_ORIGINAL:
            raise record.fail("answer", f"must be decimals 0 to 1 as in the rest of the file, not {numbers}")
        x1, y1, x2, y2 = (Fraction(str(v)) for v in numbers)
    if max(x1, y1, x2, y2) > 1:
        return (x1, y1, x2, y2), "out_of_range"
    return (x1, y1, x2, y2), "" if x1 < x2 and y1 < y2 else "inverted"


def _find_target(
    record: Record, task: str, count: int, question: str, info: str, version: str, box: ExactBox
) -> tuple[int, bool]:
    """1-based number of the image the box lies in, and whether the file says so reliably."""
    nth = _NTH_TEXT.findall(question)
    if task == "region":
        if len(set(nth)) != 1 or int(nth[0]) >= count:
            raise record.fail("question", f"must name one of {count - 1} parts as 1th, 2th, ...; found {nth}")
        return 1, True
    if task in _SECOND:
        return 2, True
    if task == "group_grounding":
        ordinal, numbers = _ORDINAL_TEXT.search(info), _INFO_BOX.search(info)
        if ordinal is None:
            raise record.fail("additional_info", "names no image (first to sixth)")
        fits = numbers is not None and tuple(Fraction(v) / 1000 for v in numbers.groups()) == box
        return _ORDINALS.index(ordinal[1]) + 1, fits
    if task == "diff" and version == "original" and not nth:
        return 1, False
    if len(set(nth)) != 1:
        raise record.fail("question", f"must name one image as 1th, 2th, ...; found {nth}")
    return int(nth[0]), True


def _count_defects(items: tuple[Item, ...]) -> dict[str, tuple[str, ...]]:
    """Uids by kind of defect; kinds that do not occur are left out."""
    asked = Counter((item.sample.images, item.sample.question) for item in items)
    kinds: dict[str, list[str]] = {}
    for item in items:
        target = item.sample.target
        assert isinstance(target, BoxTarget)
        if target.defect:
            kinds.setdefault(target.defect, []).append(item.sample.uid)
        if not target.image_trusted:
            kinds.setdefault("image_not_trusted", []).append(item.sample.uid)
        if asked[item.sample.images, item.sample.question] > 1:
            kinds.setdefault("asked_twice", []).append(item.sample.uid)
    return {kind: tuple(uids) for kind, uids in sorted(kinds.items())}


def _describe(name: str, version: str) -> Benchmark:
    rule = MIG_BENCH_OFFICIAL[version]
    official = OfficialRule(rule, MIG_BENCH_PARSERS[rule])
    return Benchmark(name, load_mig_bench, MIG_BENCH_PARSERS, COUNTS, compat=MIG_BENCH_OFFICIAL, official=official)


MIG_BENCH = _describe("mig_bench", "revised")
MIG_BENCH_ORIGINAL = _describe("mig_bench_original", "original")
