"""Shapes and memory: counted as torch counts them, tracked tensor by tensor on a CPU, and beside published figures.

No GPU is here: what a GPU's allocator and fused kernels make of it is not tested.
"""

import json
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from migrl.models.family import read_family
from migrl.plan.assumptions import MemoryExtras
from migrl.plan.memory import (
    BACKWARD,
    BACKWARD_DROPOUT,
    BACKWARD_FLOAT32_ADAPTERS,
    KEPT,
    KEPT_BACKWARD,
    KEPT_DROPOUT,
    PREFILL,
    VISION_PREFILL,
    Batch,
    LayerBytes,
    Training,
    plan_generation,
    plan_states,
    plan_training,
)
from migrl.plan.shapes import (
    ModelShape,
    TextShape,
    count_kv_bytes,
    count_lora_parameters,
    count_parameters,
    read_shape,
)
from migrl.recipe import LoraSettings
from migrl.training.trainer import freeze_vision_tower, make_lora_config

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {name: ROOT / "reproduce" / "shapes" / f"qwen2_5_vl_{name}.json" for name in ("7b", "72b")}
BASE = ROOT / "reproduce" / "tiny_base"
TINY = BASE / "config.json"
NO_EXTRAS = MemoryExtras(overhead_gb=0, fragmentation=0, host_overhead_gb=0, host_overhead_cpu_gb=0)
SEVEN = read_shape(SHAPES["7b"])


def make_model(path: Path) -> Qwen2_5_VLForConditionalGeneration:
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(path))


@pytest.mark.parametrize("path", [TINY, *SHAPES.values()], ids=lambda path: path.stem)
def test_parameters_are_those_of_the_real_model(path: Path) -> None:
    model, counted = make_model(path), count_parameters(read_shape(path))
    assert counted.total == sum(weight.numel() for weight in model.parameters())
    assert counted.vision == sum(weight.numel() for weight in model.model.visual.parameters())
    assert counted.embedding == model.model.language_model.embed_tokens.weight.numel()


def test_the_7b_has_the_published_number_of_parameters_and_bytes() -> None:
    # The published checkpoint's index: total_size 16584333312 bytes of bfloat16. KV: 2 x 28 layers x 4 x 128 x 2 bytes.
    assert count_parameters(SEVEN).total * 2 == 16_584_333_312
    assert count_kv_bytes(SEVEN, 2) == 57_344


def test_lora_parameters_are_those_that_peft_makes() -> None:
    settings = LoraSettings(rank=64, alpha=128)
    adapted = get_peft_model(make_model(SHAPES["7b"]), make_lora_config(settings, read_family(BASE)))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == count_lora_parameters(SEVEN, 64) == 161_480_704


def test_a_hub_config_with_the_language_keys_at_the_top_is_read_alike(tmp_path: Path) -> None:
    nested = SHAPES["7b"].read_text()
    flat = Qwen2_5_VLConfig.from_pretrained(SHAPES["7b"]).to_dict()
    flat |= flat.pop("text_config") | {"model_type": "qwen2_5_vl"}
    flat["vision_config"]["in_chans"] = flat["vision_config"].pop("in_channels")
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    (tmp_path / "nested.json").write_text(nested)
    assert read_shape(tmp_path / "flat.json") == read_shape(tmp_path / "nested.json")


class Tracker(TorchDispatchMode):
    """Bytes of all storages that operations made, as long as they live, and the largest sum."""

    def __init__(self, ignored: torch.nn.Module) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = {weight.untyped_storage()._cdata for weight in ignored.parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


SMALL = replace(
    SEVEN.text_config, hidden_size=256, intermediate_size=1344, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=1, vocab_size=1000,
)  # fmt: skip


def make_small() -> Qwen2_5_VLForConditionalGeneration:
    """A model with the 7B's proportions that a CPU runs in a moment."""
    config = Qwen2_5_VLConfig.from_pretrained(SHAPES["7b"])
    text, vision = config.text_config, config.vision_config
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        setattr(text, name, getattr(SMALL, name))
    text.vocab_size, text.layer_types = SMALL.vocab_size, ["full_attention"] * SMALL.num_hidden_layers
    text.rope_parameters = {"mrope_section": [8, 12, 12], "rope_theta": 1e6, "rope_type": "default"}
    vision.depth, vision.hidden_size, vision.intermediate_size, vision.num_heads = 2, 160, 428, 2
    vision.out_hidden_size, vision.fullatt_block_indexes = SMALL.hidden_size, [1]
    return Qwen2_5_VLForConditionalGeneration(config)


def measure_slope(run: Callable[[int], float], low: int, high: int) -> float:
    """Bytes a token, from two lengths; what does not grow with them falls out."""
    return (run(high) - run(low)) / (high - low)


def train_backbone(tokens: int, *, dropout: float, low: bool, float32_adapters: bool = False) -> float:
    """Peak bytes of a training pass over so many tokens through the language model alone."""
    model = make_small().to(torch.bfloat16 if low else torch.float32)
    config = make_lora_config(LoraSettings(rank=16, alpha=16, dropout=dropout), read_family(BASE))
    adapted = get_peft_model(model, config, autocast_adapter_dtype=float32_adapters)
    if low:
        adapted.gradient_checkpointing_enable()
        adapted.enable_input_require_grads()
    adapted.train()
    ids = torch.full((1, tokens), 5)
    with Tracker(adapted) as tracker, torch.autocast("cpu", torch.bfloat16, enabled=float32_adapters):
        states = model.model(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids), use_cache=False).last_hidden_state
        states.float().pow(2).mean().backward()
    return tracker.peak


@pytest.mark.parametrize(
    ("how", "formula"),
    [
        ({"dropout": 0.05, "low": True}, BACKWARD_DROPOUT),
        ({"dropout": 0.0, "low": True}, BACKWARD),
        ({"dropout": 0.05, "low": True, "float32_adapters": True}, BACKWARD_FLOAT32_ADAPTERS),
        ({"dropout": 0.05, "low": False}, KEPT_DROPOUT),
        ({"dropout": 0.0, "low": False}, KEPT),
    ],
    ids=["dropout", "no dropout", "float32 adapters", "float32, dropout", "float32"],
)
def test_activations_of_training_are_those_that_were_tracked(how: dict[str, Any], formula: LayerBytes) -> None:
    measured = measure_slope(lambda tokens: train_backbone(tokens, **how), 256, 512)
    layers, widths = SMALL.num_hidden_layers, (SMALL.hidden_size, SMALL.key_size, SMALL.intermediate_size)
    # Checkpoints of every layer and one layer at work, or all that the layers keep and one at work.
    if how["low"]:
        planned = formula.count(*widths) + 2 * SMALL.hidden_size * layers
    else:
        planned = layers * formula.count(*widths) + KEPT_BACKWARD.count(*widths)
    assert planned == pytest.approx(measured, rel=0.1)


def look(patches: int) -> float:
    """Peak bytes of the vision tower over one picture, frozen as the training stages freeze it."""
    model = make_small().to(torch.bfloat16)
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    freeze_vision_tower(model)
    model.train()
    tower, side = model.model.visual, round(patches**0.5)
    pixels = torch.randn(side * side, 1176)
    with Tracker(tower) as tracker:
        out = tower(pixels.to(torch.bfloat16), torch.tensor([[1, side, side]])).pooler_output
    assert not out.requires_grad
    return tracker.peak


def test_the_frozen_vision_tower_needs_what_was_tracked_in_training_too() -> None:
    measured = measure_slope(look, 24**2, 40**2)
    assert VISION_PREFILL.count(160, 0, 428) == pytest.approx(measured, rel=0.1)


def test_reading_a_prompt_needs_what_was_tracked_and_the_cache_is_as_long_as_the_prompt() -> None:
    model = make_small().to(torch.bfloat16).eval()
    shape = ModelShape("qwen2_5_vl", SMALL, SEVEN.vision_config, tie_word_embeddings=False)

    def read(tokens: int) -> float:
        ids = torch.full((1, tokens), 5)
        with Tracker(model) as tracker, torch.inference_mode():
            out = model(input_ids=ids, mm_token_type_ids=torch.zeros_like(ids), use_cache=True, logits_to_keep=1)
        held = [getattr(layer, name) for layer in out.past_key_values.layers for name in ("keys", "values")]
        assert sum(tensor.numel() * 2 for tensor in held) == tokens * count_kv_bytes(shape, 2)
        return tracker.peak

    widths = (SMALL.hidden_size, SMALL.key_size, SMALL.intermediate_size)
    assert PREFILL.count(*widths) + count_kv_bytes(shape, 2) == pytest.approx(measure_slope(read, 512, 1024), rel=0.1)


@pytest.mark.parametrize(
    ("tokens", "published_gb"), [(256, 20.1), (512, 20.4), (1024, 21.5), (2048, 23.8), (4096, 29.7), (8192, 36.6)]
)
def test_the_formula_meets_the_published_peaks_of_another_7b_model(tokens: int, published_gb: float) -> None:
    # QwenLM/Qwen, README, "Profiling of Memory and Speed": LoRA on Qwen-7B, one A100, batch 1, flash attention.
    text = TextShape(4096, 11008, 32, 32, 32, 151936, 8192)
    shape = ModelShape("qwen2_5_vl", text, SEVEN.vision_config, tie_word_embeddings=False)
    lora = LoraSettings(rank=64, alpha=16, dropout=0.05)
    training = Training(lora, "none", 1, 2, "flash_attention_2")
    memory = plan_training(shape, training, Batch(1, tokens, 0, 0, 0), NO_EXTRAS)
    no_tower = count_parameters(shape).vision * 2
    logits = tokens * text.vocab_size * 10  # bfloat16, float32 and their gradient: its trainer had no fused head
    overhead = 1.5e9
    assert (memory.total - no_tower + logits + overhead) / 1e9 == pytest.approx(published_gb, rel=0.08)


def test_zero_shares_what_it_says() -> None:
    lora, full = LoraSettings(rank=64, alpha=128), None

    def sizes(training: Training, *, gathered: bool = False) -> dict[str, float]:
        return {part.name: part.bytes for part in plan_states(SEVEN, training, gathered=gathered)}

    # Adapters in bfloat16 on each of 8 processes; of 12 bytes of states and 2 + 4 of gradients each has an eighth.
    two = sizes(Training(lora, "zero2", 8, 2, "sdpa"))
    assert two["weights"] == 16_584_333_312 and two["adapters"] == 161_480_704 * 2
    assert two["optimizer"] == 161_480_704 * 12 / 8 and two["gradients"] == 161_480_704 * 6 / 8
    three = sizes(Training(full, "zero3", 8, 2, "sdpa"))
    assert three["weights"] == 16_584_333_312 / 8 + 2e9  # and a billion parameters gathered
    assert three["optimizer"] == (8_292_166_656 - 676_550_144) * 12 / 8
    assert sizes(Training(full, "zero3", 8, 2, "sdpa"), gathered=True)["weights"] == 16_584_333_312 * 9 / 8
    alone = sizes(Training(lora, "none", 1, 2, "sdpa"))
    assert alone["adapters"] + alone["gradients"] + alone["optimizer"] == 161_480_704 * 16


@given(
    st.integers(1, 16), st.integers(16, 6000), st.integers(1, 2000), st.integers(0, 20000),
    st.sampled_from(["sequences", "prompt_tokens", "completion_tokens", "patches", "held_patches"]),
    st.sampled_from(["none", "zero2", "zero3"]), st.sampled_from([2, 4]),
    st.sampled_from(["eager", "sdpa", "flash_attention_2"]),
)  # fmt: skip
def test_more_work_never_needs_less_memory(
    sequences: int, prompt: int, completion: int, patches: int, grown: str, parallel: Any, size: int, attention: str
) -> None:
    batch = Batch(sequences, prompt, completion, patches, sequences * patches)
    larger = replace(batch, **{grown: getattr(batch, grown) + 1})
    training = Training(LoraSettings(rank=8, alpha=8, dropout=0.1), parallel, 4, size, attention)
    extras = NO_EXTRAS.model_copy(update={"overhead_gb": 2.0, "fragmentation": 0.1})
    states = plan_states(SEVEN, training, gathered=True)
    for small, large in (
        (plan_training(SEVEN, training, batch, extras), plan_training(SEVEN, training, larger, extras)),
        (
            plan_generation(SEVEN, states, batch, size, attention, extras),
            plan_generation(SEVEN, states, larger, size, attention, extras),
        ),
    ):
        assert large.total >= small.total
