"""From raw text to `Answer`, and back. Model output is untrusted: nothing here raises on any text.

The strict reading, ours: the *last* answer block counts, and it is read as a careful person reads it: a box and the
number of its image (box_answers.py), a list of these where any number may be right (box_lists.py), or a letter
(letter_answers.py). What was found is said by `status`, and counted:

    ok            the exact form that the prompt asks for
    repaired      an answer in another form; also in a block that was not closed although the text ended by itself
    several       several answer blocks, of which the last counts; or one block that names several boxes or letters and
                  singles out none, which is no answer: then there is neither box nor letter, and it is a miss; or a
                  list with a box that is said to lie in two images, a miss too
    none          no answer block; `truncated` if the text was cut
    malformed     a block without an answer, or with a box that is none (corners swapped, no area)
    out_of_range  an image, a box or a letter beyond what the sample has; one such box spoils a list
    unanswered    no completion: the server that was asked left the request without a usable reply
"""

import re
from collections.abc import Iterable, Sequence

from migrl.grounding.answer_text import MAX_ANSWER_CHARS, READABLE, STATUSES, Answer, Status, find_answer_block
from migrl.grounding.box_answers import parse_box_answer
from migrl.grounding.box_lists import parse_boxes_answer
from migrl.grounding.boxes import Box
from migrl.grounding.letter_answers import parse_choice_answer
from migrl.grounding.prompts import TargetKind

__all__ = [
    "MAX_ANSWER_CHARS",
    "READABLE",
    "STATUSES",
    "Answer",
    "Status",
    "find_answer_block",
    "format_box_answer",
    "format_boxes_answer",
    "format_choice_answer",
    "has_exact_form",
    "parse_box_answer",
    "parse_boxes_answer",
    "parse_choice_answer",
]

_THOUGHT = r"<think>(?P<thought>[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>\s*"
_SIDE = r"(0|[1-9][0-9]{0,4})"
_OBJECT = (
    rf'\{{"image":\s*([1-9][0-9]{{0,2}}),\s*"bbox_2d":\s*'
    rf"\[\s*{_SIDE},\s*{_SIDE},\s*{_SIDE},\s*{_SIDE}\s*\]\s*\}}"
)
_LISTED = re.compile(_OBJECT)
_FORMS = {
    "box": re.compile(rf"{_THOUGHT}<answer>\s*(?P<boxes>{_OBJECT})\s*</answer>\s*"),
    "boxes": re.compile(
        rf"{_THOUGHT}<answer>\s*(?P<boxes>\[\s*(?:{_OBJECT}(?:\s*,\s*{_OBJECT})*\s*)?\])\s*</answer>\s*"
    ),
    "choice": re.compile(rf"{_THOUGHT}<answer>\s*(?P<boxes>)\([A-Z]\)\s*</answer>\s*"),
}


def has_exact_form(completion: str, kind: TargetKind) -> bool:
    """Whether the whole completion is one think block and one well-formed answer block: the format reward.

    A box with its corners swapped, or without an area, is not well formed, nor is a list that gives a box twice.
    """
    if len(completion) > 100_000:
        return False
    match = _FORMS[kind].fullmatch(completion.strip())
    if match is None or not match["thought"].strip():
        return False
    boxes = [[int(number) for number in found] for found in _LISTED.findall(match["boxes"])]
    return all(x1 < x2 and y1 < y2 for _, x1, y1, x2, y2 in boxes) and len(boxes) == len(set(map(tuple, boxes)))


def format_box_answer(image: int, box: Sequence[float]) -> str:
    """The answer block for a box, numbers rounded to integers of its frame."""
    return f"<answer>{_format_object(image, box)}</answer>"


def format_boxes_answer(located: Iterable[tuple[int, Box]]) -> str:
    """The answer block for a list of boxes, each with its image; numbers rounded to integers of their frame."""
    return f"<answer>[{', '.join(_format_object(image, box) for image, box in located)}]</answer>"


def _format_object(image: int, box: Sequence[float]) -> str:
    x1, y1, x2, y2 = (round(v) for v in box)
    return f'{{"image": {image}, "bbox_2d": [{x1}, {y1}, {x2}, {y2}]}}'


def format_choice_answer(letter: str) -> str:
    """The answer block for a choice."""
    return f"<answer>({letter})</answer>"
