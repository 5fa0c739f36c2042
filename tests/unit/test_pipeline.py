"""The spine: order, what each stage reads, and what a changed key re-runs."""

from pathlib import Path
from typing import Any

import pytest

from migrl.errors import UserError
from migrl.grounding import prompts
from migrl.pipeline import lock_folder, plan_stages, prepare_stage
from migrl.recipe import load_recipe

TINY = Path(__file__).resolve().parents[2] / "reproduce" / "recipes" / "tiny.yaml"


def list_sections(*overrides: str) -> dict[str, Any]:
    """What each stage's own key holds; those that follow it have it through their inputs."""
    recipe = load_recipe(TINY, list(overrides))
    return {stage.name: prepare_stage(stage, recipe, Path("runs")).sections for stage in plan_stages(recipe)}


def list_changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("grpo.learning_rate=1.0e-3", ["grpo"]),
        ("grpo.max_new_tokens=80", ["select", "grpo"]),
        ("sft.num_train_epochs=3", ["sft"]),
        ("source.seed=9", ["fetch"]),
        ("evaluate.batch=8", ["evaluate"]),
        ("resamples=100", ["report"]),
        ("model.attention=eager", ["sft", "merge", "select", "grpo", "evaluate"]),
    ],
)
def test_a_changed_key_concerns_only_the_stages_that_use_it(override: str, stages: list[str]) -> None:
    fixed = "pass_rates=null", "grpo.group_prefix=sdpa"  # beside which every kernel is legal
    assert list_changed(list_sections(*fixed), list_sections(*fixed, override)) == stages


@pytest.mark.parametrize("key", list(prompts.SUFFIXES), ids="/".join)
def test_a_prompts_text_concerns_the_stages_whose_result_it_decides(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, lists = "synthesize.teacher={engine: server, model: m}", "source.eval_per_task.mini_any=2"
    recipes: list[list[str]] = [[], [teacher], [lists]]
    before = [list_sections(*keys) for keys in recipes]
    monkeypatch.setitem(prompts.SUFFIXES, key, prompts.SUFFIXES[key] + ",")
    for keys, old in zip(recipes, before, strict=True):
        reads = key[1] != "boxes" or lists in keys  # a list's texts where one is asked for
        stages = ["sft", "merge", "select", "grpo", "evaluate", "pass_rates"] if reads else []
        assert list_changed(old, list_sections(*keys)) == stages


def test_how_a_text_stands_beside_the_pictures_concerns_a_teacher_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(question: str, count: int, style: Any, kind: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": question}]

    teacher = "synthesize.teacher={engine: server, model: m}"
    before = list_sections(), list_sections(teacher)
    monkeypatch.setattr("migrl.grounding.prompts.build_messages", build)
    monkeypatch.setattr("migrl.synthesis.teachers.prompts.build_messages", build)
    assert "synthesize" not in list_changed(before[0], list_sections())
    assert list_changed(before[1], list_sections(teacher))[0] == "synthesize"


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
