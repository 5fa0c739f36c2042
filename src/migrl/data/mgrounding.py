"""MGrounding-630k as training samples: one box, and an image that the record names without doubt.

Source      Hub dataset Michael4933/MGrounding-630k (arXiv 2501.05767), `MGrounding-630k.json`: one list of about
            630,000 records of several turns. Boxes are thousandths of their image, in box tokens.
Licence     Apache-2.0 for the conversations; SA-1B, ImageNet, TrackingNet, LaSOT, Objects365 and COCO pictures keep
            their own terms.
Target      which image a box lies in stands in prose only. Region_Locating: image 1, the source picture.
            Referring_Grounding: image 2. Every other task: the one ordinal ("third image", "Image-3", "3th") of the
            answer, else of the question. A turn that names none, or several, is dropped and counted, never guessed.
Kept        turns whose answer holds exactly one sound box. A turn is a sample of its own: its question stands alone.
Checked     against the record printed in the authors' README; no real file was at hand. Counts by reason are part of
            the manifest, so that the first run shows what the rules do to the real data.
"""

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, get_args

from migrl.benchmarks.fields import REMEDY, Record, open_record
from migrl.errors import UserError
from migrl.recipe import MgroundingTask
from migrl.records import BoxTarget, Sample

ROOT = "MGrounding-630k"
TASKS: tuple[str, ...] = get_args(MgroundingTask)
_FIXED_IMAGE = {"Region_Locating": 1, "Referring_Grounding": 2}
_CHUNK_CHARS = 1 << 20
_MAX_RECORD_CHARS = 1 << 24  # no record comes near it; a file without a closing bracket must not fill the memory
_BOX = re.compile(r"<\|box_start\|>\s*\(([\d.]{1,8}),([\d.]{1,8})\),\s*\(([\d.]{1,8}),([\d.]{1,8})\)\s*<\|box_end\|>")
_WORDS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_ORDINAL = re.compile(
    rf"\b(?:({'|'.join(_WORDS)})|(\d{{1,2}})(?:st|nd|rd|th))\s+(?:image|picture|frame|photo)|\bimage\s?-?\s?(\d{{1,2}})\b",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(r"<image>\n?")


@dataclass(frozen=True)
class Conversion:
    """What one record gives: its task, its samples, and why other turns were dropped."""

    task: str
    samples: tuple[Sample, ...]
    dropped: Counter[str]


def stream_records(path: Path) -> Iterator[tuple[int, Any]]:
    """(index, record) of a JSON list, read in pieces: the file has 1.4 GB, a piece one MB.

    Raises:
        UserError: no such file, not UTF-8, not a list, or torn; the index of the record is named.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _scan_list(path, file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run `migrl fetch`") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); {REMEDY}") from error


def _scan_list(path: Path, file: TextIO) -> Iterator[tuple[int, Any]]:
    decoder = json.JSONDecoder()
    text, at, index, more = "", 0, 0, True

    def skip(characters: str) -> int:
        """Position of the next character that is none of these, reading on as needed."""
        nonlocal text, at, more
        while True:
            while at < len(text) and text[at] in characters:
                at += 1
            if at < len(text) or not more:
                return at
            piece = file.read(_CHUNK_CHARS)
            text, at, more = piece, 0, bool(piece)

    if skip(" \t\r\n\ufeff") >= len(text) or text[at] != "[":
        raise UserError(f"{path}: must be a JSON list of records; {REMEDY}")
    at += 1
    while True:
        if skip(" \t\r\n" + ("," if index else "")) >= len(text):
            raise UserError(f"{path}, record {index}: the file is torn, its list does not end; {REMEDY}")
        if text[at] == "]":
            return
        try:
            record, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            # The record may go on beyond this piece; what comes before it is not needed any more.
            piece = file.read(_CHUNK_CHARS) if more and len(text) - at < _MAX_RECORD_CHARS else ""
            if not piece:
                raise UserError(f"{path}, record {index}: torn or not JSON ({error}); {REMEDY}") from error
            text, at = text[at:] + piece, 0
            continue
        yield index, record
        index, at = index + 1, end


def convert_record(path: Path, index: int, data: Any) -> Conversion:
    """The samples of one record; uids are `mgrounding:<index>:<turn>`, the cluster is its set of images.

    Raises:
        UserError: the record is not of the published form, naming file, index and key.
    """
    record = open_record(path, index, data, ("images", "conversations"), optional=None)
    images = tuple(name.removeprefix(f"{ROOT}/") for name in record.paths("images"))
    task = images[0].split("/", 1)[0]
    turns = _read_turns(record)
    dropped: Counter[str] = Counter()
    if task not in TASKS:
        return Conversion("unknown", (), Counter({f"unknown task {task[:40]}": len(turns)}))
    samples = []
    for number, (question, answer) in enumerate(turns):
        image, box, reason = find_target(task, len(images), question, answer)
        if image is None or box is None:
            dropped[reason] += 1
            continue
        x1, y1, x2, y2 = (v / 1000 for v in box)
        target = BoxTarget(image, (x1, y1, x2, y2))
        uid = f"mgrounding:{index}:{number}"
        samples.append(Sample(uid, "mgrounding", task, images, question, target, cluster="|".join(sorted(images))))
    return Conversion(task, tuple(samples), dropped)


def _read_turns(record: Record) -> list[tuple[str, str]]:
    """(question, answer) pairs, image placeholders removed from the first question."""
    turns = record.data["conversations"]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise record.fail("conversations", "must be a list of pairs of turns")
    values = []
    for number, turn in enumerate(turns):
        speaker = ("human", "gpt")[number % 2]
        if not isinstance(turn, dict) or turn.get("from") != speaker or not isinstance(turn.get("value"), str):
            raise record.fail("conversations", f"turn {number} must be from {speaker}, with a text")
        values.append(turn["value"])
    marks = sum(value.count("<image>") for value in values)
    if marks != len(record.data["images"]):
        raise record.fail("conversations", f"{marks} image placeholders for {len(record.data['images'])} images")
    return [
        (_PLACEHOLDER.sub("", question).strip(), answer) for question, answer in zip(*[iter(values)] * 2, strict=True)
    ]


def find_target(
    task: str, image_count: int, question: str, answer: str
) -> tuple[int | None, tuple[float, float, float, float] | None, str]:
    """(image, box in permille, "") of one turn, or (None, None, reason)."""
    boxes = _BOX.findall(answer)
    if not question:
        return None, None, "no question"
    if len(boxes) != 1:
        return None, None, "no box" if not boxes else "several boxes"
    try:
        x1, y1, x2, y2 = (float(v) for v in boxes[0])
    except ValueError:
        return None, None, "broken box"
    if not (0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000):
        return None, None, "broken box"
    image = _FIXED_IMAGE.get(task)
    if image is None:
        named = find_images(answer) or find_images(question)
        if len(named) != 1:
            return None, None, "no image named" if not named else "several images named"
        image = named.pop()
    if not 1 <= image <= image_count:
        return None, None, "image out of range"
    return image, (x1, y1, x2, y2), ""


def find_images(text: str) -> set[int]:
    """Numbers of the images that a text names by an ordinal or as "Image-3"."""
    return {
        _WORDS.index(word.lower()) + 1 if word else int(nth or number) for word, nth, number in _ORDINAL.findall(text)
    }


@dataclass(frozen=True)
class PoolSizes:
    """How many samples a split takes of each task, and the seed that decides which."""

    cot: int
    rl: int
    seed: int
    tasks: tuple[str, ...] = TASKS


def identify_picture(path: str) -> str | None:
    """The stem of a file name that tells a picture apart in its own data set, such as `objects365_v2_00900003`.

    It has a letter and a number of six digits; a frame's `00000001` or a `case001` says nothing.
    """
    stem = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return stem if re.search(r"\d{6}", stem) and re.search(r"[A-Za-z]", stem) else None


def choose_samples(
    path: Path, sizes: PoolSizes, forbidden: Container[str | None] = ()
) -> tuple[dict[str, list[Sample]], dict[str, Any]]:
    """The samples of both splits, in the file's order, and what was counted on the way.

    A set of images belongs to one split, by its hash; within a split and task the samples with the smallest hashes
    are kept. So memory is bounded by the sizes, and the choice depends on the seed and not on the file's order.
    Samples over a picture that is `forbidden` by `identify_picture`, because a benchmark shows it, are dropped.
    """
    share = sizes.cot / (sizes.cot + sizes.rl)
    heaps: dict[tuple[str, str], list[tuple[int, int, Sample]]] = {}
    found: Counter[str] = Counter()
    dropped: dict[str, Counter[str]] = {}
    records = 0
    for index, data in stream_records(path):
        records += 1
        conversion = convert_record(path, index, data)
        if conversion.dropped:
            dropped.setdefault(conversion.task, Counter()).update(conversion.dropped)
        for number, sample in enumerate(conversion.samples):
            if sample.task not in sizes.tasks:
                continue
            if any((name := identify_picture(image)) and name in forbidden for image in sample.images):
                dropped.setdefault(sample.task, Counter())["picture of a benchmark"] += 1
                continue
            found[sample.task] += 1
            split, limit = ("cot", sizes.cot) if _hash(sizes.seed, sample.cluster) < share else ("rl", sizes.rl)
            heap = heaps.setdefault((split, sample.task), [])
            # Negated: the root of the heap is the largest of the kept hashes.
            entry = (-int(_hash(sizes.seed, sample.uid) * (1 << 53)), -(index * 1000 + number), sample)
            if len(heap) < limit:
                heapq.heappush(heap, entry)
            elif entry[:2] > heap[0][:2]:
                heapq.heapreplace(heap, entry)
    chosen: dict[str, list[Sample]] = {"cot": [], "rl": []}
    for (split, _), heap in heaps.items():
        chosen[split] += [sample for _, _, sample in heap]
    for samples in chosen.values():
        samples.sort(key=lambda sample: [int(part) for part in sample.uid.split(":")[1:]])
    facts = {
        "records": records,
        "usable": dict(sorted(found.items())),
        "dropped": {task: dict(sorted(reasons.items())) for task, reasons in sorted(dropped.items())},
        "chosen": {split: dict(sorted(Counter(s.task for s in some).items())) for split, some in chosen.items()},
    }
    return chosen, facts


def _hash(seed: int, text: str) -> float:
    """A number of 0 to 1 that the seed and the text fix."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{text}".encode(), digest_size=8).digest()) / (1 << 64)
