"""All boxes that an answer gives, each with its image, for questions that any number of boxes may answer.

The exact form is a JSON list of the objects that answer a question for one box; `[]` says that there is none. Anything
else is read as one box is (box_answers.py): one bare object, lists within lists, code fences, trailing commas, text. No
box is singled out: each that is not denied or only compared with counts, and one that is given twice counts once.

A list stands or falls as a whole. One box that is none makes it malformed, one beyond its image out_of_range, and one
said to lie in two images ("image 1 or 2") leaves the list unclear: several, and a miss.
"""

import json
import re
from collections.abc import Sequence

from migrl.grounding.answer_text import Answer, Passage, read_completion, simplify
from migrl.grounding.box_answers import (
    Reading,
    check_reading,
    find_boxes,
    find_images,
    read_exact_object,
    take_each_key_once,
)

_FENCE = r"(?:`{3})?(?:json)? ?"
_NO_BOX = r"\"image\" ?: ?\d{1,3} ?, ?\"bbox_2d\" ?: ?(?=\[ ?\]|null)"
_FILLED = re.compile(r"\"bbox_2d\" ?: ?\[ ?[^\] ]")
_NONE_IN_BRACKETS = re.compile(
    rf"{_FENCE}[\[{{](?:[\[\]{{}}, ]|null|\"(?:answer|boxes|bbox_2d|objects|image \d{{1,3}})\" ?:|{_NO_BOX})*"
    r"(?:`{3})?"
)
_NONE_IN_WORDS = re.compile(
    rf"{_FENCE}[\[({{\"' ]*(?:(?:there (?:is|are) )?(?:null|none|nothing|empty|neither|no)\b(?: list)?(?: such)?"
    r"(?: (?:box|object|target|match|instance|one|it)(?:e?s)?\b)?(?: found)?"
    r"(?: (?:in|of) (?:(?:either|any|both|the|these|of|two|them) ?){0,4}(?:(?:image|picture)s?)?)?)[\])}\"' .!`]*"
)


def parse_boxes_answer(
    completion: str, *, frame_limits: Sequence[tuple[float, float]], truncated: bool = False, tagged: bool = True
) -> Answer:
    """Read every box, with the number of its image, from a completion; arguments as of `parse_box_answer`.

    Several answer blocks are "several", and the last is read.
    """
    return read_completion(completion, lambda passage: _read(passage, frame_limits), truncated=truncated, tagged=tagged)


def _read(passage: Passage, limits: Sequence[tuple[float, float]]) -> Answer:
    exact = _read_exact_json(passage.text)
    told = exact if exact is not None else _read_text(simplify(passage.text).lower(), len(limits))
    if isinstance(told, Answer):
        return told
    readings = list(dict.fromkeys(told))
    answers = [check_reading(image, numbers, limits) for image, numbers in readings]
    if fault := next((answer for answer in answers if not answer.readable), None):
        return Answer(fault.status)
    located = [(answer.image, answer.box) for answer in answers if answer.image is not None and answer.box is not None]
    as_asked = len(readings) == len(told) and all(answer.status == "ok" for answer in answers)
    return Answer(passage.grade(is_exact=exact is not None and as_asked), located=tuple(located))


def _read_exact_json(text: str) -> list[Reading] | None:
    """What a list in the exact form says; None for any other text."""
    try:
        data = json.loads(text, object_pairs_hook=take_each_key_once)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, list):
        return None
    found = [read_exact_object(item) for item in data]
    readings = [reading for reading in found if reading is not None]
    return readings if len(readings) == len(found) else None


def _read_text(text: str, images: int) -> list[Reading] | Answer:
    """What a text in lower case with single spaces gives as its list; an unreadable answer where that is not clear."""
    boxes, mentions, _ = find_boxes(text, images)
    if len(_FILLED.findall(text)) > len(boxes):  # such as three numbers in place of four
        return Answer("malformed")
    if not boxes:
        says_none = _NONE_IN_BRACKETS.fullmatch(text) or _NONE_IN_WORDS.fullmatch(text)
        return [] if says_none else Answer("malformed")
    default = 1 if images == 1 else None
    names_follow = not any(one.end <= boxes[0].start for one in mentions)  # "[...] in image 1, [...] in image 2"
    readings: list[Reading] = []
    for box in boxes:
        behind = [one for one in mentions if one.start >= box.end] if names_follow else []
        named = find_images(box, text, behind or mentions)
        if len(named) > 1:
            return Answer("several")
        readings.append((named[0] if named else default, box.numbers))
    return readings
