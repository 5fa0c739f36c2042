"""What a parser makes of a completion. Parsers are pure functions of text; none raises on any text.

`compat` parsers do what an official script does, whatever we think of it; their text is read by the
scripts' own patterns, so that a score can be compared with a published one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from migrl.grounding.answers import Answer, Status
from migrl.grounding.boxes import Frame

ExactBox = tuple[Fraction, Fraction, Fraction, Fraction]
MAX_DIGITS = 32  # longer numbers are noise; the bound keeps exact arithmetic cheap


@dataclass(frozen=True)
class BoxQuestion:
    """What a box parser may know of the question.

    Attributes:
        frame: the frame the model writes in.
        target_image: 1-based number of the image that holds the true box, or the best guess.
        frame_limits: (width, height) of each image in `frame`.
    """

    frame: Frame
    target_image: int
    frame_limits: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class BoxReading:
    """A box as read: four numbers in `frame`, in or out of order, and the image the completion names."""

    status: Status
    box: ExactBox | None = None
    frame: Frame = "unit"
    image: int | None = None


@dataclass(frozen=True)
class ChoiceQuestion:
    """What a letter parser may know: the number of options, and their texts where the file holds them."""

    options: int
    choices: tuple[str, ...] = ()

    @property
    def letters(self) -> str:
        return "".join(chr(ord("A") + index) for index in range(self.options))


BoxParser = Callable[[str, BoxQuestion], BoxReading]
LetterParser = Callable[[str, ChoiceQuestion], Answer]


def read_numbers(texts: Sequence[str]) -> ExactBox | None:
    """Four decimal texts as exact numbers; None if one is too long to be a coordinate."""
    if any(len(text) > MAX_DIGITS for text in texts):
        return None
    x1, y1, x2, y2 = (Fraction(text) for text in texts)
    return (x1, y1, x2, y2)
