"""What a model is asked when it is the teacher: one text a task family, set into a frame that all share.

The texts are files in `texts/`. Their hash is part of synthesize's key and of no other stage's. All words are ours;
that the truth is shown, that the teacher acts as if it were not, and that a task family has two steps of its own
follows UniVG-R1 and MG-Thinker (**assumed**: the paper's prompts are unknown).
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from migrl.grounding.answers import format_box_answer
from migrl.grounding.boxes import frame_size
from migrl.grounding.prompts import build_messages, quote_boxes

if TYPE_CHECKING:
    from migrl.models.inputs import ModelInput  # loads torch; the stage's key needs the hash alone

TEXTS = Path(__file__).resolve().parent / "texts"
COMMON = "common"
DEFAULT_FAMILY = "free_form"
FAMILIES = {
    # MGrounding-630k
    "Common_Object": "common_object",
    "Difference": "difference",
    "Free-Form": "free_form",
    "Group_Grounding": "group",
    "Object_Tracking": "tracking",
    "Referring_Grounding": "referring",
    "Region_Locating": "region",
    # the tiny world
    "static_difference": "difference",
    "robust_difference": "difference",
    "common_object": "common_object",
    "object_tracking": "tracking",
    "multi_view": "tracking",
    "region": "region",
    "referring": "referring",
    "group_grounding": "group",
    "reasoning": "free_form",
    "correspondence": "free_form",
}
"""The family of each training task; any other task has DEFAULT_FAMILY."""


def find_family(task: str) -> str:
    """The task family whose text a sample of `task` is asked with."""
    return FAMILIES.get(task, DEFAULT_FAMILY)


def read_text(name: str) -> str:
    """The text of a family, or the common frame, as the file has it."""
    return (TEXTS / f"{name}.txt").read_text(encoding="utf-8").strip()


def prompt_item(item: "ModelInput", max_words: int) -> "ModelInput":
    """The same sample, asked as a teacher is: with the true box, in the frame of `item`, in place of the form's rules.

    The question comes from a data set. It is put into the text by plain substitution, and never read as a pattern.
    """
    target, sample = item.box_target, item.sample
    sizes = {"original_size": item.sizes[target.image - 1], "resized_size": item.resized_sizes[target.image - 1]}
    width, height = frame_size(item.frame, **sizes)
    answer = format_box_answer(target.image, item.true_box)
    text = Template(read_text(COMMON)).substitute(
        question=quote_boxes(
            sample.question, item.frame, original_size=item.sizes[0], resized_size=item.resized_sizes[0]
        ),
        steps=Template(read_text(find_family(sample.task))).substitute(image=target.image),
        image=target.image,
        box=[round(v) for v in item.true_box],
        width=f"{width:g}",
        height=f"{height:g}",
        words=max_words,
        answer=answer,
    )
    return replace(item, messages=build_messages(text, len(item.paths), None, "box"))


def hash_teacher_prompts() -> str:
    """Hash of every text, of which task has which, and of how they are put beside the pictures."""
    texts = {name: read_text(name) for name in sorted({COMMON, DEFAULT_FAMILY, *FAMILIES.values()})}
    data = json.dumps([texts, FAMILIES, DEFAULT_FAMILY, build_messages("TEXT", 2, None, "box")], sort_keys=True)
    return hashlib.sha256(data.encode()).hexdigest()[:16]
