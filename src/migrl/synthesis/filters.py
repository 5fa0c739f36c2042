"""Filters of synthesized reasoning. In order; the first that fires is counted:

parse      the completion does not have the exact output form, or holds a control token of the chat
iou        the answer misses the true box (IoU below `min_iou`) or names another image
leak       the thought betrays that the truth was given, or quotes the true box; "the given box" is none where the
           question itself gives a box or a region
image      the thought never names the image the answer is in
length     the thought has more words than `max_thought_words`
duplicate  the same completion was kept for the same sample before
"""

import re
from collections import Counter
from typing import Any

from migrl.grounding.answers import Answer, has_exact_form, parse_box_answer
from migrl.grounding.boxes import Box, compute_iou, frame_size
from migrl.grounding.mentions import find_images
from migrl.models.inputs import ModelInput
from migrl.recipe import SynthesizeSettings

FILTERS = ("parse", "iou", "leak", "image", "length", "duplicate")
LEAK_WORDS = re.compile(
    r"\b(ground truth|true answer|true box|annotat(ion|ed)|correct answer"
    r"|(as|was|were|is|are) (given|provided)|(given|provided) (answer|target)"
    r"|(?P<place>(given|provided) (box|bounding|coordinate|location|region)))",
    re.I,
)
GIVEN_PLACE = re.compile(
    r"<\|box_start\|>|\[ ?\d+(\.\d+)?( ?, ?\d+(\.\d+)?){3} ?\]"
    r"|\b(given|marked|highlighted|indicated|specified|red|green|blue|yellow|this|that) (bounding )?(box|region)\b"
    r"|\b(in|inside|within) (a|the) (bounding )?box\b(?! format)|\bis (a|the) region\b|\bregion (shown|seen) in\b",
    re.I,
)
"""A box or a region that a question points at; the box that it asks for ("give its bounding box") is none."""
WITHIN = re.compile(r"\b(in|inside|within|from|of|by|with)\s(the|this|that|a)\s$", re.I)
NEAR = 12  # characters, enough for "within this "
SAME_SENTENCE = re.compile(r"[^.;\n]{0,40}")
CONTROL_TOKEN = re.compile(r"<\|[a-z_]{1,40}\|>")
"""In a training text such a token would end the turn, or stand for a picture that is not there."""


def judge_candidates(item: ModelInput, completions: list[str], settings: SynthesizeSettings) -> list[str | None]:
    """For each completion the filter that rejects it, or None."""
    seen: set[str] = set()
    verdicts = []
    for completion in completions:
        verdict = judge_completion(item, completion, settings)
        if verdict is None and completion in seen:
            verdict = "duplicate"
        seen.add(completion)
        verdicts.append(verdict)
    return verdicts


def judge_completion(item: ModelInput, completion: str, settings: SynthesizeSettings) -> str | None:
    """The first filter that rejects a completion, or None."""
    limits = [
        frame_size(item.frame, original_size=size, resized_size=resized)
        for size, resized in zip(item.sizes, item.resized_sizes, strict=True)
    ]
    answer = parse_box_answer(completion, frame_limits=limits)
    if not has_exact_form(completion, "box") or answer.box is None or answer.thought is None:
        return "parse"
    if CONTROL_TOKEN.search(completion):
        return "parse"
    image = item.box_target.image
    if answer.image != image or compute_iou(answer.box, item.true_box) < settings.min_iou:
        return "iou"
    if leaks_truth(answer, item.true_box, question=item.sample.question, image=image):
        return "leak"
    if image not in find_images(answer.thought, count=len(item.sizes)):
        return "image"
    if len(answer.thought.split()) > settings.max_thought_words:
        return "length"
    return None


def leaks_truth(answer: Answer, box: Box, *, question: str, image: int) -> bool:
    """Whether a thought says that the truth was given, or quotes the true box.

    Where the question gives a place, a thought may speak of what is in "the given box", or of the given box in an image
    that is not the target `image`.
    """
    thought = answer.thought or ""
    is_given = GIVEN_PLACE.search(question) is not None
    for found in LEAK_WORDS.finditer(thought):
        following = SAME_SENTENCE.match(thought, found.end())
        named = find_images(following[0]) if following else set()
        is_free = found["place"] and is_given and image not in named
        if not (is_free and (named or WITHIN.search(thought[max(0, found.start() - NEAR) : found.start()]))):
            return True
    numbers = r"\D{1,6}".join(str(round(v)) for v in box)
    return re.search(rf"\b{numbers}\b", thought) is not None


def count_filters(rows: list[dict[str, Any]], kept: int) -> dict[str, Any]:
    """Counts for the evidence: rejections by filter, and for each planted fault how many were caught."""
    rejected = Counter(row["rejected"] for row in rows if row["rejected"])
    planted = Counter(row["planted"] for row in rows if row.get("planted"))
    caught = Counter(row["planted"] for row in rows if row.get("planted") and row["rejected"])
    return {
        "candidates": len(rows),
        "kept": kept,
        "rejected": {name: rejected[name] for name in FILTERS},
        "planted": {name: {"planted": planted[name], "caught": caught[name]} for name in sorted(planted)},
    }
