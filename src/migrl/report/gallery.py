"""The sample gallery: which samples are shown, their pictures, and what each arm answered.

The choice is a rule, not a taste: for every task the first sample (by uid) that RL fixed, the first
it broke and the first of the rest, and for every benchmark one of each kind of unreadable answer.
"""

import base64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image

from migrl.answers import READABLE
from migrl.boxes import Box, convert_box
from migrl.errors import UserError

Row = Mapping[str, Any]
Outcome = Literal["fixed", "broken", "both_hit", "both_miss"]

LOSSLESS_SIDE_PX = 256  # smaller pictures stay exact and are shown with hard pixels
SHOWN_SIDE_PX = 448  # larger ones are scaled down to this
PICTURE_BUDGET = 3_200_000  # base64 characters of all pictures, so that the report stays below 6 MB
THOUGHT_CHARS = (900, 300)  # shown from the head and the tail of an overlong thought
ANSWER_CHARS = (300, 100)
_RANK: dict[Outcome, int] = {"fixed": 0, "broken": 1, "both_hit": 2, "both_miss": 2}


@dataclass(frozen=True)
class Picture:
    """One image file, embedded once and used by reference. Sizes in original px."""

    key: str
    width: int
    height: int
    data_uri: str
    pixelated: bool


@dataclass(frozen=True)
class Shot:
    """A picture as one sample shows it: its 1-based number and the boxes over it, in original px."""

    picture: Picture
    number: int
    is_target: bool
    true_box_px: Box | None
    predicted_box_px: Box | None = None


@dataclass(frozen=True)
class Part:
    """A piece of a completion. For kind `omitted`, `text` says how much is not shown."""

    kind: Literal["thought", "answer", "omitted"]
    text: str


@dataclass(frozen=True)
class Reply:
    """What one arm answered; `shot` is the image it names, with both boxes."""

    row: Row
    readable: bool
    parts: tuple[Part, ...]
    shot: Shot | None


@dataclass(frozen=True)
class Entry:
    """One sample of the gallery. `row` is any of its rows, for what they share: uid, task, question, target."""

    row: Row
    outcome: Outcome
    shots: tuple[Shot, ...]
    replies: tuple[Reply, ...]


@dataclass(frozen=True)
class Gallery:
    """The chosen samples, their pictures, the two arms that outcomes compare, and how many did not fit."""

    entries: tuple[Entry, ...]
    pictures: tuple[Picture, ...]
    before: str
    after: str
    left_out: int


def build_gallery(rows: Iterable[Row], arms: Sequence[str], images_root: Path) -> Gallery:
    """Choose samples and embed their images.

    Args:
        rows: evaluation sample rows; (arm, uid) is unique.
        arms: order in which replies stand side by side.
        images_root: the folder that the rows' image paths are relative to.

    Raises:
        UserError: an image is missing, unreadable or outside `images_root`, or a row comes twice.
    """
    before, after = ("sft", "rl") if {"sft", "rl"} <= set(arms) else (arms[0], arms[-1]) if arms else ("", "")
    samples = _group_rows(rows)
    outcomes = {uid: _judge(sample, before, after) for uid, sample in samples.items()}
    pictures: dict[str, Picture] = {}
    entries: list[Entry] = []
    left_out = spent = 0
    for uid in _choose(samples, outcomes):
        row = next(iter(samples[uid].values()))
        fresh: dict[str, Picture] = {}
        for path, size in zip(row["images"], row["sizes"], strict=True):
            if path not in pictures and path not in fresh:
                fresh[path] = _embed(images_root, path, size, f"p{len(pictures) + len(fresh)}")
        cost = sum(len(picture.data_uri) for picture in fresh.values())
        if spent + cost > PICTURE_BUDGET:
            left_out += 1
            continue
        spent += cost
        pictures |= fresh
        shots = tuple(_frame(row, pictures[path], number) for number, path in enumerate(row["images"], start=1))
        replies = tuple(_read_reply(samples[uid][arm], shots) for arm in arms if arm in samples[uid])
        entries.append(Entry(row, outcomes[uid], shots, replies))
    places = {uid: place for place, uid in enumerate(samples)}
    starts: dict[tuple[str, str], int] = {}
    for entry in sorted(entries, key=lambda entry: places[entry.row["uid"]]):
        starts.setdefault(_task_key(entry.row), places[entry.row["uid"]])
    entries.sort(key=lambda e: (starts[_task_key(e.row)], _RANK[e.outcome], places[e.row["uid"]]))
    return Gallery(tuple(entries), tuple(pictures.values()), before, after, left_out)


def _task_key(row: Row) -> tuple[str, str]:
    return (row["benchmark"], row["task"])


def _group_rows(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """uid -> arm -> row; benchmarks and tasks in the order of the rows, uids sorted within a task."""
    order: dict[tuple[str, str], int] = {}
    samples: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        order.setdefault(_task_key(row), len(order))
        if row["arm"] in samples[row["uid"]]:
            raise UserError(f"samples.jsonl: sample {row['uid']} of arm {row['arm']} comes twice; evaluate again")
        samples[row["uid"]][row["arm"]] = row

    def place(uid: str) -> tuple[int, str]:
        row = next(iter(samples[uid].values()))
        return (order[_task_key(row)], uid)

    return {uid: samples[uid] for uid in sorted(samples, key=place)}


def _judge(sample: Mapping[str, Row], before: str, after: str) -> Outcome:
    hit_before, hit_after = (bool(sample[arm]["hit"]) if arm in sample else False for arm in (before, after))
    if hit_before == hit_after:
        return "both_hit" if hit_after else "both_miss"
    return "fixed" if hit_after else "broken"


def _choose(samples: Mapping[str, Mapping[str, Row]], outcomes: Mapping[str, Outcome]) -> list[str]:
    """Chosen uids, most telling first: should the pictures not fit, every task loses its last sample first."""
    firsts: dict[tuple[str, str, int], str] = {}
    failures: dict[tuple[str, str], str] = {}
    for uid, sample in samples.items():
        for row in sample.values():
            firsts.setdefault((*_task_key(row), _RANK[outcomes[uid]]), uid)
            if row["status"] not in READABLE:
                failures.setdefault((row["benchmark"], row["status"]), uid)
    chosen = [firsts[key] for key in sorted(firsts, key=lambda key: key[2])]
    shown = {(row["benchmark"], row["status"]) for uid in chosen for row in samples[uid].values()}
    chosen += [uid for key, uid in failures.items() if key not in shown]
    return list(dict.fromkeys(chosen))


def _embed(images_root: Path, path: str, size: Sequence[int], key: str) -> Picture:
    """Read an image and encode it anew, which drops metadata and anything that is not the picture."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise UserError(f"{path}: the image leaves the folder {images_root}; correct the sample's path")
    file = images_root / path
    if not file.is_file():
        raise UserError(f"{file}: no such image, but a sample shows it; run the stage that made the images again")
    lossless = max(size) <= LOSSLESS_SIDE_PX
    data = BytesIO()
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        image.thumbnail((SHOWN_SIDE_PX, SHOWN_SIDE_PX))
        image.save(data, format="PNG" if lossless else "JPEG", optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file}: not a readable image ({error}); restore the file") from error
    encoded = base64.b64encode(data.getvalue()).decode("ascii")
    kind = "png" if lossless else "jpeg"
    return Picture(key, int(size[0]), int(size[1]), f"data:image/{kind};base64,{encoded}", lossless)


def _frame(row: Row, picture: Picture, number: int) -> Shot:
    target = row["target"]
    if target.get("image") != number:
        return Shot(picture, number, is_target=False, true_box_px=None)
    size = (picture.width, picture.height)
    box_px = convert_box(tuple(target["box_unit"]), "unit", "original_px", original_size=size, resized_size=size)
    return Shot(picture, number, is_target=True, true_box_px=box_px)


def _read_reply(row: Row, shots: Sequence[Shot]) -> Reply:
    boxes, number, shot = row.get("boxes"), row.get("image"), None
    if boxes and isinstance(number, int) and 1 <= number <= len(shots):
        seen = shots[number - 1]
        shot = Shot(seen.picture, number, seen.is_target, seen.true_box_px, tuple(boxes["original_px"]))
    return Reply(row, row["status"] in READABLE, split_completion(row["completion"]), shot)


def split_completion(completion: str) -> tuple[Part, ...]:
    """Thought and answer (from the last `<answer>` on) as they stand; the middle of overlong ones is left out."""
    start = completion.rfind("<answer>")
    thought, answer = (completion, "") if start < 0 else (completion[:start], completion[start:])
    return (*_shorten("thought", thought, *THOUGHT_CHARS), *_shorten("answer", answer, *ANSWER_CHARS))


def _shorten(kind: Literal["thought", "answer"], text: str, head: int, tail: int) -> list[Part]:
    omitted = len(text) - head - tail
    if omitted <= 0:
        return [Part(kind, text)] if text.strip() else []
    note = Part("omitted", f"{omitted:,} of {len(text):,} characters not shown")
    return [Part(kind, text[:head]), note, Part(kind, text[-tail:])]
