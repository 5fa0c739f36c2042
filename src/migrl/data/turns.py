"""A record's conversation as pairs of question and answer, without the marks of the images that it opens with."""

import re
from dataclasses import dataclass

from migrl.benchmarks.fields import Record
from migrl.files import is_unicode

PLACEHOLDER = "<image>"
_PLACEHOLDERS = re.compile(r"\s*(?:(?:image[ -]?\d{1,2}:\s*)?<image>\s*)+", re.IGNORECASE)


@dataclass(frozen=True)
class TurnForm:
    """How a conversation is written down: its key, the keys of a turn, and the names of user and model."""

    key: str
    speaker: str
    text: str
    names: tuple[str, str]


SHAREGPT = TurnForm("conversations", "from", "value", ("human", "gpt"))


def read_turns(record: Record, form: TurnForm) -> list[tuple[str, str]]:
    """(question, answer) pairs, without the image placeholders that a question opens with.

    Raises:
        UserError: no such turns, or another number of placeholders than of images.
    """
    turns = record.data[form.key]
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise record.fail(form.key, "must be a list of pairs of turns")
    values = []
    for number, turn in enumerate(turns):
        name = form.names[number % 2]
        value = turn.get(form.text) if isinstance(turn, dict) and turn.get(form.speaker) == name else None
        if not isinstance(value, str) or not is_unicode(value):
            raise record.fail(form.key, f"turn {number} must be from {name}, with a text")
        values.append(value)
    marks, images = sum(value.count(PLACEHOLDER) for value in values), len(record.texts("images"))
    if marks != images:
        raise record.fail(form.key, f"{marks} image placeholders for {images} images")
    return [(strip_placeholders(values[n]), values[n + 1]) for n in range(0, len(values), 2)]


def strip_placeholders(question: str) -> str:
    """A question without the placeholders it opens with, nor their numbers ("Image-1: <image>")."""
    opening = _PLACEHOLDERS.match(question)
    return question[opening.end() if opening else 0 :].strip()
