"""BLINK: 14 perception tasks as multiple choice, 1 to 4 images.

Source      Hub dataset BLINK-Benchmark/BLINK (arXiv 2404.12390), `<Config>/val-*.parquet`, 1,901 items. The
            answers of the test split are hidden, so only val can be scored here.
Version     the labels of Relative_Reflectance were about 90 % wrong until September 2025 (BLINK_Benchmark #13).
            The version names the labels a file has: the old ones, known by the hash of that task's
            answers, or others, named by their hash (that of the corrected ones was not published). The plain answers
            file of the project's repository (`val_answers.json`) has the old ones.
Licence     Apache-2.0.
Target      a letter.
Scorer      `eval/test_benchmark.py`, `evaluate.py`: letter rule of `letter_parsers.read_blink`, mean over 14 tasks.
Different   no language-model matcher: what the letter rule does not decide is a miss, and counted. Three subsets
            stand beside the mean: multi_image (the 8 tasks with several images), without_relative_reflectance (13).
            lmms-eval averages over tasks as well; VLMEvalKit over items (our `micro`).
Checked     stored GPT-4o replies on val: every letter that the rule decides equals the stored official one.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item
from migrl.benchmarks.fields import Record, open_record, read_json_file
from migrl.benchmarks.letter_parsers import BLINK_PARSERS
from migrl.benchmarks.parquet import list_parquet, pick_suffix, read_pictures, read_rows, write_picture
from migrl.errors import UserError
from migrl.grounding.samples import ChoiceTarget, Sample
from migrl.progress import track

OPTIONS = {
    "Art_Style": 2,
    "Counting": 4,
    "Forensic_Detection": 4,
    "Functional_Correspondence": 4,
    "IQ_Test": 4,
    "Jigsaw": 2,
    "Multi-view_Reasoning": 2,
    "Object_Localization": 2,
    "Relative_Depth": 2,
    "Relative_Reflectance": 3,
    "Semantic_Correspondence": 4,
    "Spatial_Relation": 2,
    "Visual_Correspondence": 4,
    "Visual_Similarity": 2,
}
"""Options of each task, for the answers file, which does not hold them."""

MULTI_IMAGE = (
    "Art_Style",
    "Forensic_Detection",
    "Functional_Correspondence",
    "Jigsaw",
    "Multi-view_Reasoning",
    "Semantic_Correspondence",
    "Visual_Correspondence",
    "Visual_Similarity",
)
PICTURES = ("image_1", "image_2", "image_3", "image_4")
REFLECTANCE_ITEMS = 134
OLD_VERSION = "val, old labels of Relative_Reflectance"
COUNTS = {OLD_VERSION: 1901}
_OLD_REFLECTANCE = "fff44e0563eab7a9b2ddfec8158f30cc0dbcd20c8fabdf05a2defa5cdbf091bb"
_IDX = re.compile(r"val_(?P<task>[A-Za-z_-]+)_[1-9][0-9]*")
_ANSWER = re.compile(r"\(([A-E])\)")


def load_blink(annotations: Path, images: Path, name: str = "blink") -> Annotations:
    """Every val item of the parquet files below `annotations`, or of the plain answers file; uids are `<name>:<idx>`.

    Raises:
        UserError: a broken file or record, naming file, index and key.
    """
    if annotations.suffix == ".json":
        items = _load_answers(annotations, name)
    else:
        items = []
        columns: dict[str, str | None] = dict.fromkeys(("idx", "sub_task", "prompt", "choices", "answer"))
        columns |= dict.fromkeys(PICTURES, "path")
        for path in list_parquet(annotations, "val-*.parquet"):
            rows = read_rows(path, columns)
            items += [_parse_row(open_record(path, i, row, columns), name) for i, row in enumerate(rows)]
    for uid, count in Counter(item.sample.uid for item in items).items():
        if count > 1:
            raise UserError(f"{annotations}: {uid!r} comes twice; fetch the files again into an empty folder")
    return Annotations(_tell_version(items), tuple(items))


def _load_answers(path: Path, name: str) -> list[Item]:
    data = read_json_file(path)
    if not isinstance(data, dict) or not data:
        raise UserError(f"{path}: must map idx to answer, as val_answers.json does; name that file")
    items = []
    for index, (idx, answer) in enumerate(data.items()):
        record = Record(path, index, {"idx": idx, "answer": answer})
        task = _find_task(record)
        items.append(_build_item(record, name, task, (), "", (), OPTIONS[task]))
    return items


def _parse_row(record: Record, name: str) -> Item:
    task = _find_task(record)
    if record.text("sub_task") != task:
        raise record.fail("sub_task", f"{record.data['sub_task']!r} does not fit idx {record.data['idx']!r}")
    choices = record.texts("choices")
    pictures = [(key, record.data[key]) for key in PICTURES if record.data[key] is not None]
    for key in PICTURES[: max((PICTURES.index(key) for key, _ in pictures), default=0) + 1]:
        if record.data[key] is None:
            raise record.fail(key, "missing")
    idx = record.data["idx"]
    images = tuple(f"{idx}_{key.removeprefix('image_')}{pick_suffix(picture)}" for key, picture in pictures)
    return _build_item(record, name, task, images, record.text("prompt"), choices, len(choices))


def _find_task(record: Record) -> str:
    match = _IDX.fullmatch(record.text("idx"))
    if match is None or match["task"] not in OPTIONS:
        raise record.fail("idx", f"{record.data['idx']!r} must be val_<task>_<number> of one of BLINK's 14 tasks")
    return match["task"]


def _build_item(
    record: Record, name: str, task: str, images: tuple[str, ...], question: str, choices: tuple[str, ...], options: int
) -> Item:
    answer = _ANSWER.fullmatch(record.text("answer"))
    if answer is None or ord(answer[1]) - ord("A") >= options:
        raise record.fail("answer", f"{record.data['answer']!r} is none of (A) to ({chr(ord('A') + options - 1)})")
    target = ChoiceTarget(answer[1], options)
    uid = f"{name}:{record.data['idx']}"
    return Item(Sample(uid, name, task, images, question, target, cluster=uid), choices=choices)


def _tell_version(items: list[Item]) -> str:
    answers: dict[str, Any] = {}
    for item in items:
        assert isinstance(item.sample.target, ChoiceTarget)
        if item.sample.task == "Relative_Reflectance":
            answers[item.sample.uid.split(":", 1)[1]] = f"({item.sample.target.letter})"
    if not answers:
        return "val, without Relative_Reflectance"
    if len(answers) != REFLECTANCE_ITEMS:
        return f"val, {len(answers)} of {REFLECTANCE_ITEMS} labels of Relative_Reflectance"
    digest = hashlib.sha256(json.dumps(answers, sort_keys=True).encode()).hexdigest()
    return OLD_VERSION if digest == _OLD_REFLECTANCE else f"val, labels {digest[:12]} of Relative_Reflectance"


def extract_pictures(annotations: Path, images: Path) -> int:
    """Write every picture of the val files below `images`; return how many."""
    count = 0
    for path in track(list_parquet(annotations, "val-*.parquet"), "writing pictures"):
        for idx, column, pictures in read_pictures(path, list(PICTURES), "idx"):
            for picture in pictures:
                name = f"{idx}_{column.removeprefix('image_')}{pick_suffix(picture)}"
                write_picture(images, name, picture, f"{path}, idx {idx!r}, column {column!r}")
                count += 1
    return count


BLINK = Benchmark(
    "blink",
    load_blink,
    BLINK_PARSERS,
    COUNTS,
    subsets={
        "multi_image": lambda task: task in MULTI_IMAGE,
        "without_relative_reflectance": lambda task: task != "Relative_Reflectance",
    },
    extract=extract_pictures,
)
