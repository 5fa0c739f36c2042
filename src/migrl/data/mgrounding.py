"""MGrounding-630k as training samples: one box, and an image that the record names without doubt.

Source      Hub dataset Michael4933/MGrounding-630k (arXiv 2501.05767), `MGrounding-630k.json`: one list of about
            630,000 records of several turns. Boxes are thousandths of their image, in box tokens.
Licence     Apache-2.0 for the conversations; the pictures keep the terms of the twelve data sets that
            reproduce/sources.yaml names.
Target      which image a box lies in stands in prose only. Region_Locating: image 1, the source picture.
            Referring_Grounding: image 2. Every other task: the one image that the answer names; where it names none,
            for Common_Object, Difference and Object_Tracking the one that the question asks for, by the rules of
            data/target_image.py. Group_Grounding's and Free-Form's questions name images for other reasons. A turn
            without one such image is dropped and counted, never guessed.
Kept        turns whose answer holds exactly one sound box. A turn is a sample of its own, so its question has to stand
            alone: of later turns only those are kept that name what they ask for in object-ref tokens ("And in the
            second image?" leans on what was said before). Dropped are questions with a picture in their midst, or with
            a box that is not, or not surely, the first image's: it is later written in the model's frame as one of the
            first image. A record that is not of the published form stops the run, unless the recipe's
            `broken_share` lets it be left out and counted.
Checked     against the record printed in the authors' README; no real file was at hand. Counts by reason are part of
            the manifest, so that the first run shows what the rules do to the real data.
"""

import re
from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from migrl.benchmarks.fields import open_record
from migrl.data.json_stream import Tally, convert_records
from migrl.data.layout import CONTROL_TOKENS, move_images
from migrl.data.pool import Choice, Chosen, Drops, Pool, PoolSizes, shows_any
from migrl.data.target_image import NOT_NAMED, REF_START, find_quoted_image, place_by_answer, place_by_question
from migrl.data.turns import PLACEHOLDER, SHAREGPT, read_turns
from migrl.grounding.boxes import Box
from migrl.grounding.prompts import quote_boxes
from migrl.grounding.samples import BoxTarget, Sample
from migrl.recipe import MgroundingTask

ARCHIVE_ROOT = "MGrounding-630k"
POOL_FOLDER = "mgrounding"
"""Where the pictures lie in the data folder."""
TASKS: tuple[str, ...] = get_args(MgroundingTask)
FIXED_IMAGE = {"Region_Locating": 1, "Referring_Grounding": 2}
ASKED_IMAGE = ("Common_Object", "Difference", "Object_Tracking")
_PAIR = r"\(\s*([0-9]{1,4}(?:\.[0-9]{1,6})?)\s*,\s*([0-9]{1,4}(?:\.[0-9]{1,6})?)\s*\)"
_BOX = re.compile(rf"<\|box_start\|>\s*{_PAIR}\s*,\s*{_PAIR}\s*<\|box_end\|>")
_ANY_PAIR = re.compile(r"\(\s*-?[\d.]{1,12}\s*,\s*-?[\d.]{1,12}\s*\)")
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
    images = tuple(name.removeprefix(f"{ARCHIVE_ROOT}/") for name in record.paths("images"))
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
        reason = find_flaw(task, len(images), question, number) or reason
        if reason or image is None or box is None:
            dropped[reason] += 1
            continue
        if images.count(images[image - 1]) > 1:
            dropped["picture of the box shown twice"] += 1
            continue
        uid = f"mgrounding:{index}:{number}"
        target, cluster = BoxTarget(image, box), "|".join(sorted(images))
        samples.append(Sample(uid, "mgrounding", task, images, question, target, cluster))
    return Conversion(task, tuple(samples), dropped)


def find_flaw(task: str, image_count: int, question: str, turn: int) -> str:
    """Why a question cannot be asked as it stands, alone; empty if it can. Turns count from 0.

    A box that it quotes is later written in the model's frame, as a box of the first image (`quote_boxes`).
    """
    if not question:
        return "no question"
    if PLACEHOLDER in question:
        return "image inside the question"
    if any(token in question for token in CONTROL_TOKENS):
        return "template token in the question"
    if turn and REF_START not in question:
        return "leans on an earlier turn"
    if _BOX_MARK not in question:
        return ""
    if _BOX_MARK in quote_boxes(question, "unit", original_size=(1, 1), resized_size=(1, 1)):
        return "unreadable box in the question"
    named = find_quoted_image(question) or ({1} if task == "Object_Tracking" or image_count == 1 else set())
    if named != {1} or question.count(_BOX_MARK) != 1:
        return "box of another image in the question"
    return "" if read_box(question)[0] else "broken box in the question"


def find_target(task: str, image_count: int, question: str, answer: str) -> tuple[int | None, Box | None, str]:
    """(image, box in unit frame, "") of one turn's answer, or (None, None, reason)."""
    box, reason = read_box(answer)
    if box is None:
        return None, None, reason
    image: int | None = FIXED_IMAGE.get(task)
    if image is None:
        image, reason = place_by_answer(answer)
        if reason == NOT_NAMED and task in ASKED_IMAGE:
            image, reason = place_by_question(question, tracked=task == "Object_Tracking")
        if image is None:
            return None, None, reason
    if not 1 <= image <= image_count:
        return None, None, "image out of range"
    return image, box, ""


def read_box(text: str) -> tuple[Box | None, str]:
    """(the one box of a text in unit frame, ""), or (None, reason)."""
    marks, pairs = text.count(_BOX_MARK), len(_ANY_PAIR.findall(text))
    if not marks:
        return None, "no box"
    if marks > 1 or pairs > 2:
        return None, "several boxes"
    found = _BOX.search(text)
    return check_permille([float(v) for v in found.groups()]) if found else (None, "broken box")


def check_permille(numbers: list[float]) -> tuple[Box | None, str]:
    """Four thousandths as a box in unit frame, or the reason why they are none."""
    x1, y1, x2, y2 = numbers
    if not (0 <= x1 < x2 <= 1000 and 0 <= y1 < y2 <= 1000):
        return None, "broken box"
    if max(numbers) <= 1:
        return None, "box of 0 to 1"
    return (x1 / 1000, y1 / 1000, x2 / 1000, y2 / 1000), ""


def choose_samples(
    path: Path, sizes: PoolSizes, forbidden: Container[str | None] = ()
) -> tuple[Chosen, dict[str, Any]]:
    """The samples of both splits, in the file's order, and what was counted on the way.

    A set of images belongs to one split, by its hash. Samples over a picture that is `forbidden` by
    `identify_picture`, because a benchmark shows it, are dropped.
    """
    choice, drops, tally, turns = Choice(sizes), Drops(), Tally(sizes.broken_share), 0
    for conversion in convert_records(path, convert_record, tally):
        turns += len(conversion.samples) + conversion.dropped.total()
        for reason, number in conversion.dropped.items():
            drops.add(conversion.task, reason, number)
        # All samples of a record show the same pictures.
        is_shown = bool(conversion.samples) and shows_any(conversion.samples[0], forbidden)
        for sample in conversion.samples:
            if sample.task not in sizes.tasks:
                drops.add(sample.task, "task not wanted")
            elif is_shown:
                drops.add(sample.task, "picture of a benchmark")
            elif twin := choice.offer(sizes.find_split(sample.task, sample.cluster), sample):
                drops.add(sample.task, twin)
    facts = {
        **tally.describe(),
        "turns": turns,
        "usable": dict(sorted((choice.offered["cot"] + choice.offered["rl"]).items())),
        "dropped": drops.describe(),
        **choice.describe(),
    }
    return {"cot": choice.list_samples("cot"), "rl": choice.list_samples("rl")}, facts


def choose_from_records(
    records: Mapping[str, Path], sizes: PoolSizes, forbidden: Container[str | None]
) -> tuple[Chosen, dict[str, Any]]:
    """`choose_samples` with images below the data folder."""
    chosen, facts = choose_samples(records["mgrounding"], sizes, forbidden)
    return {split: list(move_images(samples, POOL_FOLDER)) for split, samples in chosen.items()}, facts


MGROUNDING = Pool(entries={"mgrounding": None}, pictures={"mgrounding": POOL_FOLDER}, choose=choose_from_records)
