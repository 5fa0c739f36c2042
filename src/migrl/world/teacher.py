"""The scripted teacher: reasons well from a case's facts, and errs at stated rates.

It stands in for the paper's CoT writer, so that the filters of `synthesize` have real work. Each
planted fault is recorded beside the candidate; the filters never see the record.
"""

from dataclasses import dataclass
from random import Random
from typing import Literal, get_args

from migrl.grounding.answers import format_box_answer
from migrl.grounding.boxes import Box, Size
from migrl.recipe import ScriptedTeacher

Fault = Literal["wrong_object", "leaked_truth", "malformed", "too_long"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
LEAKS = ("The given box shows the object.", "As the true answer says, this is right.", "The ground truth is {box}.")


@dataclass(frozen=True)
class Candidate:
    """One completion of the teacher, and the fault that was planted in it."""

    completion: str
    planted: Fault | None


def write_candidate(
    rng: Random, settings: ScriptedTeacher, *, facts: str, image: int, box: Box, resized_size: Size
) -> Candidate:
    """A completion for a sample whose true box (in the model's frame) lies in image number `image`.

    Args:
        facts: the reasoning a good teacher gives.
        resized_size: (width, height) that bounds a wrong box.
    """
    rates = [settings.wrong_object, settings.leaked_truth, settings.malformed, settings.too_long]
    draw = rng.random()
    planted: Fault | None = None
    for fault, rate in zip(FAULTS, rates, strict=True):
        if draw < rate:
            planted = fault
            break
        draw -= rate
    answer = format_box_answer(image, box)
    match planted:
        case "wrong_object":
            answer = format_box_answer(image, move_away(box, resized_size))
        case "leaked_truth":
            facts = f"{facts} {rng.choice(LEAKS).format(box=[round(v) for v in box])}"
        case "malformed":
            answer = rng.choice(
                (answer.replace("</answer>", ""), answer.replace("bbox_2d", "bbox"), "<answer></answer>")
            )
        case "too_long":
            facts = " ".join([facts] * 12)
    return Candidate(f"<think>{facts}</think>{answer}", planted)


def move_away(box: Box, resized_size: Size) -> Box:
    """A box of the same size that does not touch the given one, inside the image."""
    width, height = box[2] - box[0], box[3] - box[1]
    x = 0.0 if box[0] >= resized_size[0] / 2 else resized_size[0] - width
    y = 0.0 if box[1] >= resized_size[1] / 2 else resized_size[1] - height
    return (x, y, x + width, y + height)
