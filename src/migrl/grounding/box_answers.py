"""The box that an answer gives, and the image it lies in.

The exact form is one JSON object with a whole number `image` and four numbers `bbox_2d`. Anything else is read as text,
near-miss JSON too: four numbers in brackets, two corners, named corners, or four bare numbers. A box lies in the image
that its own object names, else in the one named last before it, else in the next one named.

Boxes and images that are denied ("not in image 1") or only compared with ("matches image 1") count where there is
nothing else. Of several boxes the one that is said to be the answer is singled out ("so it is ..."), or none.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from migrl.grounding.answer_text import Answer, Passage, read_completion, simplify
from migrl.grounding.boxes import BoxError, check_box
from migrl.grounding.mentions import Mention, find_mentions

_PLAIN = r"-?\d{1,6}(?:\.\d{1,20})?"
_NUMBER = rf"[\"']?{_PLAIN}[\"']?"
_NEXT = r"(?: ?[,;] ?| )"
_PAIR = rf"[\[(] ?{_NUMBER}{_NEXT}{_NUMBER} ?[\])]"
_BETWEEN = (
    r"(?: ?[,;] ?(?:and |to )?| (?:and|to) | ?(?:-+>?|[–—→]) ?| ?)"
    r"(?:(?:the )?[\"']?(?:(?:bottom|lower)[ _-]?right|br)[\"']?(?: corner)?(?: at| is)? ?[:=]? ?)?"
)
_IN_BRACKETS = re.compile(
    rf"[\[({{>] ?{_NUMBER}(?:{_NEXT}{_NUMBER}){{3}} ?[\])}}<]|(?P<corners>{_PAIR}(?:{_BETWEEN}{_PAIR})+)"
)
_CORNER = re.compile(
    r"(?<![a-z0-9])(?:(x_?1|x_?min|left)|(y_?1|y_?min|top)|(x_?2|x_?max|right)|(y_?2|y_?max|bottom))"
    rf"[\"']? ?[:=] ?[\"']?({_PLAIN})(?![\d.]*\d)"
)
_BARE_RUN = re.compile(r"(?<![\d.\[(])(?<![\[(] )(?<!\d,)(?<!\d, )-?\d+(?:\.\d+)?(?: ?, ?-?\d+(?:\.\d+)?)*")
_BARE_NUMBER = re.compile(_PLAIN)
_WORDS = r"(?: (?!is\b|are\b|was\b|lies\b|but\b)[\w'#:-]+){0,5} ?$"
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|unlike|than|instead of|rather than|except|excluding)|n't)" + _WORDS
)
_COMPARED = re.compile(
    r"\b(?:matches|same as|like|as in|similar to|identical to|equal to|corresponds? to|compared (?:to|with))" + _WORDS
)
_INSIDE = re.compile(r" ?[(,]? ?(?:in|of|on|within|inside) (?:the )?")
_TOUCHES = re.compile(r"[^a-z]*(?:(?:box|bbox|bbox_2d|bounding box|at)[^a-z]*)?")
_CUE = re.compile(
    r"\b(?:answer|correct|therefore|thus|hence|so|(?:is|are)(?: now)?(?: located| found)? at|moves? to)\b"
    r"|(?P<change>\b(?:final(?:ly)?|correction|corrected|actually|wait|sorry|instead|no|rather)\b)"
)
_AND = re.compile(r"[ ,;/&]*(?:or|and)?[ ,;/&]*(?:(?:at|in|with) )?#*[ :,;=]*")
_JOINT = re.compile(r",? ?(?:and|or|/|&) ?(?:(?:in|at) )?(?:the )?")
_NEAR = 60  # characters: as far as a word before a box, or before an image, speaks of it


Reading = tuple[int | None, tuple[float, ...]]
"""The image that a box is said to lie in, and its numbers."""


@dataclass(frozen=True)
class Found:
    """Four numbers that stand at `start:end` of an answer, in order or not."""

    start: int
    end: int
    numbers: tuple[float, ...]


def parse_box_answer(
    completion: str,
    *,
    frame_limits: Sequence[tuple[float, float]],
    truncated: bool = False,
    default_image: int | None = None,
    tagged: bool = True,
) -> Answer:
    """Read image number and box from a completion.

    Two different boxes of which none is singled out, or a box said to lie in two images, are no answer: status
    "several", no box, a miss. Several answer blocks, the last of which has one box, are "several" too, and are read.

    Args:
        completion: raw text of the model.
        frame_limits: (width, height) of each input image in the frame the model writes in.
        truncated: whether the text stopped at the token limit; an open answer block is then not read.
        default_image: the image meant where the answer names none (1-based); a single image needs no name.
        tagged: False reads the whole reply by the same rule where no answer block holds an answer; then never "ok".
    """
    default = default_image or (1 if len(frame_limits) == 1 else None)
    return read_completion(
        completion, lambda passage: _read(passage, frame_limits, default), truncated=truncated, tagged=tagged
    )


def _read(passage: Passage, limits: Sequence[tuple[float, float]], default: int | None) -> Answer:
    exact = _read_exact_json(passage.text)
    readings = {exact} if exact else _read_text(simplify(passage.text).lower(), len(limits), default)
    if not readings:
        return Answer("malformed")
    images = {image for image, _ in readings}
    if len(readings) > 1:
        return Answer("several", image=images.pop() if len(images) == 1 else None)
    image, numbers = readings.pop()
    answer = check_reading(image, numbers, limits)
    is_exact = exact is not None and answer.status == "ok"
    return replace(answer, status=passage.grade(is_exact=is_exact)) if answer.readable else answer


def check_reading(image: int | None, numbers: tuple[float, ...], limits: Sequence[tuple[float, float]]) -> Answer:
    """The answer if it fits the images; "repaired", and clipped, where the box is beyond the edge by rounding only."""
    if image is None or not 1 <= image <= len(limits):
        return Answer("out_of_range" if image is not None else "malformed", image=image)
    try:
        box = check_box(numbers)
    except (BoxError, OverflowError):
        return Answer("malformed", image=image)
    width, height = limits[image - 1]
    if box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height:
        return Answer("ok", image=image, box=box)
    # One px (or permille) beyond the edge is rounding, and is clipped; more is a box outside the picture.
    slack = 1.0 if width > 1 else 0.0
    clipped = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height)))
    beyond = max(abs(a - b) for a, b in zip(box, clipped, strict=True)) > slack
    if beyond or clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        return Answer("out_of_range", image=image, box=box)
    return Answer("repaired", image=image, box=clipped)


def _read_exact_json(text: str) -> Reading | None:
    """What the exact form says; None for any other, also where a key comes twice."""
    try:
        data = json.loads(text, object_pairs_hook=take_each_key_once)
    except (ValueError, RecursionError):
        return None
    return read_exact_object(data)


def read_exact_object(data: Any) -> Reading | None:
    """What a decoded object of the exact form says; None for anything else."""
    try:
        image, numbers = data["image"], data["bbox_2d"]
    except (KeyError, TypeError, IndexError):
        return None
    if type(image) is not int or not isinstance(numbers, list) or len(numbers) != 4:
        return None
    if any(type(number) not in (int, float) for number in numbers):
        return None
    return image, tuple(numbers)


def take_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key comes twice")
    return data


def _read_text(text: str, images: int, default: int | None) -> set[Reading]:
    """What a text in lower case with single spaces gives as its answer: one reading, or more if it is not clear."""
    boxes, mentions, blank = find_boxes(text, images)
    return {
        (image, box.numbers)
        for box in _single_out(boxes, blank)
        for image in (find_images(box, text, mentions) or (default,))
    }


def find_boxes(text: str, images: int) -> tuple[list[Found], list[Mention], str]:
    """The boxes of a text in lower case with single spaces, the images it mentions, and the text without these.

    What is denied or only compared with is left out, unless there is nothing else.
    """
    mentions = _join(find_mentions(text, count=images), text)
    blank = _blank(text, mentions)
    boxes = _find_in_brackets(text) + _find_named_corners(text) or _find_bare(blank)
    boxes.sort(key=lambda box: box.start)
    for aside in (_DENIED, _COMPARED):
        boxes = [box for box in boxes if not _is_told_by(aside, blank, box.start)] or boxes
        mentions = [one for one in mentions if not _is_told_by(aside, blank, one.start)] or mentions
    return boxes, mentions, blank


def _is_told_by(aside: re.Pattern[str], blank: str, start: int) -> bool:
    return aside.search(blank, max(0, start - _NEAR), start) is not None


def _join(mentions: list[Mention], text: str) -> list[Mention]:
    """The mentions, those named in one breath ("image 1 or image 2") as one."""
    joined: list[Mention] = []
    for one in mentions:
        if joined and _JOINT.fullmatch(text, joined[-1].end, one.start):
            before = joined.pop()
            one = Mention(before.start, one.end, (*before.images, *one.images), is_key=before.is_key)
        joined.append(one)
    return joined


def _blank(text: str, mentions: list[Mention]) -> str:
    """The text with a # for each character of a mention, so that no number of an image is read as a coordinate."""
    parts, end = [], 0
    for one in mentions:
        parts += [text[end : one.start], "#" * (one.end - one.start)]
        end = one.end
    return "".join([*parts, text[end:]])


def _find_in_brackets(text: str) -> list[Found]:
    boxes = []
    for found in _IN_BRACKETS.finditer(text):
        numbers = [float(number) for number in _BARE_NUMBER.findall(found[0])]
        # Three corners are no box; four are two boxes, if they are any.
        quarters = [numbers[at : at + 4] for at in range(0, len(numbers), 4)] if len(numbers) % 4 == 0 else []
        boxes += [Found(found.start(), found.end(), tuple(quarter)) for quarter in quarters]
    return boxes


def _find_named_corners(text: str) -> list[Found]:
    boxes = []
    sides: dict[int, float] = {}
    start = 0
    for found in _CORNER.finditer(text):
        side = next(side for side in range(4) if found[side + 1])
        if not sides or side in sides:
            sides, start = {}, found.start()
        sides[side] = float(found[5])
        if len(sides) == 4:
            boxes.append(Found(start, found.end(), tuple(sides[side] for side in range(4))))
            sides = {}
    return boxes


def _find_bare(text: str) -> list[Found]:
    """Four numbers in a row without brackets, neither three nor five."""
    boxes = []
    for found in _BARE_RUN.finditer(text):
        numbers = [number.strip() for number in found[0].split(",")]
        if len(numbers) == 4 and all(_BARE_NUMBER.fullmatch(number) for number in numbers):
            boxes.append(Found(found.start(), found.end(), tuple(map(float, numbers))))
    return boxes


def _single_out(boxes: list[Found], blank: str) -> list[Found]:
    """The boxes that are said to be the answer; all of them if none is. Boxes named in one breath stay together."""
    groups: list[list[Found]] = []
    cued: list[list[Found]] = []
    for box in boxes:
        end = groups[-1][-1].end if groups else 0
        if groups and _AND.fullmatch(blank, end, box.start):
            groups[-1].append(box)
            continue
        groups.append([box])
        if cues := list(_CUE.finditer(blank, max(end, box.start - _NEAR), box.start)):
            changed = any(cue["change"] for cue in cues)
            cued = [groups[-1]] if changed else [*cued, groups[-1]]
    return [box for group in cued or groups for box in group]


def find_images(box: Found, text: str, mentions: list[Mention]) -> tuple[int, ...]:
    """The images that a box is said to lie in: one, none, or several where the text leaves it open."""
    start, end = text.rfind("{", 0, box.start), text.find("}", box.end)
    if start > text.rfind("}", 0, box.start) and end >= 0:
        inside = [one for one in mentions if start < one.start < end]
        if keys := {image for one in inside if one.is_key for image in one.images}:
            return tuple(keys)
        mentions = inside or mentions
    before = [one for one in mentions if one.end <= box.start]
    after = [one for one in mentions if one.start >= box.end]
    if before and after and _INSIDE.fullmatch(text, box.end, after[0].start):
        # "the object of image 1 is at [...] in image 2", but "image 2: [...] in image 1" as it begins
        if not _TOUCHES.fullmatch(text, before[-1].end, box.start):
            return after[0].images
    return before[-1].images if before else after[0].images if after else ()
