"""Pass rates before and after RL: a blind and balanced draw, rolled out and counted exactly as select does it."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from migrl.data.world_source import build_world
from migrl.errors import UserError
from migrl.files import read_jsonl, write_jsonl
from migrl.grounding.samples import BoxTarget, Sample
from migrl.pipeline import plan_stages, prepare_stage
from migrl.plan.build import build_plan
from migrl.plan.machine import GpuOptions
from migrl.recipe import Recipe, WorldSource, load_recipe
from migrl.running.stage import StageContext
from migrl.running.worker import Rank
from migrl.stages import pass_rates, select
from migrl.stages.pass_rates import compare_pass_rates, draw_samples, read_before
from migrl.training.rollouts import read_pool

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("refer", "region", "tracking")


def load(name: str, *overrides: str) -> Recipe:
    return load_recipe(ROOT / "reproduce" / "recipes" / f"{name}.yaml", list(overrides))


def make_sample(task: str, number: int) -> Sample:
    return Sample(f"{task}:{number}", "rl", task, ("a.png",), "Where?", BoxTarget(1, (0.0, 0.0, 0.5, 0.5)), "c")


def make_pool(sizes: list[int]) -> list[Sample]:
    return [make_sample(task, number) for task, size in zip(TASKS, sizes, strict=True) for number in range(size)]


@given(st.lists(st.integers(0, 9), min_size=3, max_size=3), st.integers(1, 30), st.integers(0, 5), st.integers())
def test_a_draw_is_balanced_over_tasks_and_depends_on_nothing_but_uids_and_seed(
    sizes: list[int], count: int, seed: int, order: int
) -> None:
    pool = make_pool(sizes)
    drawn = draw_samples(pool, count, seed)
    assert len(drawn) == min(count, len(pool)) and drawn == [sample for sample in pool if sample in drawn]
    taken = Counter(sample.task for sample in drawn)
    most = max((taken[task] for task in TASKS), default=0)
    # A task that has fewer than the others, by more than the last turn, has given all it had.
    assert all(taken[task] >= most - 1 or taken[task] == size for task, size in zip(TASKS, sizes, strict=True))
    Random(order).shuffle(pool)
    assert {sample.uid for sample in draw_samples(pool, count, seed)} == {sample.uid for sample in drawn}


def test_a_larger_draw_keeps_the_smaller_one_and_another_seed_draws_others() -> None:
    pool = make_pool([50, 50, 50])
    few, many = ({sample.uid for sample in draw_samples(pool, count, 0)} for count in (30, 60))
    assert few < many
    assert {sample.uid for sample in draw_samples(pool, 30, 1)} != few


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    """Two samples a task, and RL that changed nothing: it starts from the tiny base model and ends with it."""
    home = tmp_path_factory.mktemp("pool")
    recipe = load(
        "test",
        "source.rl_per_task=2",
        "source.eval_per_task={mini_blink: 1}",
        "select.rollouts=3",
        "select.batch=8",
        "grpo.max_new_tokens=40",
        "pass_rates.samples=1000",
    )
    assert isinstance(recipe.source, WorldSource)
    inputs = {name: home / name for name in ("fetch", "merge", "select", "grpo")}
    for name in ("fetch", "merge", "grpo"):
        inputs[name].mkdir()
        (inputs[name] / "model").symlink_to(ROOT / "reproduce" / "tiny_base")
    build_world(recipe.source, inputs["fetch"] / "data")
    inputs["select"].mkdir()
    before = {name: inputs[name] for name in ("fetch", "merge")}
    select.run(StageContext("select", recipe, before, inputs["select"]))
    return StageContext("pass_rates", recipe, inputs, home / "pass_rates")


def run_again(context: StageContext, folder: Path, samples: int, ranks: tuple[Rank, ...] = ()) -> dict[str, Any]:
    """The stage's facts on some samples; `ranks` do their shares first, one after the other."""
    settings = context.recipe.pass_rates
    assert settings is not None
    section = settings.model_copy(update={"samples": samples})
    folder.mkdir()
    own = StageContext(context.name, context.recipe.model_copy(update={"pass_rates": section}), context.inputs, folder)
    for rank in ranks:
        pass_rates.generate(own, rank)
    return pass_rates.run(own)


def forget_everything(folder: Path) -> None:
    """The tiny base model without its last norm: every token is as likely as any other."""
    shutil.copytree(ROOT / "reproduce" / "tiny_base", folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].zero_()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def test_a_model_that_rl_did_not_change_gives_selects_own_rollouts_from_any_number_of_processes(
    context: StageContext, tmp_path: Path
) -> None:
    facts = run_again(context, tmp_path / "all", 1000, (Rank(1, 3), Rank(0, 3)))
    logs = sorted(path.name for path in (tmp_path / "all/progress").glob("rollouts.*"))
    assert logs == ["rollouts.0.jsonl", "rollouts.1.jsonl"]  # the third share was done by a single process later
    told = (context.inputs["select"] / "rollouts.jsonl").read_bytes()
    assert (tmp_path / "all" / "rollouts.jsonl").read_bytes() == told
    histogram = json.loads((context.inputs["select"] / "pass_rates.json").read_text())
    assert facts["samples"] == 20 and facts["k"] == 3
    assert facts["before"] == facts["after"] == {key: histogram[key] for key in ("counts", "mean_pass_rate")}
    assert {task: cell["before"] for task, cell in facts["tasks"].items()} == histogram["tasks"]
    assert 0 < facts["after"]["mean_pass_rate"] < 1  # else equal histograms would say little
    written = json.loads((tmp_path / "all" / "pass_rates_after.json").read_text())
    assert facts == {**written, "performance": facts["performance"]}
    assert written.keys() == {"k", "samples", "before", "after", "tasks"}


def test_before_is_selects_count_on_the_drawn_samples_and_after_is_the_rl_arms(
    context: StageContext, tmp_path: Path
) -> None:
    forget_everything(tmp_path / "grpo" / "model")
    context = replace(context, inputs={**context.inputs, "grpo": tmp_path / "grpo"})
    facts = run_again(context, tmp_path / "some", 10)
    drawn = [row["uid"] for row in read_jsonl(tmp_path / "some" / "rollouts.jsonl")]
    rows = {row["uid"]: row["hits"] for row in read_jsonl(context.inputs["select"] / "rollouts.jsonl")}
    counts = Counter(rows[uid] for uid in drawn)
    assert len(set(drawn)) == 10 and len({uid.rsplit(":", 1)[0] for uid in drawn}) == 10
    assert facts["before"]["counts"] == {str(hits): counts[hits] for hits in range(4)}
    assert facts["before"]["mean_pass_rate"] == sum(rows[uid] for uid in drawn) / 30
    assert facts["before"]["mean_pass_rate"] > 0 and facts["after"]["counts"]["0"] == 10
    assert all(sum(cell[when].values()) == 1 for cell in facts["tasks"].values() for when in ("before", "after"))


def test_histograms_count_each_task_and_each_number_of_hits() -> None:
    before = [{"uid": str(n), "task": TASKS[n % 2], "hits": hits} for n, hits in enumerate((0, 0, 2, 1))]
    after = [{**row, "hits": hits} for row, hits in zip(before, (2, 0, 2, 1), strict=True)]
    assert compare_pass_rates(before, after, 2) == {
        "k": 2,
        "samples": 4,
        "before": {"counts": {"0": 2, "1": 1, "2": 1}, "mean_pass_rate": 3 / 8},
        "after": {"counts": {"0": 1, "1": 1, "2": 2}, "mean_pass_rate": 5 / 8},
        "tasks": {
            "refer": {"before": {"0": 1, "1": 0, "2": 1}, "after": {"0": 0, "1": 0, "2": 2}},
            "region": {"before": {"0": 1, "1": 1, "2": 0}, "after": {"0": 1, "1": 1, "2": 0}},
        },
    }


def test_a_sample_that_select_never_saw_is_an_error(context: StageContext, tmp_path: Path) -> None:
    rows = read_jsonl(context.inputs["select"] / "rollouts.jsonl")
    write_jsonl(tmp_path / "rollouts.jsonl", rows[1:])
    own = StageContext(context.name, context.recipe, {**context.inputs, "select": tmp_path}, tmp_path)
    with pytest.raises(UserError, match=f"rollouts.jsonl: no row for '{rows[0]['uid']}'; run select again"):
        read_before(own, read_pool(own))


def test_without_the_section_the_stage_is_not_planned_and_no_other_key_changes() -> None:
    planned = {name: load("tiny", f"pass_rates={value}") for name, value in (("on", "{samples: 5}"), ("off", "null"))}
    works = {
        name: {stage.name: prepare_stage(stage, recipe, Path("runs")) for stage in plan_stages(recipe)}
        for name, recipe in planned.items()
    }
    assert list(works["on"]) == [*list(works["off"])[:-1], "pass_rates", "report"]
    assert works["on"]["pass_rates"].inputs.keys() == {"fetch", "merge", "select", "grpo"}
    for name, work in works["off"].items():
        assert work.sections == works["on"][name].sections
        assert work.inputs.keys() == works["on"][name].inputs.keys() - {"pass_rates"}


@pytest.mark.parametrize(
    ("override", "changes"),
    [("sampling.temperature=0.5", True), ("grpo.max_pixels=6400", True), ("pass_rates.samples=6", True)]
    + [("grpo.learning_rate=1.0e-3", False), ("evaluate.batch=8", False)],
)
def test_its_key_covers_how_it_samples(override: str, changes: bool) -> None:
    keys = []
    for recipe in (load("test"), load("test", override)):
        stage = next(stage for stage in plan_stages(recipe) if stage.name == "pass_rates")
        keys.append(prepare_stage(stage, recipe, Path("runs")).sections)
    assert (keys[0] != keys[1]) == changes


def test_the_plan_counts_it_as_its_share_of_select(tmp_path: Path) -> None:
    machine = GpuOptions(gpus=8, memory_gb=80, name="NVIDIA H100 80GB HBM3")
    made = build_plan(load("paper", "pass_rates.samples=2100"), tmp_path, tmp_path, machine)
    stages = {stage.name: stage for stage in made.stages}
    small, large = stages["pass_rates"], stages["select"]
    assert small.duration is not None and large.duration is not None
    assert large.duration.high == pytest.approx(10 * small.duration.high)
    assert large.disk.count() == pytest.approx(10 * small.disk.count()) and small.peak == large.peak
    assert small.words.startswith("2,100 samples x 8 completions")
    whole = build_plan(load("paper", "pass_rates.samples=99999"), tmp_path, tmp_path, machine)
    assert next(stage for stage in whole.stages if stage.name == "pass_rates").words == large.words
