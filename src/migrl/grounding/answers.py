"""From raw text to `Answer`, and back. Model output is untrusted: nothing here raises on any text.

The strict reading, ours: the *last* answer block counts, and it is read as a careful person reads it: a box and the
number of its image (box_answers.py), or a letter (letter_answers.py). What was found is said by `status`, and counted:

    ok            the exact form that the prompt asks for
    repaired      one answer, in another form; also in a block that was not closed although the text ended by itself
    several       several answer blocks, of which the last counts; or one block that names several boxes or letters and
                  singles out none, which is no answer: then there is neither box nor letter, and it is a miss
    none          no answer block; `truncated` if the text was cut
    malformed     a block without an answer, or with a box that is none (corners swapped, no area)
    out_of_range  an image, a box or a letter beyond what the sample has
    unanswered    no completion: the server that was asked left the request without a usable reply
"""

import re
from collections.abc import Sequence
from typing import Literal

from migrl.grounding.answer_text import MAX_ANSWER_CHARS, READABLE, STATUSES, Answer, Status, find_answer_block
from migrl.grounding.box_answers import parse_box_answer
from migrl.grounding.letter_answers import parse_choice_answer

__all__ = [
    "MAX_ANSWER_CHARS",
    "READABLE",
    "STATUSES",
    "Answer",
    "Status",
    "find_answer_block",
    "format_box_answer",
    "format_choice_answer",
    "has_exact_form",
    "parse_box_answer",
    "parse_choice_answer",
]

_THOUGHT = r"<think>(?P<thought>[^<]*(?:<(?!/?(?:think|answer)>)[^<]*)*)</think>\s*"
_SIDE = r"(0|[1-9][0-9]{0,4})"
_FORM_BOX = re.compile(
    rf'{_THOUGHT}<answer>\s*\{{"image":\s*[1-9][0-9]{{0,2}},\s*"bbox_2d":\s*'
    rf"\[\s*(?P<x1>{_SIDE}),\s*(?P<y1>{_SIDE}),\s*(?P<x2>{_SIDE}),\s*(?P<y2>{_SIDE})\s*\]\s*\}}\s*</answer>\s*"
)
_FORM_CHOICE = re.compile(rf"{_THOUGHT}<answer>\s*\([A-Z]\)\s*</answer>\s*")


def has_exact_form(completion: str, kind: Literal["box", "choice"]) -> bool:
    """Whether the whole completion is one think block and one well-formed answer block: the format reward.

    A box with its corners swapped, or without an area, is not well formed.
    """
    if len(completion) > 100_000:
        return False
    match = (_FORM_BOX if kind == "box" else _FORM_CHOICE).fullmatch(completion.strip())
    if match is None or not match["thought"].strip():
        return False
    return kind == "choice" or (int(match["x1"]) < int(match["x2"]) and int(match["y1"]) < int(match["y2"]))


def format_box_answer(image: int, box: Sequence[float]) -> str:
    """The answer block for a box, numbers rounded to integers of its frame."""
    x1, y1, x2, y2 = (round(v) for v in box)
    return f'<answer>{{"image": {image}, "bbox_2d": [{x1}, {y1}, {x2}, {y2}]}}</answer>'


def format_choice_answer(letter: str) -> str:
    """The answer block for a choice."""
    return f"<answer>({letter})</answer>"
