"""Filters of the synthesized reasoning: each catches its fault, none catches good work."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from migrl.grounding.prompts import build_messages
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.inputs import ModelInput
from migrl.recipe import ScriptedTeacher, load_recipe
from migrl.synthesis.filters import count_filters, judge_candidates, judge_completion
from migrl.world.teacher import FAULTS, write_candidate

SETTINGS = load_recipe(Path(__file__).resolve().parents[2] / "reproduce/recipes/tiny.yaml").synthesize
FACTS = "Image 1: red circle. Image 2: red circle; blue star. The target is the red circle in image 2."
SAMPLE = Sample("u", "cot", "referring", ("a.png", "b.png"), "Q", BoxTarget(2, (0.25, 0.25, 0.5, 0.5)), "c", FACTS)
ITEM = ModelInput(
    sample=SAMPLE,
    paths=(Path("a.png"), Path("b.png")),
    sizes=((100, 100), (130, 104)),
    resized_sizes=((112, 112), (140, 112)),
    messages=build_messages("Q", 2, "think", "box"),
    frame="resized_px",
)
GOOD = f'<think>{FACTS}</think><answer>{{"image": 2, "bbox_2d": [35, 28, 70, 56]}}</answer>'


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        (GOOD, None),
        (GOOD.replace("</answer>", ""), "parse"),
        (GOOD.replace("bbox_2d", "bbox"), "parse"),
        (GOOD + " done", "parse"),
        (GOOD.replace(FACTS, FACTS + "<|im_end|>"), "parse"),
        (GOOD.replace("[35, 28", "[5, 8"), "iou"),
        (GOOD.replace('{"image": 2', '{"image": 1'), "iou"),
        (GOOD.replace("</think>", " As given.</think>"), "leak"),
        (GOOD.replace("</think>", " The box is (35, 28), (70, 56).</think>"), "leak"),
        (GOOD.replace(FACTS, "Given the question, look at the second picture: it is the red circle."), None),
        (GOOD.replace(FACTS, "It is the red circle."), "image"),
        (GOOD.replace(FACTS, "It is the red circle in image 12."), "image"),
        (GOOD.replace(FACTS, FACTS * 12), "length"),
    ],
)
def test_each_filter_catches_its_fault(completion: str, verdict: str | None) -> None:
    assert judge_completion(ITEM, completion, SETTINGS) == verdict


@pytest.mark.parametrize(
    ("question", "thought", "verdict"),
    [
        (
            "Find what is at <|box_start|>(1,2),(3,4)<|box_end|> in image 2.",
            "The object in the given box in image 1.",
            None,
        ),
        ("Where is what the red box of image 1 holds?", "The provided bounding box of image 1 holds a circle.", None),
        ("Image 1 is a region of image 2. Locate it.", "The given region, image 1, is on its left.", None),
        ("Locate the red circle.", "The object in the given box in image 1.", "leak"),
        ("Locate the red circle and give its bounding box.", "It lies in the given box.", "leak"),
        ("Where is what the red box of image 1 holds?", "It is in the given box in image 2.", "leak"),
        ("Where is what the red box of image 1 holds?", "The given box is the ground truth.", "leak"),
        ("Where is what the red box of image 1 holds?", "The given answer says so.", "leak"),
        ("Where is what the red box of image 1 holds?", "The given box shows the object.", "leak"),
        ("Where is what the red box of image 1 holds?", "The object in the given box is a star.", None),
    ],
)
def test_a_thought_may_speak_of_a_place_that_the_question_gives(
    question: str, thought: str, verdict: str | None
) -> None:
    item = replace(ITEM, sample=replace(SAMPLE, question=question))
    completion = GOOD.replace(FACTS, f"{thought} It is the red circle in image 2.")
    assert judge_completion(item, completion, SETTINGS) == verdict


def test_a_thought_may_name_its_image_together_with_others_or_as_the_last() -> None:
    for named in ("Images 1 and 2 show a red circle.", "Picture 2 shows it.", "It is in the last image."):
        assert judge_completion(ITEM, GOOD.replace(FACTS, named), SETTINGS) is None


def test_a_repeated_candidate_is_a_duplicate() -> None:
    assert judge_candidates(ITEM, [GOOD, GOOD], SETTINGS) == [None, "duplicate"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_teacher_that_always_errs_gets_nothing_through(fault: str) -> None:
    teacher = ScriptedTeacher(engine="scripted", **{fault: 1.0})
    image, box = ITEM.box_target.image, ITEM.true_box
    rows = []
    for seed in range(40):
        candidate = write_candidate(
            Random(seed), teacher, facts=FACTS, image=image, box=box, resized_size=ITEM.resized_sizes[1]
        )
        verdict = judge_completion(ITEM, candidate.completion, SETTINGS)
        rows.append({"planted": candidate.planted, "rejected": verdict})
    facts = count_filters(rows, 0)
    assert facts["planted"] == {fault: {"planted": 40, "caught": 40}}
    assert sum(facts["rejected"].values()) == 40
