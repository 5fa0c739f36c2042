"""UniVG-R1's released stages as training samples: stage 1 with its reasoning for the cold start, stage 2 for RL.

Source      Hub dataset GD-ML/UniVG-R1-data (arXiv 2505.14231): `stage1_cotsft.json`, `stage2_rl.json`, lists of
            records. Pictures: MGrounding-630k's, and COCO train2014's for stage 2's questions over one picture.
Licence     MIT for the files; pictures keep their terms: see MGrounding-630k's and COCO's in reproduce/sources.yaml.
Known       of stage 1, from the authors' training settings: LLaMA-Factory reads it for Qwen2-VL, so it has one of that
            tool's two forms of a conversation, and as many <image> marks as images. From the prompt they published
            and their reward: the model's turn is <think>...</think><answer>(x1,y1),(x2,y2)</answer>, in thousandths.
            Of stage 2, from their loader and reward: `question`, from which <image> marks are cut; `images`; `answer`,
            four numbers, compared with the model's own. Questions over one picture show COCO, `train2014/COCO_...`.
Assumed     paths hold `MGrounding-630k/<task>/` or `train2014/COCO_`; what stands before is a machine's and is cut
            off. No real file was at hand: keys, counts and wording were not seen, and every rule counts what it
            drops, in the manifest. Their repository has no licence: nothing of it is copied here.
Target      the records do not name the image of the box. One picture: that one. Else what MGrounding-630k says of the
            same box over the same images, by the rules of data/mgrounding.py; else, by those rules, Region_Locating's
            and Referring_Grounding's own image; else the one image that the question asks for, by the rules of
            data/target_image.py; else, where the question names none, the one that the thought names. Dropped where
            that leaves none, or several. How many were known from what is in the manifest (`target_known_from`).
Thoughts    become `facts`: the scripted teacher without faults writes them down, before the true answer in the recipe's
            frame, and they pass the same filters as any teacher's. A thought that quotes coordinates is dropped: they
            are thousandths of an image that it need not name, while the model reads and writes the recipe's frame.
Questions   lose the sentence that UniVG-R1 ends its prompts with, known by its hash; questions that speak of think or
            answer tags in other words stay as they are and are counted as `other_instruction`.
Splits      share no set of images: what stage 2 took is left out of stage 1, which is nine times larger.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.benchmarks.fields import Record, open_record
from migrl.data.json_stream import Tally, convert_records
from migrl.data.layout import CONTROL_TOKENS
from migrl.data.mgrounding import ARCHIVE_ROOT, POOL_FOLDER, TASKS, check_permille, find_flaw
from migrl.data.pool import Split
from migrl.data.turns import PLACEHOLDER, SHAREGPT, TurnForm, read_turns, strip_placeholders
from migrl.grounding.boxes import Box
from migrl.recipe import SINGLE_IMAGE

STAGES: dict[Split, str] = {"cot": "stage1_cotsft.json", "rl": "stage2_rl.json"}
COCO_FOLDER = "coco"
"""Where COCO's pictures lie in the data folder."""

_COCO = re.compile(r"(?:^|/)train2014/(COCO_train2014_.*)", re.DOTALL)
_CHAT = TurnForm("messages", "role", "content", ("user", "assistant"))
_FORM = re.compile(
    r"\s*<think>(?P<thought>[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>"
    r"\s*<answer>(?P<answer>[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</answer>\s*"
)
_NUMBER = r"\s*(\d{1,4}(?:\.\d{1,6})?)\s*"
_BOX = re.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)")
_COORDINATES = re.compile(
    r"<\|box_start\|>"
    rf"|[(\[]{_NUMBER},{_NUMBER}[,)\]]"
    rf"|(?<![\d.])(?=[\d\s,.]{{0,20}}\d\d){_NUMBER},{_NUMBER},{_NUMBER},\s*\d{{1,4}}"
    r"|\b[xy](?:_?(?:[0-2]|min|max))?\s*(?:=|:|≈|~)\s*\d",
    re.IGNORECASE,
)
INSTRUCTION_CHARS = 119
INSTRUCTION_SHA256 = "d0f29df4f4c5ad6fd747e9a2cb364f97f14d17a1f4d5718909de8056d4702491"
"""The sentence that its prompts end in, which is not ours to repeat: its length and hash."""


_Turn = tuple[str, Box | None, str, str]
"""Question, box in unit frame, thought, and the reason to drop the turn."""


@dataclass(frozen=True)
class Item:
    """A question and its box in unit frame, before it is known in which image the box lies.

    Images are paths below the data folder; `other_instruction` says that the question speaks of tags.
    """

    uid: str
    task: str
    images: tuple[str, ...]
    question: str
    box_unit: Box
    thought: str = ""

    @property
    def other_instruction(self) -> bool:
        """Whether the question asks for an answer in tags of its own."""
        return re.search(r"</?(?:think|answer)>", self.question) is not None


@dataclass(frozen=True)
class Drop:
    """A turn that is left out, and why."""

    task: str
    reason: str


def read_stage(path: Path, split: Split, tally: Tally) -> Iterator[Item | Drop]:
    """Every turn of a stage file; uids are `univg:<split>:<index>:<turn>`.

    Raises:
        UserError: a torn file, or too many records that are not of the known form, naming file, index and key.
    """
    convert = convert_question if split == "rl" else convert_conversation
    for turns in convert_records(path, convert, tally):
        yield from turns


def convert_conversation(path: Path, index: int, data: Any) -> list[Item | Drop]:
    """The turns of a record of stage 1."""
    record = open_record(path, index, data, ("images",), optional=None)
    return _place_turns(record, "cot", read_conversation(record))


def convert_question(path: Path, index: int, data: Any) -> list[Item | Drop]:
    """The one turn of a record of stage 2."""
    record = open_record(path, index, data, ("images", "question", "answer"), optional=None)
    return _place_turns(record, "rl", [read_question(record)])


def _place_turns(record: Record, split: Split, turns: list[_Turn]) -> list[Item | Drop]:
    task, images, reason = place_images(record)
    items: list[Item | Drop] = []
    for number, (question, box, thought, flaw) in enumerate(turns):
        question = strip_instruction(question)
        flaw = reason or flaw or find_flaw(task, len(images), question, number)
        uid = f"univg:{split}:{record.index}:{number}"
        items.append(Drop(task, flaw) if flaw or box is None else Item(uid, task, images, question, box, thought))
    return items


def place_images(record: Record) -> tuple[str, tuple[str, ...], str]:
    """(task, images below the data folder, reason to drop the record, if any)."""
    places: list[tuple[str, str]] = []
    for name in record.texts("images"):
        rest = name.rpartition(f"{ARCHIVE_ROOT}/")[2].removeprefix("./")
        coco = _COCO.search(name)
        if (task := rest.split("/", 1)[0]) in TASKS:
            places.append((task, f"{POOL_FOLDER}/{record.path_inside('images', rest)}"))
        elif coco:
            places.append((SINGLE_IMAGE, f"{COCO_FOLDER}/{record.path_inside('images', coco[1])}"))
        else:
            return "unknown", (), "picture of no known data set"
    task, images = places[0][0], tuple(image for _, image in places)
    if any(other != task for other, _ in places):
        return task, images, "pictures of several tasks"
    return task, images, "several pictures of COCO" if task == SINGLE_IMAGE and len(images) > 1 else ""


def read_conversation(record: Record) -> list[_Turn]:
    """The turns of a record of stage 1, in either form that LLaMA-Factory reads."""
    forms = [form for form in (SHAREGPT, _CHAT) if form.key in record.data]
    if len(forms) != 1:
        raise record.fail(SHAREGPT.key, f"missing, or {_CHAT.key!r} beside it" if forms else "missing")
    return [(question, *read_reply(reply)) for question, reply in read_turns(record, forms[0])]


def read_reply(reply: str) -> tuple[Box | None, str, str]:
    """(box, thought, reason) of what the model is to say in stage 1."""
    form = _FORM.fullmatch(reply)
    if form is None:
        return None, "", "no think and answer block"
    thought, boxes = form["thought"].strip(), _BOX.findall(form["answer"])
    if len(boxes) != 1:
        return None, "", "several boxes" if boxes else "no box"
    box, reason = check_permille([float(number) for number in boxes[0]])
    if not thought:
        reason = reason or "no thought"
    elif any(token in thought for token in (*CONTROL_TOKENS, PLACEHOLDER)):
        reason = reason or "template token in the thought"
    elif _COORDINATES.search(thought) or re.search(r"\D{1,12}".join(map(re.escape, boxes[0])), thought):
        reason = reason or "coordinates in the thought"
    return box, thought, reason


def read_question(record: Record) -> _Turn:
    """The one turn of a record of stage 2."""
    question = record.text("question")
    numbers = record.data["answer"]
    if not isinstance(numbers, list) or len(numbers) != 4 or not all(type(v) in (int, float) for v in numbers):
        raise record.fail("answer", "must be four numbers")
    box, reason = check_permille(numbers)
    marks, images = question.count(PLACEHOLDER), len(record.texts("images"))
    if marks not in (0, images):
        reason = reason or "images and image marks differ in number"
    return strip_placeholders(question), box, "", reason


def strip_instruction(question: str) -> str:
    """A question without the sentence that UniVG-R1's prompts end in; one in other words stays."""
    tail = question[-INSTRUCTION_CHARS:]
    known = hashlib.sha256(tail.encode()).hexdigest() == INSTRUCTION_SHA256
    return question.removesuffix(tail).rstrip() if known else question
