"""MGrounding-630k as training samples: one box, and an image that the record names without doubt.

Source      Hub dataset Michael4933/MGrounding-630k (arXiv 2501.05767), `MGrounding-630k.json`: one list of about
            630,000 records of several turns. Boxes are thousandths of their image, in box tokens.
Licence     Apache-2.0 for the conversations; SA-1B, ImageNet, TrackingNet, LaSOT, Objects365 and COCO pictures keep
            their own terms.
Target      which image a box lies in stands in prose only. Region_Locating: image 1, the source picture.
            Referring_Grounding: image 2. Every other task: the one ordinal ("third image", "Image-3", "3th") of the
            answer, else of the question. A turn that names none, or several, is dropped and counted, never guessed.
Kept        turns whose answer holds exactly one sound box. A turn is a sample of its own: its question stands alone.
            Dropped are questions with a picture in their midst, or with a box that is not, or not surely, the first
            image's: a box in a question is later written in the model's frame as one of the first image.
Checked     against the record printed in the authors' README; no real file was at hand. Counts by reason are part of
            the manifest, so that the first run shows what the rules do to the real data.
"""

import re
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from migrl.benchmarks.fields import Record, is_unicode, open_record
from migrl.data.json_stream import stream_records
from migrl.data.layout import CONTROL_TOKENS
from migrl.data.pool import Choice, Drops, PoolSizes, Split, shows_any
from migrl.mentions import find_images
from migrl.prompts import quote_boxes
from migrl.recipe import MgroundingTask
from migrl.records import BoxTarget, Sample

ROOT = "MGrounding-630k"
TASKS: tuple[str, ...] = get_args(MgroundingTask)
FIXED_IMAGE = {"Region_Locating": 1, "Referring_Grounding": 2}
_BOX = re.compile(r"<\|box_start\|>\s*\(([\d.]{1,8}),([\d.]{1,8})\),\s*\(([\d.]{1,8}),([\d.]{1,8})\)\s*<\|box_end\|>")
PLACEHOLDER = "<image>"
_PLACEHOLDERS = re.compile(r"\s*(?:(?:image[ -]?\d{1,2}:\s*)?<image>\s*)+", re.IGNORECASE)
_BOX_MARK = "<|box_start|>"


@dataclass(frozen=True)
class Conversion:
    """What one record gives: its task, its samples, and why other turns were dropped."""

    task: str
    samples: tuple[Sample, ...]
    dropped: Counter[str]


def convert_record(path: Path, index: int, data: Any) -> Conversion:
    """The samples of one record; uids are `mgrounding:<index>:<turn>`, the cluster is its set of images.

    Raises:
        UserError: the record is not of the published form, naming file, index and key.
    """
    record = open_record(path, index, data, ("images", "conversations"), optional=None)
    images = tuple(name.removeprefix(f"{ROOT}/") for name in record.paths("images"))
    task = images[0].split("/", 1)[0]
    turns = read_turns(record, SHAREGPT)
    dropped: Counter[str] = Counter()
    if task not in TASKS:
        return Conversion("unknown", (), Counter({f"unknown task {task[:40]}": len(turns)}))
    if any(not image.startswith(f"{task}/") for image in images):
        return Conversion(task, (), Counter({"pictures of several tasks": len(turns)}))
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


@dataclass(frozen=True)
class TurnForm:
    """How a conversation is written down: its key, the keys of a turn, and the names of user and model."""

    key: str
    speaker: str
    text: str
    names: tuple[str, str]


SHAREGPT = TurnForm("conversations", "from", "value", ("human", "gpt"))


def read_turns(record: Record, form: TurnForm) -> list[tuple[str, str]]:
    """(question, answer) pairs, without the image placeholders that a question opens with.

    Raises:
        UserError: no such turns, or another number of placeholders than of images.
    """
    turns = record.data[form.key]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise record.fail(form.key, "must be a list of pairs of turns")
    values = []
    for number, turn in enumerate(turns):
        name = form.names[number % 2]
        value = turn.get(form.text) if isinstance(turn, dict) and turn.get(form.speaker) == name else None
        if not isinstance(value, str) or not is_unicode(value):
            raise record.fail(form.key, f"turn {number} must be from {name}, with a text")
        values.append(value)
    marks = sum(value.count(PLACEHOLDER) for value in values)
    if marks != len(record.data["images"]):
        raise record.fail(form.key, f"{marks} image placeholders for {len(record.data['images'])} images")
    return [(strip_placeholders(values[n]), values[n + 1]) for n in range(0, len(values), 2)]


def strip_placeholders(question: str) -> str:
    """A question without the placeholders it opens with, nor their numbers ("Image-1: <image>")."""
    opening = _PLACEHOLDERS.match(question)
    return question[opening.end() if opening else 0 :].strip()


def find_flaw(task: str, image_count: int, question: str) -> str:
    """Why a question cannot be asked as it stands; empty if it can.

    A box that it quotes is later written in the model's frame, as a box of the first image (`quote_boxes`).
    """
    if not question:
        return "no question"
    if PLACEHOLDER in question:
        return "image inside the question"
    if any(token in question for token in CONTROL_TOKENS):
        return "template token in the question"
    opening, mark, _ = question.partition(_BOX_MARK)
    if not mark:
        return ""
    if _BOX_MARK in quote_boxes(question, "unit", original_size=(1, 1), resized_size=(1, 1)):
        return "unreadable box in the question"
    named = find_images(opening) or ({1} if task == "Object_Tracking" or image_count == 1 else set())
    return "" if named == {1} and question.count(_BOX_MARK) == 1 else "box of another image in the question"


def find_target(
    task: str, image_count: int, question: str, answer: str
) -> tuple[int | None, tuple[float, float, float, float] | None, str]:
    """(image, box in permille, "") of one turn, or (None, None, reason)."""
    if flaw := find_flaw(task, image_count, question):
        return None, None, flaw
    boxes = _BOX.findall(answer)
    if len(boxes) != 1:
        return None, None, "no box" if not boxes else "several boxes"
    try:
        x1, y1, x2, y2 = (float(v) for v in boxes[0])
    except ValueError:
        return None, None, "broken box"
    if not (0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000):
        return None, None, "broken box"
    image = FIXED_IMAGE.get(task)
    if image is None:
        named = find_images(answer) or find_images(question)
        if len(named) != 1:
            return None, None, "no image named" if not named else "several images named"
        image = named.pop()
    if not 1 <= image <= image_count:
        return None, None, "image out of range"
    return image, (x1, y1, x2, y2), ""


def choose_samples(
    path: Path, sizes: PoolSizes, forbidden: Container[str | None] = ()
) -> tuple[dict[Split, list[Sample]], dict[str, Any]]:
    """The samples of both splits, in the file's order, and what was counted on the way.

    A set of images belongs to one split, by its hash. Samples over a picture that is `forbidden` by
    `identify_picture`, because a benchmark shows it, are dropped.
    """
    choice, drops = Choice(sizes), Drops()
    records = 0
    for index, data in stream_records(path):
        records += 1
        conversion = convert_record(path, index, data)
        for reason, number in conversion.dropped.items():
            drops.add(conversion.task, reason, number)
        for sample in conversion.samples:
            if sample.task not in sizes.tasks:
                continue
            if shows_any(sample, forbidden):
                drops.add(sample.task, "picture of a benchmark")
                continue
            choice.offer(sizes.find_split(sample.task, sample.cluster), sample)
    facts = {
        "records": records,
        "usable": dict(sorted((choice.offered["cot"] + choice.offered["rl"]).items())),
        "dropped": drops.describe(),
        **choice.describe(),
    }
    return {"cot": choice.list_samples("cot"), "rl": choice.list_samples("rl")}, facts
