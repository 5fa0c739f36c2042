"""Rewards: the metric's own scorer, gated as the recipe says, zero variance counted on hits."""

import pytest

from migrl.scoring.completions import Score
from migrl.training.rewards import compute_accuracy_reward, make_reward_functions, measure_zero_variance

TARGET = {"image": 2, "box_unit": [0.25, 0.25, 0.5, 0.5], "letter": None, "options": None}
END = 7
SIZES = [[100, 100], [200, 200]]
RESIZED = [[112, 112], [112, 112]]
RIGHT = '<think>Image 2: red circle.</think><answer>{"image": 2, "bbox_2d": [28, 28, 56, 56]}</answer>'
NEAR = RIGHT.replace("56, 56", "56, 38")
WRONG_IMAGE = RIGHT.replace('"image": 2', '"image": 1')
BARE = RIGHT.split("</think>")[1]


def reward(
    kind: str, *texts: str, ids: list[list[int]] | None = None
) -> tuple[list[float], list[float], dict[str, float]]:
    metrics: dict[str, float] = {}
    accuracy, form = make_reward_functions(kind, 2, "resized_px", [END])
    columns = {
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [[5, 6, END] for _ in texts] if ids is None else ids,
        "target": [TARGET] * len(texts),
        "sizes": [SIZES] * len(texts),
        "resized_sizes": [RESIZED] * len(texts),
        "log_metric": metrics.__setitem__,
    }
    return accuracy(**columns), form(**columns), metrics


@pytest.mark.parametrize(("kind", "near"), [("iou", pytest.approx(10 / 28)), ("gated_iou", 0.0), ("hit", 0.0)])
def test_a_near_miss_earns_its_iou_only_without_a_gate(kind: str, near: float) -> None:
    accuracy, _, _ = reward(kind, RIGHT, NEAR, WRONG_IMAGE, "no answer")
    assert accuracy == [1.0, near, 0.0, 0.0]


def test_an_answer_that_was_cut_at_the_limit_is_the_miss_that_it_is_in_evaluation() -> None:
    unclosed = RIGHT.removesuffix("</answer>")
    accuracy, _, _ = reward("hit", unclosed, unclosed, RIGHT, ids=[[5, END], [5, 6], [5, 6]])
    assert accuracy == [1.0, 0.0, 1.0]


def test_the_format_reward_needs_thought_and_answer_and_nothing_else() -> None:
    _, form, _ = reward("hit", RIGHT, BARE, RIGHT + " extra", WRONG_IMAGE)
    assert form == [1.0, 0.0, 0.0, 1.0]


def test_groups_that_all_miss_have_no_variance_even_if_their_iou_differs() -> None:
    _, _, metrics = reward("iou", NEAR, WRONG_IMAGE, RIGHT, NEAR)
    assert metrics == {"hit": 0.25, "zero_variance": 0.5}
    assert measure_zero_variance([True, True, False, False], 2) == 1.0


def test_a_choice_is_rewarded_by_its_letter_whatever_the_gate() -> None:
    score = Score("ok", None, None, "B", None, True)
    assert {compute_accuracy_reward(score, kind) for kind in ("iou", "gated_iou", "hit")} == {1.0}
