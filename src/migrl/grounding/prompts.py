"""Every word a model is asked with. The hash of these texts is part of each result.

**Assumed** (the paper's prompt and output format are unknown): think tags, then an answer block
with JSON that names the image and the box (UniVG-R1's tags, MG-Thinker's JSON with an image id). Where any number of
boxes may be right, the same JSON stands in a list.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, Literal

from migrl.grounding.boxes import Frame, Size, convert_box

PromptStyle = Literal["think", "direct"]
TargetKind = Literal["box", "boxes", "choice"]

_BOX_FORM = 'inside <answer></answer> as {"image": number, "bbox_2d": [x1, y1, x2, y2]}.'
_BOXES_FORM = (
    'inside <answer></answer> as [{"image": number, "bbox_2d": [x1, y1, x2, y2]}, ...], '
    "one entry for each box; [] if there is none."
)
_CHOICE_FORM = "inside <answer></answer> with one letter, like (A)."
SUFFIXES: dict[tuple[PromptStyle, TargetKind], str] = {
    ("think", "box"): f"Think inside <think></think>, then answer {_BOX_FORM}",
    ("think", "choice"): f"Think inside <think></think>, then answer {_CHOICE_FORM}",
    ("direct", "box"): f"Answer {_BOX_FORM}",
    ("direct", "choice"): f"Answer {_CHOICE_FORM}",
    ("think", "boxes"): f"Think inside <think></think>, then answer {_BOXES_FORM}",
    ("direct", "boxes"): f"Answer {_BOXES_FORM}",
}


def build_messages(
    question: str, image_count: int, style: PromptStyle | None, kind: TargetKind
) -> list[dict[str, Any]]:
    """Chat messages of one sample: every image under its number, then the question, then the form of the answer.

    `style` None asks the bare question. Images are placeholders (`{"type": "image"}`); the pictures
    travel beside the messages, in order.
    """
    content: list[dict[str, Any]] = []
    for number in range(1, image_count + 1):
        content += [{"type": "text", "text": f"Image {number}:"}, {"type": "image"}]
    suffix = f"\n{SUFFIXES[style, kind]}" if style else ""
    content.append({"type": "text", "text": f"\n{question}{suffix}"})
    return [{"role": "user", "content": content}]


def build_own_messages(question: str, image_count: int, text: str, lead: str = "") -> list[dict[str, Any]]:
    """Chat messages as the authors of a published checkpoint ask: every image without a word, then `text`.

    `{question}` in `text` stands for the question, without `lead` at its beginning: words of ours, and not of theirs.
    Boxes that it quotes stay as they are.
    """
    asked = {"type": "text", "text": text.replace("{question}", question.removeprefix(lead))}
    return [{"role": "user", "content": [*[{"type": "image"}] * image_count, asked]}]


_QUOTED_BOX = re.compile(r"<\|box_start\|>\((\d{1,4}),(\d{1,4})\),\((\d{1,4}),(\d{1,4})\)<\|box_end\|>")


def quote_boxes(question: str, frame: Frame, *, original_size: Size, resized_size: Size) -> str:
    """Rewrite boxes that a question quotes in permille (MIG-Bench's tracking and multi-view) in `frame`.

    Both sizes are (width, height) of the first image, which is the one such boxes refer to. A model
    that speaks pixels would otherwise be asked in a language it does not answer in.
    """

    def rewrite(match: re.Match[str]) -> str:
        x1, y1, x2, y2 = (float(v) for v in match.groups())
        box = convert_box((x1, y1, x2, y2), "permille", frame, original_size=original_size, resized_size=resized_size)
        if frame == "unit":
            return "[" + ", ".join(f"{v:.3f}" for v in box) + "]"
        return "[" + ", ".join(str(round(v)) for v in box) + "]"

    return _QUOTED_BOX.sub(rewrite, question)


def hash_messages(messages: list[dict[str, Any]]) -> str:
    """Hash of one sample's prompt, kept with its result."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


def hash_prompts(kinds: Iterable[TargetKind] = ()) -> str:
    """Hash of this module's texts, part of every stage key that uses them.

    The texts that ask for a list count only where "boxes" is among `kinds`: nobody else reads them.
    """
    lists = "boxes" in set(kinds)
    texts = {"/".join(key): text for key, text in SUFFIXES.items() if lists or key[1] != "boxes"}
    example = build_messages("QUESTION", 2, "think", "box")
    return hashlib.sha256(json.dumps([texts, example], sort_keys=True).encode()).hexdigest()[:16]
