"""`migrl plan`: every stage with its formulas, what cannot fit refused with changes that would, nothing made up."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from migrl.cli import app
from migrl.data.world_source import build_world
from migrl.errors import UserError
from migrl.inputs import prepare_input
from migrl.models import load_processor
from migrl.pipeline import plan_stages
from migrl.plan.assumptions import find_peak_flops, load_assumptions
from migrl.plan.build import Plan, build_plan
from migrl.plan.checks import check_arithmetic, list_batch_faults
from migrl.plan.lengths import Pixels, count_split, make_counter
from migrl.plan.machine import GpuOptions, choose_machine, read_gpus
from migrl.plan.refuse import refuse_disk
from migrl.plan.shapes import read_shape
from migrl.plan.timing import Decoding, add_durations, time_compute, time_decoding
from migrl.recipe import Recipe, WorldSource, load_recipe
from migrl.records import read_samples

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "reproduce" / "recipes"
BIG = "model: Qwen/Qwen2.5-VL-72B-Instruct"
EIGHT = GpuOptions(gpus=8, memory_gb=80, name="NVIDIA H100 80GB HBM3")


def load(name: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", list(overrides))


TINY = load("tiny")


def plan(tmp_path: Path, recipe: Recipe, options: GpuOptions = EIGHT, results: Path | None = None) -> Plan:
    return build_plan(recipe, tmp_path / "runs", results or tmp_path / "results", options)


def get_stages(made: Plan) -> dict[str, Any]:
    return {stage.name: stage for stage in made.stages}


def test_the_paper_recipe_fits_eight_gpus_of_80_gb_and_says_what_is_unknown(tmp_path: Path) -> None:
    recipe = load("paper")
    made = plan(tmp_path, recipe)
    assert made.refusals == ()
    stages = get_stages(made)
    assert list(stages) == [stage.name for stage in plan_stages(recipe)]
    for name in ("sft", "select", "grpo", "evaluate"):
        duration = stages[name].cost.duration
        assert 0 < duration.low < duration.high and duration.basis == "assumed" and "%" in duration.words
        assert 16.6e9 < stages[name].peak.device.total < 80e9
    assert "llmseg" in stages["evaluate"].cost.words and "unknown" in stages["evaluate"].cost.words
    assert any("MGrounding-630k" in name for name in stages["fetch"].disk.unknown)
    assert made.totals.unknown_files == len(stages["fetch"].disk.unknown)
    assert made.totals.gpu_hours[0] == pytest.approx(8 * made.totals.hours[0])


def test_json_has_every_stage_with_its_formulas_and_the_exit_code_is_that_of_the_verdict() -> None:
    run = CliRunner()
    arms = "evaluate.arms=[base,sft,rl,sft_direct,rl_no_cold_start,rl_no_selection]"
    good = run.invoke(app, ["plan", "--gpus", "8", "--gpu", "H100", "--json", arms])
    assert good.exit_code == 0, good.output
    data = json.loads(good.output)
    assert [stage["name"] for stage in data["stages"]] == [stage.name for stage in plan_stages(load("paper", arms))]
    grpo = next(stage for stage in data["stages"] if stage["name"] == "grpo_no_selection")
    assert grpo["peak"]["device"]["total"] == sum(part["bytes"] for part in grpo["peak"]["device"]["parts"])
    assert all(part["words"] for part in grpo["peak"]["device"]["parts"])
    bad = run.invoke(app, ["plan", "--gpus", "8", "--gpu", "RTX 4090"])
    assert isinstance(bad.exception, UserError) and "grpo" in str(bad.exception)


def test_the_text_reads_at_80_columns_and_ends_with_the_sums() -> None:
    output = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["plan", "--gpus", "8", "--gpu", "H100", "--formulas"]).output
    assert max(len(line) for line in output.splitlines()) <= 80
    for words in ("assumed, not measured", "a formula, not measured", "of unknown size", "total:", "GPU-hours"):
        assert words in " ".join(output.split())
    assert output.rstrip().endswith("fits")


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["select.batch=64", "select.batch_pixels=null"], EIGHT, r"select: generation of 512 .*select.batch=\d+ \("),
        (["grpo.lora=null"], EIGHT, r"grpo: .*grpo.parallel=zero3 \("),
        ([], GpuOptions(8, 40, "A100 40GB"), r"grpo: .*with 40.0 GB .*together these fit: grpo.micro_batch="),
        ([], GpuOptions(4, 80, "H100"), "launch.processes=8: one GPU each, and there are 4"),
        (["launch.processes=6"], EIGHT, "sft.batch=128 is not .*launch.processes 1, 2, 4, 8, 16, 32, 64 with this"),
        (["grpo.max_completion_tokens=125000"], EIGHT, "grpo: the longest prompt of rl .*assumed.* 128,000 positions"),
        ([], GpuOptions(gpus=0), "model.dtype=bfloat16.* need a GPU"),
        ([f"synthesize.teacher={{engine: transformers, {BIG}}}"], EIGHT, "synthesize: .* no settings .* fit"),
        ([f"synthesize.teacher={{engine: vllm, {BIG}}}"], EIGHT, r"takes 90 % .*teacher.tensor_parallel=4 \("),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_its_remedy(
    overrides: list[str], options: GpuOptions, message: str, tmp_path: Path
) -> None:
    refusals = plan(tmp_path, load("paper", *overrides), options).refusals
    assert any(re.search(message, text) for text in refusals), refusals


def test_every_change_that_a_refusal_names_makes_the_stage_fit(tmp_path: Path) -> None:
    (refusal,) = plan(tmp_path, load("paper", "select.batch=64", "select.batch_pixels=null")).refusals
    changes = re.findall(r"(select\.\w+|grpo\.\w+)=(\d+) \(", refusal)
    assert len(changes) >= 2
    for key, value in changes:
        overrides = ["select.batch=64", "select.batch_pixels=null", f"{key}={value}"]
        assert plan(tmp_path, load("paper", *overrides)).refusals == ()


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 16), st.sampled_from(["sft", "grpo"]), st.integers(1, 8))
def test_legal_values_are_legal_and_whole_batches_pass(
    batch: int, micro: int, processes: int, section: str, group: int
) -> None:
    group += 1

    def make(micro: int, processes: int) -> Recipe:
        recipe = TINY
        sizes = {"batch": batch} if section == "sft" else {"prompts_per_step": batch, "group": group}
        changed = getattr(recipe, section).model_copy(update={**sizes, "micro_batch": micro})
        launch = recipe.launch.model_copy(update={"processes": processes})
        return recipe.model_copy(update={section: changed, "launch": launch})

    whole = batch * (1 if section == "sft" else group)
    faults = list_batch_faults(make(micro, processes), {section})
    cut = section == "grpo" and batch % processes != 0
    assert bool(faults) == (whole % (micro * processes) != 0 or cut)
    for fault in faults:
        micros = re.search(r"micro_batch ([\d, ]+) with these", fault)
        counts = re.search(r"launch.processes ([\d, ]+) with this", fault)
        for text, change in ((micros, 0), (counts, 1)):
            for value in text[1].split(", ") if text else []:
                legal = (int(value), processes) if change == 0 else (micro, int(value))
                assert list_batch_faults(make(*legal), {section}) == []


def test_arithmetic_is_refused_before_anything_loads_and_only_for_stages_that_run(tmp_path: Path) -> None:
    recipe = load("tiny", "launch.processes=5")
    with pytest.raises(UserError, match="sft.batch=16 .* grpo.prompts_per_step"):
        check_arithmetic(recipe, tmp_path)
    check_arithmetic(recipe, tmp_path, ["evaluate", "select"])
    for name in ("tiny", "test", "paper", "rehearsal"):
        check_arithmetic(load(name), tmp_path)


def test_prompts_are_counted_as_the_processor_makes_them(tmp_path: Path) -> None:
    recipe = load("test")
    assert isinstance(recipe.source, WorldSource)
    build_world(recipe.source, tmp_path)
    folder, shape = ROOT / "reproduce" / "tiny_base", read_shape(ROOT / "reproduce" / "tiny_base" / "config.json")
    limits = {"min_pixels": recipe.model.min_pixels, "max_pixels": recipe.grpo.max_pixels}
    processor, lengths = load_processor(folder, **limits), load_assumptions().lengths
    samples, real = read_samples(tmp_path / "rl.jsonl"), []
    for sample in samples:
        item = prepare_input(sample, tmp_path, processor, frame="resized_px", style="think")
        text = processor.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False)
        ids = processor(text=[text], images=[item.load_images()])["input_ids"][0]
        real.append((len(ids), sum(token == processor.image_token_id for token in ids)))
    pixels = Pixels(shape.vision_config, **limits)
    counted = count_split(tmp_path / "rl.jsonl", pixels, make_counter(folder, lengths), lengths)
    assert counted.samples == len(samples)
    assert counted.patches / 4 == pytest.approx(sum(image for _, image in real) / len(real))
    # Only the chat template is assumed, at Qwen's own length; the tiny one is shorter.
    spread = lengths.template_tokens
    assert 0 <= counted.tokens - sum(tokens for tokens, _ in real) / len(real) <= spread
    assert 0 <= counted.longest_tokens - max(tokens for tokens, _ in real) <= spread


def test_times_are_the_formula_and_a_device_without_a_peak_has_none(tmp_path: Path) -> None:
    assumptions = load_assumptions()
    machine = choose_machine(load("paper"), EIGHT, assumptions)
    share = assumptions.efficiency.decode_transformers
    compute = time_compute("work", 989.4e12 * 8, share, machine, 8)
    decoding = time_decoding(Decoding(16, (100, 200), 3.35e12), share, machine, 8)
    both = add_durations(compute, decoding)
    assert compute is not None and decoding is not None and both is not None
    low, high = share.range
    # One second at the full peak; two batches a GPU, a second a step at the full bandwidth.
    assert (compute.low, compute.high) == pytest.approx((1 / high, 1 / low))
    assert (decoding.low, decoding.high) == pytest.approx((2 * 100 / high, 2 * 200 / low))
    assert both.low == compute.low + decoding.low
    unknown = plan(tmp_path, load("paper"), GpuOptions(8, 96, "Some GPU"))
    assert get_stages(unknown)["grpo"].cost.duration is None and "does not know Some GPU" in " ".join(unknown.notes)


def test_measured_rates_replace_assumed_ones_on_the_same_device_only(tmp_path: Path) -> None:
    (tmp_path / "results" / "rehearsal").mkdir(parents=True)
    stage = {"tokens_per_second": 5000.0, "processes": 1, "peak_memory_gb": 61.5}
    data = {"device": "NVIDIA H100 80GB HBM3", "not_run": False, "stages": {"sft": stage}}
    (tmp_path / "results" / "rehearsal" / "measurements.json").write_text(json.dumps(data))
    recipe = load("paper")
    sft = get_stages(plan(tmp_path, recipe))["sft"]
    prompt_and_completion = 4 * 512 + 90 + 20 + 4 * 6 + 300
    assert sft.cost.duration.basis == "measured" and sft.measured_memory_gb == 61.5
    assert math.isclose(sft.cost.duration.low, 21_000 * prompt_and_completion / 5000 / 8)
    other = plan(tmp_path, recipe, GpuOptions(8, 80, "A100"))
    assert get_stages(other)["sft"].cost.duration.basis == "assumed" and "so not used" in " ".join(other.notes)


def test_the_tiny_recipe_shows_the_times_of_its_committed_run(tmp_path: Path) -> None:
    made = plan(tmp_path, load("tiny"), GpuOptions(gpus=0), ROOT / "results")
    manifest = json.loads((ROOT / "results" / "tiny" / "manifest.json").read_text())
    grpo = get_stages(made)["grpo"]
    assert made.refusals == () and grpo.cost.duration.basis == "measured"
    assert grpo.cost.duration.low == manifest["stages"]["grpo"]["seconds"]
    changed = plan(tmp_path, load("tiny", "grpo.steps=61"), GpuOptions(gpus=0), ROOT / "results")
    assert get_stages(changed)["grpo"].cost.duration is None


def test_a_disk_that_is_too_small_is_refused_and_one_disk_counts_once() -> None:
    assert refuse_disk({"runs": (40e9, 1, int(60e9)), "data": (50e9, 2, int(60e9))}) == []
    (fault,) = refuse_disk({"runs": (40e9, 1, int(60e9)), "data": (50e9, 1, int(60e9))})
    assert "40 GB in runs and 50 GB in data needed, 60 GB are free" in fault


def test_gpus_are_read_from_nvidia_smi_and_told_apart() -> None:
    assert read_gpus("NVIDIA H200, 143771\n" * 8) == ("NVIDIA H200", 8, 143771 * 2**20)
    assert read_gpus("") == ("", 0, 0)
    with pytest.raises(UserError, match="different GPUs"):
        read_gpus("NVIDIA H200, 143771\nNVIDIA L40S, 46068\n")
    with pytest.raises(UserError, match="tells no memory"):
        read_gpus("NVIDIA H100, [N/A]\n")
    assert find_peak_flops("NVIDIA H20") == 148e12 and find_peak_flops("NVIDIA H200 NVL") != 148e12
    assert find_peak_flops("NVIDIA L40") is None and find_peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    with pytest.raises(UserError, match="not in reproduce/plan.yaml, which knows H100 SXM"):
        choose_machine(load("paper"), GpuOptions(8, None, "Some GPU"), load_assumptions())


def test_without_training_data_only_fetch_and_evaluate_are_planned(tmp_path: Path) -> None:
    made = plan(tmp_path, load("paper", "source.training=null", "evaluate.arms=[base]"))
    assert list(get_stages(made)) == ["fetch", "evaluate"] and made.refusals == ()
