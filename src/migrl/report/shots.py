"""One sample as a page shows it: its pictures with boxes over them, and what each model answered.

The jinja macros that draw these are in `sample.html`; the report's explorer and the comparison of two
runs share both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from migrl.grounding.boxes import Box, convert_box
from migrl.grounding.samples import BoxTarget, Sample
from migrl.report.embed import Picture
from migrl.scoring.rows import EvaluationRow, ScoredRow

THOUGHT_CHARS = (900, 300)  # shown from the head and the tail of an overlong thought
ANSWER_CHARS = (300, 100)


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
    """What one model answered; `name` is what a reader calls it, `shot` the image it names, with both boxes."""

    name: str
    row: ScoredRow
    parts: tuple[Part, ...]
    shot: Shot | None


def place_true_boxes(sample: Sample, pictures: Mapping[str, Picture]) -> tuple[Shot, ...]:
    """The images of a sample in order, with the true box over the target; `pictures` are its embedded ones by path."""
    return tuple(_frame(sample, pictures[path], number) for number, path in enumerate(sample.images, start=1))


def read_reply(row: EvaluationRow, shots: Sequence[Shot], name: str) -> Reply:
    """One model's evaluation row as a page shows it; `shots` are the sample's, from `place_true_boxes`."""
    boxes, number, shot = row.score.boxes, row.score.image, None
    if boxes and number is not None and 1 <= number <= len(shots):
        shot = replace(shots[number - 1], predicted_box_px=boxes["original_px"])
    return Reply(name, row, split_completion(row.completion), shot)


def split_completion(completion: str) -> tuple[Part, ...]:
    """Thought and answer (from the last `<answer>` on) as they stand; the middle of overlong ones is left out."""
    start = completion.rfind("<answer>")
    thought, answer = (completion, "") if start < 0 else (completion[:start], completion[start:])
    return (*_shorten("thought", thought, *THOUGHT_CHARS), *_shorten("answer", answer, *ANSWER_CHARS))


def _frame(sample: Sample, picture: Picture, number: int) -> Shot:
    target = sample.target
    if not isinstance(target, BoxTarget) or target.image != number:
        return Shot(picture, number, is_target=False, true_box_px=None)
    size = (picture.width, picture.height)
    box_px = convert_box(target.box_unit, "unit", "original_px", original_size=size, resized_size=size)
    return Shot(picture, number, is_target=True, true_box_px=box_px)


def _shorten(kind: Literal["thought", "answer"], text: str, head: int, tail: int) -> list[Part]:
    omitted = len(text) - head - tail
    if omitted <= 0:
        return [Part(kind, text)] if text.strip() else []
    note = Part("omitted", f"{omitted:,} of {len(text):,} characters not shown")
    return [Part(kind, text[:head]), note, Part(kind, text[-tail:])]
