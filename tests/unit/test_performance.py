"""What a stage costs: FLOPs against torch's own counter, rates against their definitions, and what is not run."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedConfig, PreTrainedModel

from migrl.models.family import find_family
from migrl.models.flops import count_forward
from migrl.models.loading import load_processor
from migrl.pipeline import plan_stages
from migrl.recipe import LoraSettings, load_recipe
from migrl.running import metering
from migrl.running.metering import BFLOAT16, GenerationMeter, Step, StepMeter, describe, read_performance
from migrl.running.preflight import needs_gpu
from migrl.running.progress_log import ProgressLog
from migrl.running.stage import PROGRESS
from migrl.training.trainer import make_lora_config
from migrl.world.model import QWEN2_5_VL, Architecture, build_config

ROOT = Path(__file__).resolve().parents[2]
PROCESSOR = load_processor(ROOT / "reproduce/tiny_base", min_pixels=784, max_pixels=784)
CPU = {"device": "cpu", "peak_memory_gb": None, "reserved_memory_gb": None}
GRIDS = [[1, 12, 24], [1, 12, 12]]  # whole windows of 12 x 12 patches: torch counts what is there, not what could be
PATCHES = [288, 144]


def read_config(path: str) -> PreTrainedConfig:
    return AutoConfig.for_model(**json.loads((ROOT / path).read_text()))


def build_tiny(architecture: Architecture = QWEN2_5_VL) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A model of the tiny base's size and one batch over two pictures."""
    config = build_config(PROCESSOR, architecture)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
    model.model.visual.requires_grad_(False)
    image = config.image_token_id
    ids = torch.tensor([[1] * 10 + [image] * 72 + [3] + [image] * 36 + [2] * 20])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "image_grid_thw": torch.tensor(GRIDS)}
    values = find_family(config).tower.model_validate(config.vision_config).patch_values
    batch |= {"pixel_values": torch.randn(sum(PATCHES), values), "mm_token_type_ids": (ids == image).long()}
    return model, batch


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda found: found.model_type)
@pytest.mark.parametrize("training", ["forward", "full", "lora"])
def test_flops_are_those_that_torch_counts(training: str, architecture: Architecture) -> None:
    model, batch = build_tiny(architecture)
    trained: torch.nn.Module = model
    if training == "lora":
        trained = get_peft_model(model, make_lora_config(LoraSettings(rank=8, alpha=8), find_family(model.config)))
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training != "forward"):
        logits = trained(**batch).logits
        if training != "forward":
            logits.sum().backward()
    tokens = batch["input_ids"].shape[1]
    found = count_forward(model.config, [tokens], tokens, PATCHES, lora_rank=8 if training == "lora" else 0)
    passes = 1 if training == "forward" else 3
    expected = found.total if training == "forward" else found.train(lora=training == "lora")
    expected += passes * found.attention  # torch counts the half that the causal mask throws away
    # Nothing flows through the first layer's input under LoRA: one of four layers here, one of 28 in the 7B model.
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.015 if training == "lora" else 1e-4)


def test_the_paper_model_has_the_weights_of_its_architecture() -> None:
    config = read_config("reproduce/shapes/qwen2_5_vl_7b.json")
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16)
    assert sum(weight.numel() for weight in model.parameters()) == 8_292_166_656
    linear = sum(weight.numel() for name, weight in model.named_parameters() if "layers" in name and weight.ndim == 2)
    found = count_forward(config, [1], 1, [])
    assert found.language == 2 * linear and found.head == 2 * model.lm_head.weight.numel()


def test_a_trainers_passes_are_counted_where_they_carry_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, batch = build_tiny()
    labels = batch["input_ids"].clone()
    labels[:, :-20] = -100
    clock = iter([0.0, 5.0, 7.0, 10.0])
    monkeypatch.setattr(metering, "read_clock", lambda: next(clock))
    meter = StepMeter(LoraSettings(rank=8, alpha=8), rollouts=True)
    nothing: Any = None
    meter.on_train_begin(nothing, nothing, nothing, model=model)
    model(**batch)  # a pass of generate() has no labels
    with torch.no_grad():
        model(**batch, labels=labels)
    model(**batch, labels=labels)
    meter.on_step_end(nothing, nothing, nothing)
    meter.on_save(nothing, nothing, nothing)
    model(**batch, labels=labels)
    meter.on_step_end(nothing, nothing, nothing)
    meter.on_train_end(nothing, nothing, nothing)
    model(**batch, labels=labels)
    meter.save(tmp_path)

    tokens = batch["input_ids"].shape[1]
    pass_ = count_forward(model.config, [tokens], 20, PATCHES, lora_rank=8)
    assert [step.seconds for step in meter.steps] == [5.0, 3.0]  # the checkpoint's two seconds are nobody's
    assert meter.steps[0].flops == pytest.approx(pass_.train(lora=True) + 2 * pass_.total)
    assert meter.steps[1].flops == pytest.approx(pass_.train(lora=True) + pass_.total)
    found = read_performance(tmp_path, processes=1)
    assert found is not None
    assert (found["steps"], found["warmup_steps"], found["seconds_per_save"]) == (1, 1, 2.0)
    assert (found["tokens_per_step"], found["tokens_per_second"]) == (tokens, round(tokens / 3, 2))
    assert found["mfu"] is None and found["peak_memory_gb"] is None


def test_mfu_is_what_all_processes_needed_of_what_their_devices_could() -> None:
    device = "NVIDIA H100 80GB HBM3"
    memory = [{"device": device, "peak_memory_gb": gb, "reserved_memory_gb": gb + 1} for gb in (40.0, 50.0)]
    peak = metering.find_peak_flops(device)
    assert peak == pytest.approx(989.4e12)
    step = Step(seconds=2.0, tokens=1000, sequences=4, longest=300, flops=0.4 * peak * 2 * 2)
    together = describe("optimizer step", [step, step], [], 2, memory, dtype=BFLOAT16)  # flops of both processes
    assert (together["mfu"], together["tokens_per_second"], together["peak_memory_gb"]) == (0.4, 500.0, 50.0)
    apart = describe("batch", [step, step], [], 2, memory, dtype=BFLOAT16)  # each batch is one process's own
    assert (apart["mfu"], apart["tokens_per_second"]) == (0.8, 1000.0)
    tomorrow = [{**memory[0], "device": "NVIDIA of tomorrow"}]
    assert describe("batch", [step], [], 1, tomorrow, dtype=BFLOAT16)["mfu"] is None
    # The peak is that of bfloat16.
    assert describe("batch", [step], [], 1, memory[:1], dtype="torch.float32")["mfu"] is None


def test_generation_is_read_back_without_its_first_batch_and_without_a_torn_line(tmp_path: Path) -> None:
    assert read_performance(tmp_path, processes=1) is None
    (tmp_path / PROGRESS).mkdir()
    path = tmp_path / PROGRESS / "performance.0.jsonl"
    log = ProgressLog(path)
    for uid, (seconds, warm, longest) in enumerate([(9.0, False, 70), (1.0, True, 50), (3.0, True, 60)]):
        step = {"seconds": seconds, "tokens": 10, "sequences": 2, "longest": longest, "flops": 1e9, "warm": warm}
        log.append([{"uid": str(uid), **step, "memory": CPU}])
    log.close()
    path.write_bytes(path.read_bytes() + b'{"uid": "3", "sec')
    found = read_performance(tmp_path, processes=1)
    assert found is not None
    assert (found["steps"], found["warmup_steps"], found["seconds_per_step"]) == (2, 1, 2.0)
    assert (found["tokens_per_second"], found["longest_sequence"]) == (5.0, 70)


def test_a_meter_of_generation_does_not_keep_the_model_in_memory(tmp_path: Path) -> None:
    (tmp_path / PROGRESS).mkdir()
    model, _ = build_tiny()
    gone = weakref.ref(model)
    meter = GenerationMeter(tmp_path, 0, PROCESSOR)
    meter.start(model.config, str(model.dtype))
    del model
    gc.collect()
    assert gone() is None, "evaluate loads the next arm beside this one"


def test_one_gpu_rehearses_the_share_that_one_of_the_papers_has() -> None:
    recipes = ROOT / "reproduce" / "recipes"
    paper, rehearsal = load_recipe(recipes / "paper.yaml"), load_recipe(recipes / "rehearsal.yaml")
    share = paper.launch.processes
    assert rehearsal.sft.batch * share == paper.sft.batch
    assert rehearsal.grpo.prompts_per_step * share == paper.grpo.prompts_per_step
    for section, keys in {
        "model": ("dtype", "attention", "frame", "min_pixels"),
        "sft": ("lora", "per_device_train_batch_size", "max_pixels", "parallel"),
        "grpo": (
            "lora",
            "num_generations",
            "per_device_train_batch_size",
            "max_pixels",
            "max_new_tokens",
            "parallel",
            "beta",
        ),
        "select": ("rollouts",),
        "evaluate": ("max_new_tokens", "max_pixels", "batch", "batch_pixels"),
    }.items():
        for key in keys:
            assert getattr(getattr(rehearsal, section), key) == getattr(getattr(paper, section), key), (section, key)


def test_what_needs_no_gpu_is_allowed_without_one() -> None:
    recipes = ROOT / "reproduce" / "recipes"
    needing = {}
    for name in ("tiny", "paper", "rehearsal"):
        recipe = load_recipe(recipes / f"{name}.yaml")
        needing[name] = [stage.name for stage in plan_stages(recipe) if needs_gpu(stage.name, recipe, whole=False)]
    trained = ["sft", "merge", "select", "grpo", "evaluate"]
    paper_stages = [*trained[:-1], "sft_direct", "merge_direct", "evaluate", "pass_rates"]
    assert needing == {"tiny": [], "paper": paper_stages, "rehearsal": ["fetch", *trained, "pass_rates"]}
    paper = load_recipe(recipes / "paper.yaml")
    assert needs_gpu("fetch", paper, whole=True)  # no 30 GB for a run that cannot follow
