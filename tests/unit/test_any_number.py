"""The rendered set of any number of boxes end to end with scripted answers, and what detections make of lists."""

from dataclasses import replace
from pathlib import Path

import pytest
from report_rows import write, write_images

from migrl.data.world_source import build_world
from migrl.files import ROOT
from migrl.grounding.answers import format_boxes_answer
from migrl.grounding.prompts import SUFFIXES
from migrl.grounding.samples import BoxesTarget, BoxTarget, read_samples
from migrl.models.decoding import Completion
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import load_processor, read_end_tokens
from migrl.recipe import RewardSettings, WorldSource
from migrl.scoring.comparable import index_rows
from migrl.scoring.detections import score_detections
from migrl.scoring.rows import EvaluationRow, parse_row, rescore_row
from migrl.scoring.scores import compute_scores
from migrl.stages.evaluate import make_row
from migrl.stages.grpo import check_perfect_reward
from migrl.training.rewards import RolloutReader, make_reward_functions

BASE = ROOT / "reproduce" / "tiny_base"
PROCESSOR = load_processor(BASE, min_pixels=3136, max_pixels=9600)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[ModelInput]:
    """Twelve questions of each task, ready for the tiny model."""
    folder = tmp_path_factory.mktemp("world")
    build_world(WorldSource(kind="world", cot_per_task=1, rl_per_task=1, eval_per_task={"mini_any": 12}), folder)
    samples = read_samples(folder / "mini_any.jsonl")
    return [prepare_input(sample, folder, PROCESSOR, frame="resized_px", style="think") for sample in samples]


def answer(items: list[ModelInput], arm: str, count: int | None) -> list[EvaluationRow]:
    """Rows of an arm that gives the first `count` true boxes of each question; None gives all."""
    texts = [f"<think>I see.</think>{format_boxes_answer(item.true_boxes[:count])}" for item in items]
    return [
        make_row(i, arm, None, Completion(text, tokens=9, truncated=False))
        for i, text in zip(items, texts, strict=True)
    ]


def test_scripted_lists_are_asked_for_read_scored_and_reported(items: list[ModelInput], tmp_path: Path) -> None:
    assert all(item.messages[0]["content"][-1]["text"].endswith(SUFFIXES["think", "boxes"]) for item in items)
    counts = [len(item.true_boxes) for item in items]
    assert set(counts) == {0, 1, 2}
    rows = [*answer(items, "base", 0), *answer(items, "sft", 1), *answer(items, "rl", None)]
    assert [parse_row(row.to_json(), "x") for row in rows] == rows == [rescore_row(row) for row in rows]
    scores = {arm: found["mini_any"] for arm, found in compute_scores(index_rows(rows)).items()}
    assert scores["rl"]["micro"] == 100 and scores["rl"]["metrics"]["mean_iou"]["micro"] > 90  # whole numbers round
    assert scores["rl"]["ledger"]["ok"] == len(items) and scores["rl"]["image_accuracy"] == 100
    # Who is silent is right where there is nothing; who names one box also where there is one.
    none, one = (sum(count <= most for count in counts) / len(counts) for most in (0, 1))
    assert scores["base"]["micro"] == pytest.approx(100 * none, abs=1e-3)
    assert scores["sft"]["micro"] == pytest.approx(100 * one, abs=1e-3)
    assert scores["base"]["detections"]["ap50"] == 0 and scores["rl"]["detections"]["ap50"] == 100
    assert scores["base"]["detections"]["pair_accuracy"] == scores["base"]["image_accuracy"]
    write_images(rows, tmp_path / "images")
    page = write(tmp_path, rows, scores={arm: {"mini_any": table} for arm, table in scores.items()})
    assert "must not be set beside the AP of detectors" in page and page.count('class="truth"') >= sum(counts)


def test_a_perfect_list_passes_the_gate_before_rl_for_every_reward(items: list[ModelInput]) -> None:
    names = ("accuracy", "gated_accuracy", "hit", "format")
    settings = [RewardSettings(name=name, weight=1) for name in names]
    for item in {len(item.true_boxes): item for item in items}.values():
        rewards = make_reward_functions(settings, RolloutReader([item], 1, read_end_tokens(BASE)))
        check_perfect_reward(item, PROCESSOR, rewards)


def test_without_confidences_ap50_is_about_precision_times_recall(items: list[ModelInput]) -> None:
    """Every image gets its true boxes and a false one: recall 1, and the precision of the whole list."""
    rows = []
    for item in items:
        false = [(image, (0.0, 0.0, 3.0, 3.0)) for image in (1, 2)]
        text = format_boxes_answer([*item.true_boxes, *false])
        rows.append(make_row(item, "base", None, Completion(text, tokens=9, truncated=False)))
    true = sum(len(item.true_boxes) for item in items)
    found = score_detections(rows)
    assert found["confidence"] == 1 and found["rule"] == "coco_ap50"
    precision = true / (true + 2 * len(items))
    # The order of equal scores decides the rest: interpolation takes the best point to the right of each recall.
    assert 100 * precision <= found["ap50"] + 1e-6 and found["ap50"] < 100 * precision + 5


def test_a_list_is_one_group_so_the_boxes_of_another_group_are_missed(items: list[ModelInput]) -> None:
    item = next(item for item in items if len(item.true_boxes) == 2)
    assert isinstance(item.sample.target, BoxesTarget)
    (row,) = answer([item], "base", None)
    split = BoxesTarget(item.sample.target.boxes, (1, 2))
    rows = [replace(row, sample=replace(row.sample, target=target)) for target in (item.sample.target, split)]
    assert [score_detections([row])["ap50"] for row in rows] == [100, 50]
    assert score_detections(rows[:1])["pair_accuracy"] == 100
    nothing = replace(row, sample=replace(row.sample, target=BoxesTarget(())), score=row.score)
    assert score_detections([nothing])["ap50"] is None
    assert isinstance(split.boxes[0], BoxTarget)
