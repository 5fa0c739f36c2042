"""The part of a completion that is its answer, and what a reading of it is called."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from migrl.grounding.boxes import Box

Status = Literal["ok", "repaired", "several", "none", "malformed", "out_of_range", "truncated", "unanswered"]
STATUSES: tuple[Status, ...] = get_args(Status)
READABLE: tuple[Status, ...] = ("ok", "repaired", "several")
"""The statuses under which an answer is scored; the others count as a miss."""

MAX_ANSWER_CHARS = 2000  # a longer answer block is noise, and the bound keeps every regex linear in practice
_OPEN, _CLOSE = "<answer>", "</answer>"


@dataclass(frozen=True)
class Answer:
    """What a completion says. Boxes are in the frame the model writes in; `image` is 1-based.

    Where an answer names two letters, or two boxes, and singles out none, its status is "several" and it holds neither.
    A question that any number of boxes may answer has all of them in `located`, each with its image; () says none.
    """

    status: Status
    thought: str | None = None
    image: int | None = None
    box: Box | None = None
    letter: str | None = None
    located: tuple[tuple[int, Box], ...] | None = None

    @property
    def readable(self) -> bool:
        """Whether there is something to score: a letter, a box or a list, read under a status that counts."""
        return self.status in READABLE and (self.letter, self.box, self.located) != (None, None, None)


@dataclass(frozen=True)
class Passage:
    """Text that should hold an answer, and the best status that an answer found in it can have."""

    text: str
    status: Status

    def grade(self, *, is_exact: bool) -> Status:
        """The status of an answer found here: what is not in the exact form is at best "repaired"."""
        return self.status if is_exact or self.status != "ok" else "repaired"


def read_completion(completion: str, read: Callable[[Passage], Answer], *, truncated: bool, tagged: bool) -> Answer:
    """What `read` finds in the last answer block or, unless `tagged`, in the whole reply where that holds no answer."""
    passage = _find_passage(completion, truncated=truncated)
    answer = read(passage) if passage else Answer("truncated" if truncated else "none")
    if not tagged and answer.status in ("none", "truncated", "malformed"):
        reply = _find_reply(completion, truncated=truncated)
        whole = read(reply) if reply else answer
        answer = answer if whole.status == "malformed" else whole
    return replace(answer, thought=_find_thought(completion))


def find_answer_block(completion: str) -> str | None:
    """Content of the last closed answer block, as it stands; None without one."""
    end = completion.rfind(_CLOSE)
    start = completion.rfind(_OPEN, 0, end) if end >= 0 else -1
    return completion[start + len(_OPEN) : end] if start >= 0 else None


def simplify(text: str) -> str:
    """A text with ASCII's brackets, digits and letters for full-width ones, and single spaces."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", text)).strip()[:MAX_ANSWER_CHARS]


def _find_passage(completion: str, *, truncated: bool) -> Passage | None:
    """The last answer block that holds anything; None without a block. An overlong one counts as empty.

    A block that was never closed counts ("repaired") unless the text was cut, or the thought ends behind it.
    """
    found: list[Passage] = []
    blocks = completion.count(_CLOSE)
    for piece in completion.split(_OPEN)[1:]:
        text, closed, _ = piece.partition(_CLOSE)
        if closed:
            found.append(Passage(text, "several" if blocks > 1 else "ok"))
    _, opened, text = completion.rpartition(_OPEN)
    if opened and not truncated and text.strip() and _CLOSE not in text and "</think>" not in text:
        found.append(Passage(text, "several" if found else "repaired"))
    if not found:
        return None
    last = next((passage for passage in reversed(found) if passage.text.strip()), found[-1])
    return last if len(last.text) <= MAX_ANSWER_CHARS else Passage("", last.status)


def _find_reply(completion: str, *, truncated: bool) -> Passage | None:
    """The end of what stands after the thought, or of the whole text; None where it broke off in thought."""
    if truncated and "<think>" in completion and "</think>" not in completion:
        return None
    reply = completion.rpartition("</think>")[2]
    reply = reply if reply.strip() else completion
    for tag in (_OPEN, _CLOSE, "<think>", "</think>"):
        reply = reply.replace(tag, " ")
    return Passage(reply.strip()[-MAX_ANSWER_CHARS:], "repaired")


def _find_thought(completion: str) -> str | None:
    """Content of the first think block; None without one."""
    start = completion.find("<think>")
    end = completion.find("</think>", start + 7)
    return completion[start + 7 : end].strip() if start >= 0 and end >= 0 else None
