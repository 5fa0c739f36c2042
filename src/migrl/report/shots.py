"""One sample as a page shows it: its pictures with boxes over them, and what each model answered.

The jinja macros that draw these are in `sample.html`; the report's explorer and the comparison of two
runs share both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from migrl.grounding.boxes import Box, convert_box
from migrl.grounding.samples import Sample, list_boxes
from migrl.report.embed import Picture
from migrl.scoring.rows import EvaluationRow, ScoredRow

THOUGHT_CHARS = (900, 300)  # shown from the head and the tail of an overlong thought
ANSWER_CHARS = (300, 100)


@dataclass(frozen=True)
class Shot:
    """A picture as one sample shows it: its 1-based number and the boxes over it, in original px.

    `is_target` says that a true box lies in it.
    """

    picture: Picture
    number: int
    true_boxes_px: tuple[Box, ...] = ()
    predicted_boxes_px: tuple[Box, ...] = ()

    @property
    def is_target(self) -> bool:
        return bool(self.true_boxes_px)


@dataclass(frozen=True)
class Part:
    """A piece of a completion. For kind `omitted`, `text` says how much is not shown."""

    kind: Literal["thought", "answer", "omitted"]
    text: str


@dataclass(frozen=True)
class Reply:
    """What one model answered; `name` is what a reader calls it, `shots` the images it names, with all boxes."""

    name: str
    row: ScoredRow
    parts: tuple[Part, ...]
    shots: tuple[Shot, ...]


def place_true_boxes(sample: Sample, pictures: Mapping[str, Picture]) -> tuple[Shot, ...]:
    """The images of a sample in order, the true boxes over them; `pictures` are its embedded ones by path."""
    return tuple(_frame(sample, pictures[path], number) for number, path in enumerate(sample.images, start=1))


def read_reply(row: EvaluationRow, shots: Sequence[Shot], name: str) -> Reply:
    """One model's evaluation row as a page shows it; `shots` are the sample's, from `place_true_boxes`."""
    return Reply(name, row, split_completion(row.completion), place_predicted_boxes(shots, row.score.named_px))


def place_predicted_boxes(shots: Sequence[Shot], named: Sequence[tuple[int, Box]]) -> tuple[Shot, ...]:
    """Those of a sample's shots that boxes lie in, with these; `named` are 1-based images, boxes in original px."""
    return tuple(
        replace(shot, predicted_boxes_px=boxes)
        for shot in shots
        if (boxes := tuple(box_px for image, box_px in named if image == shot.number))
    )


def split_completion(completion: str) -> tuple[Part, ...]:
    """Thought and answer (from the last `<answer>` on) as they stand; the middle of overlong ones is left out."""
    start = completion.rfind("<answer>")
    thought, answer = (completion, "") if start < 0 else (completion[:start], completion[start:])
    return (*_shorten("thought", thought, *THOUGHT_CHARS), *_shorten("answer", answer, *ANSWER_CHARS))


def _frame(sample: Sample, picture: Picture, number: int) -> Shot:
    size = (picture.width, picture.height)
    boxes_px = [
        convert_box(box.box_unit, "unit", "original_px", original_size=size, resized_size=size)
        for box in list_boxes(sample.target)
        if box.image == number
    ]
    return Shot(picture, number, tuple(boxes_px))


def _shorten(kind: Literal["thought", "answer"], text: str, head: int, tail: int) -> list[Part]:
    omitted = len(text) - head - tail
    if omitted <= 0:
        return [Part(kind, text)] if text.strip() else []
    note = Part("omitted", f"{omitted:,} of {len(text):,} characters not shown")
    return [Part(kind, text[:head]), note, Part(kind, text[-tail:])]
