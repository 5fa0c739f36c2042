"""Rewards: the metric's own scorer reads each rollout once, and a recipe adds up any of the table's functions."""

from pathlib import Path
from typing import get_args

import pytest

from migrl.grounding.samples import BoxTarget, ChoiceTarget, Sample
from migrl.models.inputs import ModelInput
from migrl.recipe import RewardName, RewardSettings
from migrl.training.rewards import REWARDS, RolloutReader, make_reward_functions, measure_zero_variance

END = 7
RIGHT = '<think>Image 2: red circle.</think><answer>{"image": 2, "bbox_2d": [28, 28, 56, 56]}</answer>'
NEAR = RIGHT.replace("56, 56", "56, 38")
WRONG_IMAGE = RIGHT.replace('"image": 2', '"image": 1')
BARE = RIGHT.split("</think>")[1]


def make_item(uid: str, target: BoxTarget | ChoiceTarget) -> ModelInput:
    sample = Sample(uid, "b", "t", ("1.png", "2.png"), "Where?", target, "c")
    paths = (Path("1.png"), Path("2.png"))
    return ModelInput(sample, paths, ((100, 100), (200, 200)), ((112, 112), (112, 112)), [], "resized_px")


ITEMS = [
    make_item("box", BoxTarget(2, (0.25, 0.25, 0.5, 0.5))),
    make_item("choice", ChoiceTarget("B", 4)),
]


def reward(
    names: list[str], *texts: str, uid: str = "box", ids: list[list[int]] | None = None
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Rewards by name, and what was logged, each metric once."""
    metrics: dict[str, float] = {}

    def log_metric(name: str, value: float) -> None:
        assert name not in metrics
        metrics[name] = value

    settings = [RewardSettings(name=name, weight=1) for name in names]
    columns = {
        "completions": [[{"role": "assistant", "content": text}] for text in texts],
        "completion_ids": [[5, 6, END] for _ in texts] if ids is None else ids,
        "uid": [uid] * len(texts),
        "log_metric": log_metric,
    }
    functions = make_reward_functions(settings, RolloutReader(ITEMS, 2, [END]))
    return {function.__name__: function(**columns) for function in functions}, metrics


def test_every_name_that_a_recipe_may_write_is_a_reward() -> None:
    assert set(get_args(RewardName)) == REWARDS.keys()


@pytest.mark.parametrize(
    ("name", "near"), [("accuracy", pytest.approx(10 / 28)), ("gated_accuracy", 0.0), ("hit", 0.0)]
)
def test_a_near_miss_earns_its_iou_only_without_a_gate(name: str, near: float) -> None:
    rewards, _ = reward([name], RIGHT, NEAR, WRONG_IMAGE, "no answer")
    assert rewards[name] == [1.0, near, 0.0, 0.0]


def test_an_answer_that_was_cut_at_the_limit_is_the_miss_that_it_is_in_evaluation_and_can_be_punished() -> None:
    unclosed = RIGHT.removesuffix("</answer>")
    ids = [[5, END], [5, 6], [5, 6]]
    rewards, _ = reward(["hit", "truncation"], unclosed, unclosed, RIGHT, ids=ids)
    assert rewards == {"hit": [1.0, 0.0, 1.0], "truncation": [0.0, -1.0, -1.0]}


def test_the_format_reward_needs_thought_and_answer_and_nothing_else() -> None:
    rewards, _ = reward(["format"], RIGHT, BARE, RIGHT + " extra", WRONG_IMAGE)
    assert rewards["format"] == [1.0, 0.0, 0.0, 1.0]


def test_groups_that_all_miss_have_no_variance_even_if_their_iou_differs() -> None:
    _, metrics = reward(["accuracy", "format"], NEAR, WRONG_IMAGE, RIGHT, NEAR)
    assert metrics == {"hit": 0.25, "zero_variance": 0.5}
    assert measure_zero_variance([True, True, False, False], 2) == 1.0


def test_a_choice_is_rewarded_by_its_letter_whatever_the_gate() -> None:
    names = ["accuracy", "gated_accuracy", "hit"]
    rewards, _ = reward(names, "<think>x</think><answer>B</answer>", "<think>x</think><answer>A</answer>", uid="choice")
    assert [rewards[name] for name in names] == [[1.0, 0.0]] * 3
