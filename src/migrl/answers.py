"""From raw text to `Answer`, and back. Model output is untrusted: nothing here raises on any text.

The strict reading, ours: the *last* answer block counts; inside it one JSON object with an image
number and a box, or one bracketed letter. What was found is said by `status`, and counted.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from migrl.boxes import Box, BoxError, check_box

Status = Literal["ok", "repaired", "several", "none", "malformed", "out_of_range", "truncated"]
STATUSES: tuple[Status, ...] = get_args(Status)
READABLE: tuple[Status, ...] = ("ok", "repaired", "several")
"""The statuses under which an answer is scored; the others count as a miss."""

MAX_ANSWER_CHARS = 2000  # a longer answer block is noise, and the bound keeps every regex linear in practice
_NUMBER = r"(-?\d{1,6}(?:\.\d{1,20})?)"
_BOX_TEXT = re.compile(
    rf"\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]"
    rf"|\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)\s*,\s*\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)"
)
_FORM_BOX = re.compile(
    r"<think>(?P<thought>[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>\s*"
    r'<answer>\s*\{"image":\s*[1-9][0-9]{0,2},\s*"bbox_2d":\s*\[\s*'
    r"(?:0|[1-9][0-9]{0,4})(?:,\s*(?:0|[1-9][0-9]{0,4})){3}\s*\]\s*\}\s*</answer>\s*"
)
_FORM_CHOICE = re.compile(
    r"<think>(?P<thought>[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>\s*<answer>\s*\([A-Z]\)\s*</answer>\s*"
)


@dataclass(frozen=True)
class Answer:
    """What a completion says. `box` is in the frame the model writes in; `image` is 1-based."""

    status: Status
    thought: str | None = None
    image: int | None = None
    box: Box | None = None
    letter: str | None = None

    @property
    def readable(self) -> bool:
        return self.status in READABLE


def parse_box_answer(
    completion: str,
    *,
    frame_limits: Sequence[tuple[float, float]],
    truncated: bool = False,
    default_image: int | None = None,
    tagged: bool = True,
) -> Answer:
    """Read image number and box from a completion: one JSON object, or numbers as `[x, y, x, y]` or `(x, y), (x, y)`.

    Args:
        completion: raw text of the model.
        frame_limits: (width, height) of each input image in the frame the model writes in.
        default_image: the image meant where the answer names none (1-based); a single image needs no name.
        truncated: whether the text stopped at the token limit; matters only if no answer is found.
        tagged: False reads the whole reply by the same rule where no answer block holds an answer; then never "ok".
    """
    if not tagged:
        answer = parse_box_answer(
            completion, frame_limits=frame_limits, truncated=truncated, default_image=default_image
        )
        if answer.readable:
            return answer
        whole = parse_box_answer(
            _open_reply(completion), frame_limits=frame_limits, truncated=truncated, default_image=default_image
        )
        return replace(_blur(whole), thought=answer.thought)
    thought = _find_thought(completion)
    block, blocks = _find_short_block(completion)
    if block is None:
        return Answer("truncated" if truncated else "none", thought=thought)
    status: Status = "several" if blocks > 1 else "ok"
    image: int | None
    try:
        data = json.loads(block)
        image, numbers = data["image"], data["bbox_2d"]
        if isinstance(image, bool) or not isinstance(image, int) or not isinstance(numbers, list):
            return Answer("malformed", thought=thought)
    except (ValueError, KeyError, TypeError, RecursionError):
        found = _BOX_TEXT.findall(block)
        if not found:
            return Answer("malformed", thought=thought)
        numbers = [float(v) for v in found[-1] if v]
        image = _find_image_number(block) or default_image or (1 if len(frame_limits) == 1 else None)
        status = "several" if blocks > 1 or len(found) > 1 else "repaired"
    if image is None or not 1 <= image <= len(frame_limits):
        return Answer("out_of_range" if image is not None else "malformed", thought=thought, image=image)
    try:
        box = check_box(numbers)
    except (BoxError, OverflowError):
        return Answer("malformed", thought=thought, image=image)
    width, height = frame_limits[image - 1]
    if box[0] < 0 or box[1] < 0 or box[2] > width or box[3] > height:
        # One px (or permille) beyond the edge is rounding, and is clipped; more is a box outside the picture.
        slack = 1.0 if width > 1 else 0.0
        clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height)))
        beyond = max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > slack
        if beyond or clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            return Answer("out_of_range", thought=thought, image=image, box=box)
        box, status = clipped, "repaired" if status == "ok" else status
    return Answer(status, thought=thought, image=image, box=box)


def parse_choice_answer(completion: str, *, options: int, truncated: bool = False, tagged: bool = True) -> Answer:
    """Read the chosen letter. `options` is how many letters are legal, from A; `tagged` as in `parse_box_answer`."""
    if not tagged:
        answer = parse_choice_answer(completion, options=options, truncated=truncated)
        if answer.readable:
            return answer
        whole = parse_choice_answer(_open_reply(completion), options=options, truncated=truncated)
        return replace(_blur(whole), thought=answer.thought)
    thought = _find_thought(completion)
    block, blocks = _find_short_block(completion)
    if block is None:
        return Answer("truncated" if truncated else "none", thought=thought)
    letters = re.findall(r"\(([A-Z])\)", block) or re.findall(r"(?<![A-Za-z])([A-Z])(?![A-Za-z])", block)
    if not letters:
        return Answer("malformed", thought=thought)
    letter = letters[-1]
    if ord(letter) - ord("A") >= options:
        return Answer("out_of_range", thought=thought, letter=letter)
    several = blocks > 1 or len(set(letters)) > 1
    exact = re.fullmatch(r"\([A-Z]\)", block.strip()) is not None
    return Answer("several" if several else "ok" if exact else "repaired", thought=thought, letter=letter)


def has_exact_form(completion: str, kind: Literal["box", "choice"]) -> bool:
    """Whether the whole completion is one think block and one well-formed answer block: the format reward."""
    if len(completion) > 100_000:
        return False
    match = (_FORM_BOX if kind == "box" else _FORM_CHOICE).fullmatch(completion.strip())
    return match is not None and bool(match["thought"].strip())


def format_box_answer(image: int, box: Sequence[float]) -> str:
    """The answer block for a box, numbers rounded to integers of its frame."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return f'<answer>{{"image": {image}, "bbox_2d": [{x1}, {y1}, {x2}, {y2}]}}</answer>'


def format_choice_answer(letter: str) -> str:
    """The answer block for a choice."""
    return f"<answer>({letter})</answer>"


def _open_reply(completion: str) -> str:
    """What stands after the thought, else all of it, as one answer block."""
    reply = completion.rpartition("</think>")[2].replace("<answer>", "").replace("</answer>", "")
    return f"<answer>{reply[-MAX_ANSWER_CHARS:]}</answer>"


def _blur(answer: Answer) -> Answer:
    return replace(answer, status="repaired") if answer.status == "ok" else answer


def _find_thought(completion: str) -> str | None:
    start = completion.find("<think>")
    end = completion.find("</think>", start + 7)
    return completion[start + 7 : end].strip() if start >= 0 and end >= 0 else None


def find_answer_block(completion: str) -> str | None:
    """Content of the last closed answer block, as it stands; None without one."""
    end = completion.rfind("</answer>")
    start = completion.rfind("<answer>", 0, end) if end >= 0 else -1
    return completion[start + len("<answer>") : end] if start >= 0 else None


def _find_short_block(completion: str) -> tuple[str | None, int]:
    """Content of the last closed answer block, and how many were closed. An overlong block counts as empty."""
    block = find_answer_block(completion)
    if block is None:
        return None, 0
    return (block if len(block) <= MAX_ANSWER_CHARS else ""), completion.count("</answer>")


def _find_image_number(block: str) -> int | None:
    found = re.findall(r"image(?:_id)?\W{0,4}(\d{1,3})", block.lower())
    return int(found[-1]) if found else None
