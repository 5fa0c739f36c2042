"""Arms: the table, the arms of a recipe's own, and what of the pipeline each shares or has for itself."""

import re
from pathlib import Path
from typing import Any

import pytest

from migrl.errors import UserError
from migrl.evidence.recompute import compare_weights
from migrl.pipeline import plan_stages, prepare_stage
from migrl.plan.build import build_plan
from migrl.plan.checks import check_arithmetic
from migrl.plan.machine import GpuOptions
from migrl.recipe import Recipe, dump_whole, load_recipe
from migrl.recipe.arms import ARMS, describe_changes, is_trained
from migrl.running.stage import join_weights

RECIPES = Path(__file__).resolve().parents[2] / "reproduce" / "recipes"
MAIN = ["fetch", "synthesize", "sft", "merge", "select", "grpo"]


def load(*overrides: str, name: str = "test") -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", list(overrides))


def load_own(changes: str, *overrides: str) -> Recipe:
    """The test recipe with an arm `own`, which is evaluated."""
    return load(f"arms={{own: {{{changes}}}}}", "evaluate.arms=[base, sft, rl, own]", *overrides)


def list_reads(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """What each stage reads beside the data, of those that make arms and evaluate."""
    stages = [stage for stage in plan_stages(recipe)[2:] if stage.name not in ("pass_rates", "report")]
    return {stage.label: stage.reads[1:] for stage in stages}


def list_sections(recipe: Recipe) -> dict[str, Any]:
    return {stage.label: prepare_stage(stage, recipe, Path("runs")).sections for stage in plan_stages(recipe)}


def test_the_stages_of_every_arm_are_called_as_in_the_runs_that_exist() -> None:
    assert {arm.name: [stage.name for stage in arm.stages] for arm in ARMS.values()} == {
        "base": [],
        "sft": ["sft", "merge"],
        "sft_direct": ["sft_direct", "merge_direct"],
        "rl": ["sft", "merge", "select", "grpo"],
        "rl_no_cold_start": ["select_base", "grpo_no_cold_start"],
        "rl_no_selection": ["sft", "merge", "grpo_no_selection"],
    }
    assert list_reads(load(f"evaluate.arms=[{', '.join(ARMS)}]")) == {
        "sft": ("synthesize",),
        "merge": ("sft",),
        "select": ("merge",),
        "grpo": ("merge", "select"),
        "sft_direct": ("synthesize",),
        "merge_direct": ("sft_direct",),
        "select_base": (),
        "grpo_no_cold_start": ("select_base",),
        "grpo_no_selection": ("merge",),
        "evaluate": ("merge", "grpo", "merge_direct", "grpo_no_cold_start", "grpo_no_selection"),
    }
    assert [name for name in ARMS if not is_trained(name, ())] == ["base"]
    assert [stage.name for arm in ARMS.values() for stage in arm.stages if not stage.reasoning] == ["sft_direct"]


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ("grpo.beta: 0", {"grpo_own": ("merge", "select")}),
        ("grpo.alarms.kl: null", {"grpo_own": ("merge", "select")}),
        ("select.rollouts: 8", {"select_own": ("merge",), "grpo_own": ("merge", "select_own")}),
        ("sampling.temperature: 0.8", {"select_own": ("merge",), "grpo_own": ("merge", "select_own")}),
        ("grpo.max_pixels: 8000", {"select_own": ("merge",), "grpo_own": ("merge", "select_own")}),
        (
            "sft.num_train_epochs: 1",
            {
                "sft_own": ("synthesize",),
                "merge_own": ("sft_own",),
                "select_own": ("merge_own",),
                "grpo_own": ("merge_own", "select_own"),
            },
        ),
        ("like: sft, sft.lora.rank: 4", {"sft_own": ("synthesize",), "merge_own": ("sft_own",)}),
        ("like: rl_no_selection, grpo.lora: null, grpo.parallel: zero2", {"grpo_own": ("merge",)}),
        ("like: rl_no_cold_start, grpo.beta: 0", {"select_base": (), "grpo_own": ("select_base",)}),
        ("start: base, pool: whole", {"grpo_own": ()}),
        (
            "start: sft_direct",
            {
                "sft_direct": ("synthesize",),
                "merge_direct": ("sft_direct",),
                "select_direct": ("merge_direct",),
                "grpo_own": ("merge_direct", "select_direct"),
            },
        ),
    ],
)
def test_an_arm_of_a_recipes_own_has_only_the_stages_that_its_keys_decide(changes: str, own: Any) -> None:
    before, recipe = load(), load_own(changes)
    reads = list_reads(recipe)
    weights = [name for name in own if name.startswith(("merge", "grpo"))]
    assert reads == {**list_reads(before), **own, "evaluate": ("merge", "grpo", *weights)}
    # What is shared keeps its key, so that a run in place goes on.
    old, new = list_sections(before), list_sections(recipe)
    assert [name for name in old if name not in ("evaluate", "report") and new[name] != old[name]] == []
    assert [stage.name for stage in plan_stages(recipe)][:6] == MAIN


def test_an_arms_own_stages_follow_its_values_and_the_others_do_not() -> None:
    recipe = load_own("grpo.beta: 0, sampling.temperature: 0.7", "seeds=[7]")
    sections = list_sections(recipe)
    for name in ("grpo", "grpo, seed 7"):
        own = sections[name.replace("grpo", "grpo_own")]
        assert own["grpo"] == {**sections[name]["grpo"], "beta": 0.0}
        assert own["sampling"] == {**sections[name]["sampling"], "temperature": 0.7}
    assert sections["select_own"]["sampling"] == sections["grpo_own"]["sampling"]
    assert sections["grpo_own, seed 7"]["grpo"]["seed"] == 7
    assert sections["evaluate"]["evaluate"]["arms"] == ["base", "sft", "rl", "own"]
    assert sections["evaluate, seed 7"]["evaluate"]["arms"] == ["sft", "rl", "own"]
    assert list_reads(recipe)["evaluate, seed 7"] == ("merge", "grpo", "grpo_own")


def test_the_recipe_of_an_arm_is_whole_and_can_be_read_by_a_process_of_its_own() -> None:
    recipe = load_own("like: sft_direct, sft.num_train_epochs: 1", "arms.other={grpo.num_generations: 2}", "seeds=[7]")
    for taken in (recipe.with_arm("own"), recipe.with_arm("own").with_training_seed(7)):
        again = Recipe.model_validate(dump_whole(taken))
        assert again == taken and (again.sft.num_train_epochs, again.evaluate.arms) == (1, ("own",))
        assert not again.find_stage("sft_own").reasoning and set(again.arms) == {"own"}
    assert recipe.with_arm("sft") is recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("grpo.bta: 0", "key 'grpo.bta' is unknown; did you mean 'grpo.beta'?"),
        ("gpro.beta: 0", "key 'gpro.beta' is unknown; did you mean 'grpo.beta'?"),
        ("bta: 0", "key 'bta' is unknown; did you mean 'grpo.beta'?"),
        ("grpo: {beta: 0}", "key 'grpo' is not one by which this arm is trained; legal are dotted keys of sft"),
        ("evaluate.batch: 8", "'evaluate.batch' is not one by which this arm is trained; legal are dotted keys of sft"),
        ("model.dtype: bfloat16", "'model.dtype' is not one by which this arm is trained"),
        ("launch.processes: 2", "'launch.processes' is not one by which this arm is trained"),
        ("grpo.seed: 2", "but for seeds (key seeds trains every arm with further ones)"),
        ("like: sft, grpo.beta: 0", "legal are dotted keys of sft, such as sft.lora, but"),
        ("like: rl_no_selection, select.rollouts: 8", "legal are dotted keys of sft, sampling, grpo, such as"),
        ("grpo.beta: -1", "key 'grpo.beta': Input should be greater than or equal to 0; got -1"),
        ("grpo.beta: .nan", "key 'grpo.beta': Input should be a finite number"),
        ("grpo.num_generations: 3", "grpo.per_device_train_batch_size=4 does not divide grpo.prompts_per_step"),
        ("grpo.max_pixels: 500", "grpo.max_pixels=500 is less than a cell"),
        ("like: base, grpo.beta: 0", "like: 'base' is none of sft, sft_direct, rl, "),
        ("start: rl, grpo.beta: 0", "start: 'rl' is none of base, sft, sft_direct"),
        ("pool: all, grpo.beta: 0", "pool: 'all' is none of selected, whole"),
        ("like: sft, pool: whole", "pool: only RL has it, and this is an arm like sft; leave it out"),
        ("", "it is the arm rl itself; name a key that it changes, such as"),
        ("like: rl_no_selection, pool: whole", "it is the arm rl_no_selection itself"),
        ("engine: vllm", "engine=vllm: an arm's own engine can only be server; the arms with weights have"),
        ("engine: server, base_url: 'http://h/v1'", "key 'model' is missing, and engine=server needs it; add model: "),
        ("engine: server, model: m", "key 'base_url' is missing, and engine=server needs it; add base_url: http://HOST"),
        ("engine: server, model: m, base_url: h:80", "base_url: write it as http://HOST:PORT/v1, without a query"),
        ("engine: server, model: m, base_url: 'http://me:hidden@h/v1'", "put the key into a file and name it in key_"),
        ("engine: server, model: m, base_url: 'http://h', key: k", "key 'key' is unknown; did you mean 'key_file'?"),
        ("engine: server, model: m, base_url: 'http://h', retries: -1", "key 'retries': Input should be greater than"),
        ("engine: server, grpo.beta: 0", "key 'grpo.beta' says how an arm is trained, and engine=server that a server"),
        ("engine: server, like: rl", "key 'like' says how an arm is trained, and engine=server that a server answers"),
    ],
)  # fmt: skip
def test_an_arm_that_cannot_be_is_refused_with_its_name_and_the_remedy(changes: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_own(changes)
    assert "arms.own: " in str(caught.value) and message in str(caught.value) and "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms={rl: {grpo.beta: 0}}", "arms.rl: the name is that of an arm, or of its stages, that every recipe has"),
        ("arms={no_selection: {grpo.beta: 0}}", "arms.no_selection: the name is that of an arm, or of its stages"),
        ("arms={../x: {grpo.beta: 0}}", "key 'arms.../x': String should match pattern"),
        ("arms={own: 3}", "key 'arms.own': Input should be a valid dictionary; got 3"),
        ("evaluate.arms=[base, rl_kl]", "'rl_kl' is no arm; did you mean 'rl'? There are base, sft, sft_direct, rl, "),
        ("evaluate.arms=[own]", "of this recipe's own (key arms): none"),
        ("select.engine=server", "key 'select.engine': Input should be 'transformers' or 'vllm'; got 'server'"),
        ("evaluate.engine=server", "key 'evaluate.engine': Input should be 'transformers' or 'vllm'; got 'server'"),
    ],
)  # fmt: skip
def test_names_that_are_no_arms_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(override)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["like", "start"])
def test_no_training_goes_on_from_an_arm_that_someone_serves(key: str) -> None:
    gpt = "gpt: {engine: server, model: m, base_url: 'http://h/v1'}"
    with pytest.raises(UserError, match=f"arms.own: {key}: 'gpt' is none of .*sft, sft_direct"):
        load(f"arms={{{gpt}, own: {{{key}: gpt, grpo.beta: 0}}}}")


def test_an_unknown_arm_is_told_the_nearest_of_the_recipes_own() -> None:
    with pytest.raises(UserError, match="'rl_kl1' is no arm; did you mean 'rl_kl0'.* own .key arms.: rl_kl0"):
        load("arms={rl_kl0: {grpo.beta: 0}}", "evaluate.arms=[base, rl_kl1]")


@pytest.mark.parametrize(("changes", "adapted"), [("grpo.beta: 0", True), ("grpo.lora: null", False)])
def test_the_weights_of_an_arm_have_to_be_those_of_its_own_stage(changes: str, adapted: bool) -> None:
    recipe = load_own(changes)
    made = {"merge": {"weights": "a" * 64}, "grpo_own": {"weights": "b" * 64}, "grpo": {"weights": "c" * 64}}
    for weights, stages in (("b" * 64, made), ("c" * 64, made), ("b" * 64, {**made, "grpo_own": {}})):
        entry = {"arm": "own", "seed": None, "weights": join_weights("a" * 64, weights) if adapted else weights}
        entry["engine"] = "transformers"
        faults = list(compare_weights([entry], {"stages": stages}, recipe))
        right = stages is made and weights == "b" * 64
        assert right == (faults == []) and all("stage grpo_own of the manifest made" in fault for fault in faults)


def test_what_an_arm_is_reads_as_its_recipe_says_it() -> None:
    assert describe_changes({"grpo.beta": 0}) == "like rl, grpo.beta=0"
    assert describe_changes({"like": "sft", "sft.lora.rank": 8}) == "like sft, sft.lora.rank=8"
    gpt = {"engine": "server", "model": "m", "base_url": "http://h/v1", "key_file": "k"}
    assert describe_changes(gpt) == "m, served at http://h/v1"


def test_where_a_served_arm_is_decides_no_key_and_what_it_is_only_evaluations() -> None:
    def list_own(server: str) -> dict[str, Any]:
        return list_sections(load(f"arms={{gpt: {{engine: server, {server}}}}}", "evaluate.arms=[base, gpt]"))

    here = list_own("model: m, base_url: 'http://h/v1'")
    assert here == list_own("model: m, base_url: 'http://other/v1', key_file: k, unanswered: 0, concurrency: 2")
    other = list_own("model: n, base_url: 'http://h/v1'")
    assert [name for name in here if here[name] != other[name]] == ["evaluate"]


def test_a_plan_counts_what_an_arm_has_for_itself(tmp_path: Path) -> None:
    eight = GpuOptions(gpus=8, memory_gb=80, name="NVIDIA H100 80GB HBM3")
    own = ["arms={rl_short: {grpo.max_steps: 10}}", "evaluate.arms=[base, sft, rl, rl_short]"]
    recipe = load("source.benchmarks=[mig_bench]", *own, name="paper")
    made = build_plan(recipe, tmp_path / "runs", tmp_path / "results", eight)
    hours = {stage.name: stage.duration.hours[1] for stage in made.stages if stage.duration}
    assert hours["grpo_rl_short"] / hours["grpo"] == pytest.approx(10 / recipe.grpo.max_steps)


def test_batches_and_prompts_that_cannot_work_out_are_told_with_their_arm(tmp_path: Path) -> None:
    odd = load_own("grpo.per_device_train_batch_size: 8", "launch.processes=2", "sft.per_device_train_batch_size=4")
    long = load_own("grpo.max_new_tokens: 8000")
    for recipe, message in ((odd, "arm own: grpo.prompts_per_step *"), (long, "arm own: grpo: the longest prompt of")):
        with pytest.raises(UserError, match=f"recipe 'test': (arm own: .*)?{re.escape(message)}"):
            check_arithmetic(recipe, tmp_path)
        check_arithmetic(recipe, tmp_path, ["sft", "grpo", "evaluate"])
        made = build_plan(recipe, tmp_path, tmp_path, GpuOptions(gpus=0))
        assert any(fault.startswith(message) for fault in made.refusals)
