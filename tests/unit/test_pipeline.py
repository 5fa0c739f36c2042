"""The spine: order, what each stage reads, and what a changed key re-runs."""

from pathlib import Path

import pytest

from migrl.errors import UserError
from migrl.pipeline import STAGES, lock_folder, plan_stages, prepare_stage
from migrl.recipe import load_recipe

TINY = Path(__file__).resolve().parents[2] / "reproduce" / "recipes" / "tiny.yaml"


def list_changed(override: str) -> list[str]:
    """Stages whose own settings change with an override; those that follow change through their inputs."""
    before, after = load_recipe(TINY), load_recipe(TINY, [override])
    home = Path("runs")
    return [
        stage.name
        for stage in STAGES
        if prepare_stage(stage, before, home).sections != prepare_stage(stage, after, home).sections
    ]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("grpo.learning_rate=1.0e-3", ["grpo"]),
        ("grpo.max_completion_tokens=80", ["select", "grpo"]),
        ("sft.epochs=3", ["sft"]),
        ("source.seed=9", ["fetch"]),
        ("evaluate.batch=8", ["evaluate"]),
        ("resamples=100", ["report"]),
        ("model.attention=eager", ["sft", "merge", "select", "grpo", "evaluate"]),
    ],
)
def test_a_changed_key_concerns_only_the_stages_that_use_it(override: str, stages: list[str]) -> None:
    assert list_changed(override) == stages


def test_every_stage_reads_only_what_comes_before_it() -> None:
    recipe = load_recipe(TINY, ["evaluate.arms=[base,sft,rl,sft_direct,rl_no_cold_start,rl_no_selection]"])
    done: set[str] = set()
    for stage in plan_stages(recipe):
        assert set(stage.reads) <= done, stage
        done.add(stage.name)
    assert {"merge_direct", "grpo_no_cold_start", "grpo_no_selection"} <= done


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(UserError, match="another run is at work"):
        lock_folder(tmp_path)
    lock_folder(tmp_path).close()
