"""`migrl plan`: every stage with its formulas, what cannot fit refused with changes that would, nothing made up."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from migrl.cli import app
from migrl.data.world_source import build_world
from migrl.errors import UserError
from migrl.grounding.samples import read_samples
from migrl.models.inputs import prepare_input
from migrl.models.loading import load_processor
from migrl.models.shapes import read_shape
from migrl.pipeline import plan_stages
from migrl.plan.assumptions import load_assumptions
from migrl.plan.build import Plan, build_plan
from migrl.plan.checks import check_arithmetic
from migrl.plan.costs import add_durations, time_compute, time_decoding
from migrl.plan.disk import refuse_disk
from migrl.plan.lengths import Pixels, count_split, make_counter
from migrl.plan.machine import GpuOptions, choose_machine
from migrl.recipe import Recipe, WorldSource, load_recipe
from migrl.recipe.arithmetic import list_batch_faults
from migrl.running.gpu_peaks import find_peak_flops
from migrl.running.gpus import MEMORY_QUERY, find_gpus

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "reproduce" / "recipes"
BIG = "model: Qwen/Qwen2.5-VL-72B-Instruct"
EIGHT = GpuOptions(gpus=8, memory_gb=80, name="NVIDIA H100 80GB HBM3")


def load(name: str, *overrides: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml", list(overrides))


TINY = load("tiny")
PLAIN_GROUPS = "grpo.group_prefix=false"
TRANSFORMERS = ("select.engine=transformers", "evaluate.engine=transformers", "grpo.engine=transformers")
STOCK = (*TRANSFORMERS, PLAIN_GROUPS)


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
        duration = stages[name].duration
        assert 0 < duration.low < duration.high and duration.basis == "assumed" and "%" in duration.words
        assert 16.6e9 < stages[name].peak.device.total < 80e9
    assert "llmseg" in stages["evaluate"].words and "unknown" in stages["evaluate"].words
    assert any("MGrounding-630k" in name for name in stages["fetch"].disk.unknown)
    assert made.totals.unknown_files == len(stages["fetch"].disk.unknown)
    assert made.totals.gpu_hours[0] == pytest.approx(8 * made.totals.hours[0])


def test_json_has_every_stage_with_its_formulas_and_the_exit_code_is_that_of_the_verdict() -> None:
    run = CliRunner()
    arms = "evaluate.arms=[base,sft,rl,sft_direct,rl_no_cold_start,rl_no_selection]"
    good = run.invoke(app, ["plan", "--gpus", "8", "--gpu", "H100", "--json", arms])
    assert good.exit_code == 0, good.output
    data = json.loads(good.output, parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert data["fits"] and data["refusals"] == [] and data["processes"] == data["machine"]["gpus"] == 8
    assert [stage["name"] for stage in data["stages"]] == [stage.name for stage in plan_stages(load("paper", arms))]
    grpo = next(stage for stage in data["stages"] if stage["name"] == "grpo_no_selection")
    assert grpo["peak"]["device"]["total"] == sum(part["bytes"] for part in grpo["peak"]["device"]["parts"])
    assert all(part["words"] for part in grpo["peak"]["device"]["parts"])
    bad = run.invoke(app, ["plan", "--gpus", "8", "--gpu", "RTX 4090", "--json"])
    assert isinstance(bad.exception, UserError) and "grpo" in str(bad.exception)
    refused = json.loads(bad.output, parse_constant=pytest.fail)
    assert not refused["fits"] and all(line in str(bad.exception) for line in refused["refusals"])


def test_a_group_behind_one_prompt_trains_in_a_fraction_of_the_time_and_of_the_memory(tmp_path: Path) -> None:
    settings = ("model.attention=sdpa", "grpo.engine=vllm")
    sides = [load("paper", *settings, f"grpo.group_prefix={prefix}") for prefix in ("false", "true")]
    stock, ours = (get_stages(plan(tmp_path, recipe))["grpo"] for recipe in sides)
    assert stock.duration is not None and ours.duration is not None and stock.peak and ours.peak
    assert all(0.1 < mine / its < 0.6 for mine, its in zip(ours.duration.hours, stock.duration.hours, strict=True))
    assert ours.peak.device.total < stock.peak.device.total


@pytest.mark.parametrize("columns", [80, 120])
def test_the_text_reads_at_any_width_and_ends_with_the_sums(columns: int) -> None:
    run = CliRunner(env={"COLUMNS": str(columns)})
    output = run.invoke(app, ["plan", "--gpus", "8", "--gpu", "H100", "--formulas"]).output
    assert max(len(line) for line in output.splitlines()) <= columns
    (row,) = (line for line in output.splitlines() if line.lstrip().startswith("grpo  "))
    assert len(re.split(r"  +", row.strip())) == 6  # a stage is one line of the table
    for words in ("assumed, not measured", "a formula, not measured", "of unknown size", "total:", "GPU-hours"):
        assert words in " ".join(output.split())
    assert output.rstrip().endswith("fits")


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (
            [*STOCK, "select.batch=64", "select.batch_pixels=null"],
            EIGHT,
            r"select: generation of 512 .*select.batch=\d+ \(",
        ),
        (["grpo.lora=null", PLAIN_GROUPS], EIGHT, r"grpo: .*grpo.parallel=zero3 \("),
        ([*STOCK], GpuOptions(8, 40, "A100 40GB"), r"fits: grpo.max_pixels=200704 .* others grpo.per_dev"),
        ([], GpuOptions(4, 80, "H100"), "launch.processes=8: one GPU each, and there are 4; set launch.processes=4;"),
        ([], GpuOptions(3, 80, "H100"), "launch.processes=8: one GPU each, and there are 3; set launch.processes=2;"),
        ([], GpuOptions(3, 80, "H100"), "tensor_parallel=8: .* there are 3, .* no such number fits: name a smaller"),
        (["synthesize.teacher.tensor_parallel=3"], EIGHT, "tensor_parallel=3: .* set 4 or 8, or ask a server"),
        (["synthesize.teacher.context_tokens=4000"], EIGHT, r" 4,784, more than .*tokens=4000; set that to 4784 or"),
        (["synthesize.teacher.memory=0.1"], EIGHT, r"takes 10 % .*any of these fits: synthesize.teacher.memory=0.9 \("),
        (
            ["grpo.vllm_enable_sleep_mode=false", "grpo.vllm_gpu_memory_utilization=0.5", PLAIN_GROUPS],
            EIGHT,
            r"vllm 40.0.*sleep_mode=True \(58.2 GB\); grpo.vllm_gpu_memory_utilization=0.3 \(.*grpo.engine=transf",
        ),
        (["grpo.vllm_gpu_memory_utilization=0.1"], EIGHT, r"grpo: vLLM .*takes 10 %.*gpu_memory_utilization=0.25 \("),
        (["vllm.gpu_memory_utilization=0.2"], EIGHT, r"select: vLLM .*takes 20 %.*vllm.gpu_memory_utilization=0.9 \("),
        (["vllm.max_num_seqs=20000"], EIGHT, "hold 20000 sequences .* lower vllm.max_num_seqs to 16384"),
        (["vllm.max_num_seqs=16000", "vllm.gpu_memory_utilization=0.6"], EIGHT, r"logits.*vllm.max_num_seqs=8000 \("),
        (["vllm.max_model_len=16384"], EIGHT, "evaluate: .* of mmiu .* vllm.max_model_len=16384; set that to 27648 or"),
        (["vllm.max_model_len=200000"], EIGHT, "vllm.max_model_len=200000: the model of select has 128000 positions"),
        (["vllm.tensor_parallel_size=8"], EIGHT, "size=8: .* evaluate, .*set 1 or 2 or 4, or evaluate.engine=transf"),
        (["vllm.tensor_parallel_size=4"], GpuOptions(7, 80, "H100"), "there are 7; set launch.processes=4;"),
        ([*STOCK], GpuOptions(1, 80, "H100"), r"generation of 128 .*prompts_per_step=4 \("),
        (["launch.processes=6"], EIGHT, "sft.batch=128 is not .*launch.processes 1, 2, 4, 8, 16, 32, 64 with this"),
        (
            ["model.path=Qwen/Qwen3-VL-8B-Instruct"],
            EIGHT,
            "model.frame=resized_px: Qwen3-VL reads and writes boxes in permille; set model.frame so",
        ),
        (["grpo.max_new_tokens=125000"], EIGHT, "grpo: the longest prompt of rl .*assumed.* 128,000 positions"),
        ([], GpuOptions(gpus=0), "model.dtype=bfloat16.* need a GPU"),
        ([], GpuOptions(7, 16, "RTX 4080"), r"merge: .* others sft.max_pixels=200704 .* changes the "),
        ([f"synthesize.teacher={{engine: transformers, {BIG}}}"], EIGHT, "synthesize: .* others .*; or use GPUs"),
        ([f"synthesize.teacher={{engine: vllm, {BIG}}}"], EIGHT, r"takes 90 % .*teacher.tensor_parallel=4 \("),
    ],
)  # fmt: skip
def test_what_cannot_fit_is_refused_with_its_remedy(
    overrides: list[str], options: GpuOptions, message: str, tmp_path: Path
) -> None:
    refusals = plan(tmp_path, load("paper", *overrides), options).refusals
    assert any(re.search(message, text) for text in refusals), refusals


CHANGED = (
    *("sft.per_device_train_batch_size=16", "sft.max_pixels=2000000", "sft.lora.rank=512", "sft.parallel=none"),
    *("grpo.per_device_train_batch_size=16", "grpo.lora=null", "grpo.engine=transformers", "grpo.prompts_per_step=64"),
    *("grpo.vllm_enable_sleep_mode=false", "grpo.vllm_gpu_memory_utilization=0.5", "grpo.vllm_tensor_parallel_size=2"),
    *("select.batch_pixels=null", "evaluate.batch_pixels=900000000", "model.attention=eager", "launch.processes=2"),
    *("select.engine=transformers", "evaluate.engine=transformers", "vllm.gpu_memory_utilization=0.2"),
    *("vllm.max_num_seqs=6000", "vllm.tensor_parallel_size=2"),
)
TEACHERS = (
    *("synthesize.teacher.tensor_parallel=2", "synthesize.teacher.memory=0.2"),
    f"synthesize.teacher={{engine: transformers, {BIG}, batch: 64}}",
)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([1, 2, 3, 4, 7, 8, 16]),
    st.sampled_from([24, 40, 48, 80, 180]),
    st.lists(st.sampled_from(CHANGED), max_size=3, unique=True),
    st.sampled_from(TEACHERS),
    st.integers(0, 11),
)
def test_every_change_that_a_refusal_names_makes_its_stage_fit(
    gpus: int, memory: int, changed: list[str], teacher: str, which: int
) -> None:
    options, nowhere, overrides = GpuOptions(gpus, memory, "Some GPU"), Path("nowhere"), [*changed, teacher]
    made = build_plan(load("paper", *overrides), nowhere, nowhere, options)
    overrides.append(f"launch.processes={made.processes}")  # as many as there are GPUs
    for refusal in made.refusals:
        kind, _, said = refusal.partition(":")
        offers = said.partition("fits: ")[2].partition("; or ")[0]
        found = re.findall(r"([a-z_.]+=(?:\{.*?\}|[^ ;]+)) \((\d+\.\d) GB", offers)
        if kind.endswith("_direct") or not found:
            continue
        named, total = found[which % len(found)]
        after = build_plan(load("paper", *overrides, named), nowhere, nowhere, options)
        assert not [left for left in after.refusals if left.startswith(f"{kind}:")], (refusal, named)
        assert get_stages(after)[kind].peak.device.total / 1e9 == pytest.approx(float(total), abs=0.051)


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 16), st.sampled_from(["sft", "grpo"]), st.integers(1, 8))
def test_legal_values_are_legal_and_whole_batches_pass(
    batch: int, micro: int, processes: int, section: str, group: int
) -> None:
    group += 1

    def make(micro: int, processes: int) -> Recipe:
        recipe = TINY
        sizes = {"batch": batch} if section == "sft" else {"prompts_per_step": batch, "num_generations": group}
        changed = getattr(recipe, section).model_copy(update={**sizes, "per_device_train_batch_size": micro})
        launch = recipe.launch.model_copy(update={"processes": processes})
        return recipe.model_copy(update={section: changed, "launch": launch})

    whole = batch * (1 if section == "sft" else group)
    faults = list_batch_faults(make(micro, processes), {section})
    cut = section == "grpo" and batch % processes != 0
    assert bool(faults) == (whole % (micro * processes) != 0 or cut)
    for fault in faults:
        micros = re.search(r"per_device_train_batch_size ([\d, ]+) with these", fault)
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


def test_a_model_of_unknown_shape_is_fetched_before_its_shape_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bring(path: str, *, revision: str, local_dir: Path, allow_patterns: list[str], tqdm_class: type) -> None:
        shutil.copytree(ROOT / "reproduce" / "tiny_base", local_dir)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", bring)
    keys = ["model.path=someone/small", f"model.revision={'a' * 40}", "source.cot_per_task=1", "source.rl_per_task=1"]
    keys += ["source.eval_per_task={mini_blink: 1}", "model.sha256={}"]
    recipe = load("test", *keys)
    for refused in (
        lambda: plan(tmp_path, recipe),
        lambda: check_arithmetic(recipe, tmp_path / "runs" / "test", ["synthesize", "sft"]),
    ):
        with pytest.raises(UserError, match="someone/small: not there, .* run `migrl fetch` with the same recipe and"):
            refused()
    arguments = ["--recipe", "test", "--runs", str(tmp_path / "runs"), *keys]
    fetched = CliRunner().invoke(app, ["fetch", *arguments])
    assert fetched.exit_code == 0, fetched.output + repr(fetched.exception)
    check_arithmetic(recipe, tmp_path / "runs" / "test")
    assert "sft" in get_stages(plan(tmp_path, recipe))


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
    assert counted.mean.patches / 4 == pytest.approx(sum(image for _, image in real) / len(real))
    # Only the chat template is assumed, at Qwen's own length; the tiny one is shorter.
    spread = lengths.template_tokens
    assert 0 <= counted.mean.tokens - sum(tokens for tokens, _ in real) / len(real) <= spread
    assert 0 <= counted.longest.tokens - max(tokens for tokens, _ in real) <= spread


def test_times_are_the_formula_and_a_device_without_a_peak_has_none(tmp_path: Path) -> None:
    assumptions = load_assumptions()
    machine = choose_machine(load("paper"), EIGHT, assumptions)
    share = assumptions.efficiency.decode_transformers
    compute = time_compute("work", 989.4e12 * 8, share, machine, 8)
    decoding = time_decoding(16, (100, 200), 3.35e12, share, machine, 8)
    both = add_durations([compute, decoding])
    assert compute is not None and decoding is not None and both is not None
    low, high = share.range
    # One second at the full peak; two batches a GPU, a second a step at the full bandwidth.
    assert (compute.low, compute.high) == pytest.approx((1 / high, 1 / low))
    assert (decoding.low, decoding.high) == pytest.approx((2 * 100 / high, 2 * 200 / low))
    assert both.low == compute.low + decoding.low
    unknown = plan(tmp_path, load("paper"), GpuOptions(8, 96, "Some GPU"))
    assert get_stages(unknown)["grpo"].duration is None and "does not know Some GPU" in " ".join(unknown.notes)


def read_work(made: Plan, stage: str) -> tuple[float, list[int]]:
    """FLOPs of reading the prompts, and under vLLM how many sequences are decoded at once, from and to."""
    words = get_stages(made)[stage].duration.words
    running = re.search(r"decoding ([\d-]+) at once", words)
    return float(re.search(r"reading (\S+) FLOPs", words)[1]), [
        int(n) for n in running[1].split("-")
    ] if running else []


def test_under_vllm_nothing_waits_for_the_longest_and_only_stock_trl_reads_prompts_anew(tmp_path: Path) -> None:
    batches, served = (plan(tmp_path, load("paper", *keys)) for keys in (STOCK, [PLAIN_GROUPS]))
    for stage, shared in (("select", 1), ("pass_rates", 1), ("grpo", 8), ("evaluate", 1)):  # stock trl has eight copies
        (own, none), (once, running) = read_work(batches, stage), read_work(served, stage)
        assert not none and running and own / once == pytest.approx(shared, rel=0.05)
        before, after = (get_stages(made)[stage].duration for made in (batches, served))
        assert after.low < before.low and after.high < before.high / 2
    # A GPU's part of a step is two prompts with eight rollouts; elsewhere the cache holds more than vllm.max_num_seqs.
    assert read_work(served, "grpo")[1] == [16] and read_work(served, "select")[1] == [256]
    assert "new weights 625 x" in get_stages(served)["grpo"].duration.words


def test_a_smaller_cache_holds_fewer_sequences_and_takes_longer(tmp_path: Path) -> None:
    hours, running = [], []
    for share in (0.35, 0.4, 0.9):
        made = plan(tmp_path, load("paper", f"vllm.gpu_memory_utilization={share}"))
        running.append(read_work(made, "select")[1][0])
        hours.append(get_stages(made)["select"].duration.low)
    assert running[0] < running[1] < running[2] == 256 and hours[0] > hours[1] > hours[2]


def test_two_gpus_share_an_engine_and_a_server_of_rollouts_is_in_no_sum(tmp_path: Path) -> None:
    one, two = plan(tmp_path, load("paper")), plan(tmp_path, load("paper", "vllm.tensor_parallel_size=2"))
    assert "in 4 engines" in get_stages(two)["select"].duration.words
    assert get_stages(two)["select"].peak.host.bytes < get_stages(one)["select"].peak.host.bytes
    assert get_stages(two)["select"].peak.device.total < get_stages(one)["select"].peak.device.total
    keys = ["grpo.vllm_mode=server", "grpo.vllm_server_base_url=http://gpu2:8000", "grpo.vllm_enable_sleep_mode=false"]
    served = plan(tmp_path, load("paper", *keys, PLAIN_GROUPS))
    assert "other GPUs make the rollouts" in " ".join(served.notes)
    assert get_stages(served)["grpo"].duration.words.startswith("training")
    assert get_stages(served)["grpo"].peak == get_stages(plan(tmp_path, load("paper", *STOCK)))["grpo"].peak


def test_readme_says_what_the_paper_recipe_costs(tmp_path: Path) -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    for keys, words in (((), "{:.0f} to {:.0f} GPU-hours"), (STOCK, "({:.0f} to {:.0f} if transformers")):
        assert words.format(*plan(tmp_path, load("paper", *keys)).totals.gpu_hours) in readme


def write_rehearsal(folder: Path, *overrides: str, device: str = "NVIDIA H100 80GB HBM3") -> Path:
    """Results of a rehearsal, made up; return their root."""
    path = folder / "results" / "rehearsal" / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = {"device": device, "tokens_per_second": 5000.0, "processes": 1, "peak_memory_gb": 61.5}
    stage = {"seconds": 60.0, "peak_memory_mb": 9000, "facts": {"performance": rate}}
    stages = dict.fromkeys(("sft", "select", "grpo", "evaluate"), stage)
    settings = load("rehearsal", *overrides).model_dump(mode="json")
    path.write_text(json.dumps({"settings": settings, "stages": stages}))
    return folder / "results"


def list_measured(made: Plan) -> set[str]:
    return {stage.name for stage in made.stages if stage.duration is not None and stage.duration.basis == "measured"}


def test_measured_rates_replace_assumed_ones(tmp_path: Path) -> None:
    made = plan(tmp_path, load("paper", *TRANSFORMERS), results=write_rehearsal(tmp_path))
    sft = get_stages(made)["sft"]
    prompt_and_completion = 4 * 512 + 90 + 20 + 4 * 6 + 300
    assert sft.duration.basis == "measured" and sft.measured == ("61.5 GB in tensors on the GPU, measured",)
    assert math.isclose(sft.duration.low, 21_000 * prompt_and_completion / 5000 / 8)
    assert list_measured(made) == {"sft", "sft_direct", "select", "pass_rates", "grpo", "evaluate"}


ALL = {"sft", "select", "grpo", "evaluate", "pass_rates"}


@pytest.mark.parametrize(
    ("rehearsed", "planned", "unused", "said"),
    [
        (["model.attention=sdpa"], [], ALL, "sft with model.attention=sdpa; select with"),
        ([], ["model.attention=sdpa"], ALL, "grpo with model.attention=flash_attention_2"),
        ([], ["sft.per_device_train_batch_size=4"], {"sft"}, "not used: sft with sft.per_device_train_batch_size=2$"),
        (["select.batch=2"], [], {"select", "pass_rates"}, "not used: select with select.batch=2$"),
        ([], ["grpo.parallel=zero3"], {"grpo"}, "not used: grpo with grpo.parallel=zero2$"),
        ([], ["launch.processes=4"], {"grpo"}, "not used: grpo with 2 prompts per process$"),
        (["model.dtype=float32"], [], ALL, "evaluate with model.dtype=float32"),
        ([], ["select.engine=vllm"], {"select", "pass_rates"}, "not used: select with select.engine=transformers$"),
        (["source.shapes=reproduce/shapes/qwen2_5_vl_72b.json"], [], ALL, "of another shape, so not used$"),
    ],
)
def test_a_rate_of_other_settings_is_not_used_and_the_plan_says_so(
    rehearsed: list[str], planned: list[str], unused: set[str], said: str, tmp_path: Path
) -> None:
    made = plan(tmp_path, load("paper", *TRANSFORMERS, *planned), results=write_rehearsal(tmp_path, *rehearsed))
    assert re.search(said, made.notes[0]), made.notes[0]
    assert list_measured(made) & ALL == ALL - unused


def test_a_rate_of_another_device_or_of_none_is_not_used(tmp_path: Path) -> None:
    recipe, results = load("paper"), write_rehearsal(tmp_path)
    other = plan(tmp_path, recipe, GpuOptions(8, 80, "A100"), results)
    assert list_measured(other) == set() and "so not used" in other.notes[0]
    for device in ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "cpu"):
        assert list_measured(plan(tmp_path, recipe, results=write_rehearsal(tmp_path, device=device))) == set()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("measurements.json", '{"device": "NVIDIA H1', "measurements.json: not JSON"),
        ("measurements.json", "[]", "measurements.json: .*restore it"),
        ("manifest.json", "", "manifest.json: .*restore it"),
        ("manifest.json", '{"settings": {}}', "manifest.json: key 'stages': .*restore it"),
    ],
)
def test_a_torn_file_of_measurements_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    results = write_rehearsal(tmp_path)
    (results / "rehearsal" / name).write_text(text)
    with pytest.raises(UserError, match=message):
        plan(tmp_path, load("paper"), results=results)


def test_a_run_whose_settings_are_no_recipe_any_more_is_named_and_not_used(tmp_path: Path) -> None:
    results = write_rehearsal(tmp_path)
    (results / "rehearsal" / "manifest.json").write_text('{"settings": {"name": "old"}, "stages": {}}')
    made = plan(tmp_path, load("paper"), results=results)
    assert list_measured(made) == set() and "not used, as its settings are no recipe's today" in made.notes[0]


def test_the_own_earlier_run_is_used_on_its_own_kind_of_device_only(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "paper"
    folder.mkdir(parents=True)
    stage = {"seconds": 7200.0, "peak_memory_mb": 9000, "facts": {"performance": {"device": "NVIDIA H200"}}}
    data = {"settings": load("paper").model_dump(mode="json"), "stages": {"grpo": stage}}
    (folder / "manifest.json").write_text(json.dumps(data))
    for name, measured in (("H200", {"grpo"}), ("H100", set())):
        assert list_measured(plan(tmp_path, load("paper"), GpuOptions(8, 141, name))) == measured


def test_a_recipe_in_float32_has_no_times_on_a_gpu_whose_peak_is_of_bfloat16(tmp_path: Path) -> None:
    made = plan(tmp_path, load("paper", "model.dtype=float32", "model.attention=sdpa"))
    assert all(stage.duration is None for stage in made.stages) and "no times" in " ".join(made.notes)


def test_a_disk_that_is_too_small_is_refused_and_one_disk_counts_once() -> None:
    assert refuse_disk({"runs": (40e9, 1, int(60e9)), "data": (50e9, 2, int(60e9))}) == []
    (fault,) = refuse_disk({"runs": (40e9, 1, int(60e9)), "data": (50e9, 1, int(60e9))})
    assert "40 GB in runs and 50 GB in data needed, 60 GB are free" in fault


H200 = "NVIDIA H200, 143771, Disabled"


def ask(folder: Path, says: str) -> tuple[str, int, int]:
    """Find GPUs with a program that answers as nvidia-smi does."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{says}\n")
    program.chmod(0o755)
    return find_gpus([str(program), *MEMORY_QUERY[1:]])


def test_gpus_are_read_from_nvidia_smi(tmp_path: Path) -> None:
    assert ask(tmp_path, f"for i in 1 2 3 4 5 6 7 8; do echo '{H200}'; done") == ("NVIDIA H200", 8, 143771 * 2**20)
    assert ask(tmp_path, "echo 'NVIDIA L40S, 46068, [N/A]'") == ("NVIDIA L40S", 1, 46068 * 2**20)
    assert ask(tmp_path, "echo 'No devices were found'; exit 6") == ("", 0, 0)
    assert find_gpus([str(tmp_path / "nothing")]) == ("", 0, 0)


@pytest.mark.parametrize(
    ("says", "message"),
    [
        (f"echo '{H200}'; echo 'NVIDIA L40S, 46068, [N/A]'", "different GPUs"),
        ("echo 'NVIDIA H100, [N/A], Disabled'", "tells no memory"),
        ("echo 'NVIDIA H100 80GB HBM3, 81559, Enabled'", "cut into parts .MIG"),
        ("echo 'Segmentation fault'", "exit 0: Segmentation fault; mend the driver, or give --gpus"),
        (r"printf '\377\376\n\n'", "exit 0: .*mend the driver"),
        ("true", "exit 0: ; mend"),
        ("echo 'Unable to determine the device handle' >&2; exit 9", "exit 9: Unable"),
    ],
)
def test_an_nvidia_smi_that_talks_nonsense_is_an_error_that_says_what_to_give(
    says: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ask(tmp_path, says)
    assert "--gpu-memory" in str(caught.value)


def test_a_device_is_known_by_its_name_and_a_part_of_one_is_not_the_whole() -> None:
    assert find_peak_flops("NVIDIA H20") == 148e12 and find_peak_flops("NVIDIA H200 NVL") != 148e12
    assert find_peak_flops("NVIDIA L40") is None and find_peak_flops("NVIDIA A100-SXM4-40GB") == 312e12
    assert find_peak_flops("NVIDIA GH200 480GB") is None
    assert find_peak_flops("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (GpuOptions(8, None, "Some GPU"), "not in reproduce/gpus.yaml, which knows H100 SXM"),
        (GpuOptions(-1), "--gpus -1: give the number"),
        *((GpuOptions(8, memory), "--gpu-memory .*: give the GB") for memory in (0.0, -5.0, math.nan, math.inf)),
    ],
)
def test_gpus_that_cannot_be_are_refused(options: GpuOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_machine(load("paper"), options, load_assumptions())


def test_without_training_data_only_fetch_and_evaluate_are_planned(tmp_path: Path) -> None:
    made = plan(tmp_path, load("paper", "source.training=null", "evaluate.arms=[base]"))
    assert list(get_stages(made)) == ["fetch", "evaluate"] and made.refusals == ()
