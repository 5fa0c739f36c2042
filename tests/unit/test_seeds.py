"""Further training seeds: what they run, where it lies, what of it is run again, and what it costs."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from migrl.errors import UserError
from migrl.files import write_json
from migrl.pipeline import find_place, plan_stages, prepare_stage, run_pipeline
from migrl.plan.build import build_plan
from migrl.plan.machine import GpuOptions
from migrl.recipe import Recipe, dump_whole, load_recipe
from migrl.running.stage import StageContext
from migrl.running.watch.signals import Stopped

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "reproduce" / "recipes"
CHAIN = ("sft", "merge", "select", "grpo", "evaluate")
ALL_ARMS = "evaluate.arms=[base,sft,rl,sft_direct,rl_no_cold_start,rl_no_selection]"

Tell = Callable[[str, str], None]


def load(name: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", list(overrides))


class Recorder:
    """Stages that write down what they were given, in place of those that train; the spine around them is the real one.

    `act` is called with each stage's context before it writes.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self.act: Callable[[StageContext], None] = lambda context: None

    def run(self, context: StageContext) -> dict[str, Any]:
        self.act(context)
        recipe = context.recipe
        home = self.runs / recipe.name
        given = {
            "seeds": [recipe.sft.seed, recipe.select.seed, recipe.grpo.seed],
            "arms": list(recipe.evaluate.arms),
            "inputs": {name: folder.relative_to(home).as_posix() for name, folder in context.inputs.items()},
        }
        write_json(context.folder / "given.json", given)
        return {}

    def read(self, place: str) -> dict[str, Any]:
        return json.loads((self.runs / "test" / place / "given.json").read_text())

    def pipeline(self, *overrides: str, **how: Any) -> list[str]:
        """Run the test recipe; the labels of the stages that ran, in order."""
        told: list[tuple[str, str]] = []
        run_pipeline(load("test", *overrides), self.runs, tell=lambda name, what: told.append((name, what)), **how)
        return [name for name, what in told if what == "done"]


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder(tmp_path / "runs")
    for name in ("fetch", "synthesize", *CHAIN, "pass_rates", "report"):
        monkeypatch.setitem(sys.modules, f"migrl.stages.{name}", SimpleNamespace(run=made.run))
    return made


def label(names: tuple[str, ...], seed: int) -> list[str]:
    return [f"{name}, seed {seed}" for name in names]


def test_further_seeds_change_nothing_of_the_main_chain_but_that_its_rows_say_their_seed() -> None:
    one, several = load("tiny", ALL_ARMS), load("tiny", ALL_ARMS, "seeds=[7, 9]")
    main = [stage for stage in plan_stages(several) if stage.seed is None]
    assert [stage.name for stage in main] == [stage.name for stage in plan_stages(one)]
    for old, new in zip(plan_stages(one), main, strict=True):
        before, after = (prepare_stage(stage, recipe, Path("runs")) for stage, recipe in ((old, one), (new, several)))
        more = {"training_seed": 0} if new.name == "evaluate" else {}
        assert after.sections == before.sections | more and "training_seed" not in before.sections
        assert new.name == "report" or after.inputs == before.inputs


def test_what_a_seed_trains_reads_its_own_stages_and_the_shared_data() -> None:
    recipe = load("tiny", ALL_ARMS, "seeds=[7]")
    stages = plan_stages(recipe)
    further = {stage.name: prepare_stage(stage, recipe, Path("home")) for stage in stages if stage.seed == 7}
    assert {
        *CHAIN,
        "sft_direct",
        "merge_direct",
        "select_base",
        "grpo_no_cold_start",
        "grpo_no_selection",
    } == further.keys()
    done = {stage.place for stage in stages if stage.seed is None}
    for stage in (stage for stage in stages if stage.seed == 7):
        for name, folder in further[stage.name].inputs.items():
            assert folder == Path("home") / find_place(name, None if name in ("fetch", "synthesize") else 7)
            assert folder.relative_to("home").as_posix() in done, f"{stage.label} reads what is not there yet"
        done.add(stage.place)
    assert "pass_rates" not in further, "of the main chain alone"
    assert further["grpo"].sections["grpo"]["seed"] == further["select_base"].sections["select"]["seed"] == 7
    assert stages[-1].name == "report" and {"seed_7/sft", "seed_7/grpo", "seed_7/evaluate"} <= set(stages[-1].reads)


def test_the_recipe_of_a_seed_is_whole_and_can_be_read_by_a_process_of_its_own() -> None:
    recipe = load("tiny", "seeds=[7, 9]", "grpo.seed=3", "sft.seed=3", "select.seed=3")
    taken = Recipe.model_validate(dump_whole(recipe.with_training_seed(9)))
    assert taken == recipe.with_training_seed(9) and taken.training_seed == 9 and taken.seeds == (7, 3)
    assert taken.evaluate.arms == ("sft", "rl") and recipe.training_seed == 3 and load("tiny").training_seed is None


def test_a_run_trains_each_seed_in_its_folder_and_a_second_run_skips_everything(recorder: Recorder) -> None:
    ran = recorder.pipeline("seeds=[2, 5]")
    assert ran == ["fetch", "synthesize", *CHAIN, "pass_rates", *label(CHAIN, 2), *label(CHAIN, 5), "report"]
    assert recorder.pipeline("seeds=[2, 5]") == []
    assert recorder.read("grpo")["seeds"] == [0, 0, 0] and recorder.read("seed_5/grpo")["seeds"] == [5, 5, 5]
    assert recorder.read("evaluate")["arms"] == ["base", "sft", "rl"]
    assert recorder.read("seed_2/evaluate")["arms"] == ["sft", "rl"]
    assert recorder.read("seed_2/evaluate")["inputs"] == {
        "fetch": "fetch",
        "merge": "seed_2/merge",
        "grpo": "seed_2/grpo",
    }
    assert not list((recorder.runs / "test").rglob("*.partial")) and not list((recorder.runs / "test").rglob(".stop-*"))


def test_only_what_a_change_concerns_is_run_again(recorder: Recorder) -> None:
    recorder.pipeline()
    assert recorder.pipeline("seeds=[2]") == ["evaluate", *label(CHAIN, 2), "report"]
    assert recorder.pipeline("seeds=[2, 5]") == [*label(CHAIN, 5), "report"]
    assert recorder.pipeline("seeds=[5, 2]") == [], "their order decides nothing"
    assert recorder.pipeline("seeds=[5]") == ["report"]
    both = ["grpo", "evaluate", "pass_rates", *label(("grpo", "evaluate"), 2), "report"]
    assert recorder.pipeline("seeds=[2]", "grpo.learning_rate=1.0e-3") == both
    assert recorder.pipeline("seeds=[2]", "grpo.learning_rate=1.0e-3", only="grpo", force=True) == [
        "grpo",
        "grpo, seed 2",
    ]


def test_what_ends_in_the_middle_of_a_seed_goes_on_there(recorder: Recorder) -> None:
    def die(context: StageContext) -> None:
        if context.recipe.grpo.seed == 2 and context.name == "grpo":
            (context.folder / ".half").touch()
            raise RuntimeError("killed")

    recorder.act = die
    with pytest.raises(RuntimeError, match="killed"):
        recorder.pipeline("seeds=[2]")
    assert (recorder.runs / "test/seed_2/grpo.partial/.half").exists() and not (
        recorder.runs / "test/grpo/.half"
    ).exists()
    recorder.act = lambda context: None
    assert recorder.pipeline("seeds=[2]") == ["grpo, seed 2", "evaluate, seed 2", "report"]
    assert (recorder.runs / "test/seed_2/grpo/.half").exists()


def test_a_signal_reaches_the_stage_of_a_seed_and_leaves_nothing_behind(recorder: Recorder) -> None:
    def ask(context: StageContext) -> None:
        if context.recipe.grpo.seed == 2 and context.name == "sft":
            os.kill(os.getpid(), signal.SIGTERM)
            assert (context.folder.parent / ".stop-SIGTERM").exists(), "where every process of the stage looks"

    recorder.act = ask
    with pytest.raises(Stopped, match="after stage sft, seed 2, which is finished; start again to resume") as stopped:
        recorder.pipeline("seeds=[2]")
    assert stopped.value.exit_code == 128 + signal.SIGTERM
    assert not list((recorder.runs / "test").rglob(".stop-*"))
    recorder.act = lambda context: None
    assert recorder.pipeline("seeds=[2]") == [*label(CHAIN[1:], 2), "report"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeds=[0]"], r"seeds=\[0\]: 0 is the main chain's \(grpo.seed\)"),
        (["seeds=[3, 3]"], "every seed at most once"),
        (["seeds=[-1]"], "key 'seeds.0': .*greater than or equal to 0; got -1"),
        (["seeds=[4294967296]"], "key 'seeds.0': .*less than 4294967296"),
        (["seeds=[one]"], "key 'seeds.0': .*valid integer.*; got 'one'"),
        (["seeds=3"], "key 'seeds': .*valid tuple; got 3"),
        (["seeds=[3]", "select.seed=1"], "one seed for the whole main chain, not sft.seed=0, select.seed=1, "),
        (["seeds=[3]", "evaluate.arms=[base]"], "nothing trained is evaluated .*leave seeds out"),
        (["seeds=[3]", "claims=none"], "a recipe without claims measures costs"),
        (["sft.seeds=[3]"], "key 'sft.seeds' is unknown"),
    ],
)  # fmt: skip
def test_bad_seeds_are_refused_with_a_remedy(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("test", *overrides)


def test_seeds_without_anything_to_train_on_are_refused() -> None:
    with pytest.raises(UserError, match="nothing trained is evaluated .source.training is null"):
        load("paper", "source.training=null", "seeds=[3]")


def test_a_plan_counts_every_further_seed_without_the_base(tmp_path: Path) -> None:
    eight = GpuOptions(gpus=8, memory_gb=80, name="NVIDIA H100 80GB HBM3")
    benchmarks = "source.benchmarks=[mig_bench, revos]"
    one, three = (
        build_plan(load("paper", benchmarks, seeds), tmp_path / "runs", tmp_path / "results", eight)
        for seeds in ("seeds=[]", "seeds=[1, 2]")
    )
    assert three.refusals == ()
    seconds = {stage.name: stage.duration.high for stage in three.stages if stage.duration}
    for name in ("sft", "select", "grpo"):
        assert seconds[f"{name}, seed 1"] == seconds[f"{name}, seed 2"] == seconds[name]
    arms = len(load("paper").evaluate.arms)
    assert seconds["evaluate, seed 2"] == pytest.approx(seconds["evaluate"] * (arms - 1) / arms)
    more = sum(value for name, value in seconds.items() if ", seed " in name) / 3600
    assert three.totals.hours[1] == pytest.approx(one.totals.hours[1] + more)
    assert three.totals.disk > one.totals.disk + 2 * 16e9, "a merged model for each seed"
    assert three.totals.download == one.totals.download


def test_a_plan_takes_the_measured_time_of_the_main_chain_for_a_further_seed(tmp_path: Path) -> None:
    made = build_plan(load("tiny", "seeds=[1]"), tmp_path / "runs", ROOT / "results", GpuOptions(gpus=0))
    stages = {stage.name: stage for stage in made.stages}
    for name in ("sft", "select", "grpo"):
        further, main = stages[f"{name}, seed 1"].duration, stages[name].duration
        assert further == main and main.basis == "measured"
    assert stages["evaluate"].duration is not None and stages["evaluate, seed 1"].duration is None
    assert "evaluate, seed 1" in made.totals.without_hours, "it has fewer arms, and is not guessed"
