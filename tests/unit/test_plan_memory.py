"""Shapes and memory: parameters as the real models have them, and peaks beside figures that others measured."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, Qwen2_5_VLConfig

from migrl.errors import UserError
from migrl.models.family import read_family
from migrl.models.shapes import count_kv_bytes, count_lora_parameters, count_parameters, read_shape
from migrl.plan.assumptions import load_assumptions
from migrl.plan.lengths import Length, Prompts
from migrl.plan.memory import Memory, list_states, list_weights, plan_generation, plan_training
from migrl.plan.work import Training
from migrl.plan.workload import Workload
from migrl.recipe import LoraSettings, load_recipe
from migrl.training.trainer import make_lora_config

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {name: ROOT / "reproduce" / "shapes" / f"qwen2_5_vl_{name}.json" for name in ("3b", "7b", "72b")}
EIGHT = ROOT / "reproduce" / "shapes" / "qwen3_vl_8b.json"
TINY = ROOT / "reproduce" / "tiny_base" / "config.json"
SEVEN = read_shape(SHAPES["7b"])
LORA = LoraSettings(rank=64, alpha=128)


def make_model(path: Path) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(AutoConfig.for_model(**json.loads(path.read_text())))


def load(*overrides: str) -> Workload:
    return Workload(load_recipe(ROOT / "reproduce/recipes/paper.yaml", list(overrides)), load_assumptions(), Path("no"))


def ask(tokens: int, patches: int = 0) -> Prompts:
    return Prompts(1, Length(1, patches, tokens), Length(1, patches, tokens), "made up")


def train(tokens: int, new: int = 0, batch: int = 1, patches: int = 0, **changes: Any) -> Training:
    how = {"lora": LORA, "parallel": "none", "processes": 1, **changes}
    return Training(ask(tokens, patches), batch, (new, new), batch, batch, **how)


@pytest.mark.parametrize("path", [TINY, *SHAPES.values(), EIGHT], ids=lambda path: path.stem)
def test_parameters_are_those_of_the_real_model(path: Path) -> None:
    model, counted = make_model(path), count_parameters(read_shape(path))
    assert counted.total == sum(weight.numel() for weight in model.parameters())
    assert counted.vision == sum(weight.numel() for weight in model.model.visual.parameters())
    assert counted.embedding == model.model.language_model.embed_tokens.weight.numel()


def test_the_7b_and_the_3b_have_the_published_number_of_parameters_and_bytes() -> None:
    # total_size in the published checkpoints' indices, bytes of bfloat16. KV: 2 x 28 layers x 4 x 128 x 2 bytes.
    assert count_parameters(SEVEN).total * 2 == 16_584_333_312
    assert count_parameters(read_shape(SHAPES["3b"])).total * 2 == 7_509_245_952  # tied: no head of its own
    assert count_kv_bytes(SEVEN, 2) == 57_344


def test_the_8b_of_another_family_has_the_published_number_of_bytes_too() -> None:
    # The published index: total_size 17534247392. KV: 2 x 36 layers x 8 x 128 x 2 bytes.
    shape = read_shape(EIGHT)
    assert count_parameters(shape).total * 2 == 17_534_247_392
    assert count_kv_bytes(shape, 2) == 147_456


def test_lora_parameters_are_those_that_peft_makes() -> None:
    adapted = get_peft_model(make_model(SHAPES["7b"]), make_lora_config(LORA, read_family(TINY.parent)))
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert trained == count_lora_parameters(SEVEN, 64) == 161_480_704


def test_a_hub_config_with_the_language_keys_at_the_top_is_read_alike(tmp_path: Path) -> None:
    flat = Qwen2_5_VLConfig.from_pretrained(SHAPES["7b"]).to_dict()
    flat |= flat.pop("text_config") | {"model_type": "qwen2_5_vl"}
    flat["vision_config"]["in_chans"] = flat["vision_config"].pop("in_channels")
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    assert read_shape(tmp_path / "flat.json") == SEVEN
    del flat["hidden_size"]
    (tmp_path / "flat.json").write_text(json.dumps(flat))
    with pytest.raises(UserError, match=r"flat.json: key 'text_config.hidden_size': .* no complete config"):
        read_shape(tmp_path / "flat.json")


@pytest.mark.parametrize(
    ("tokens", "published_gb"), [(256, 20.1), (512, 20.4), (1024, 21.5), (2048, 23.8), (4096, 29.7), (8192, 36.6)]
)
def test_the_formula_meets_the_published_peaks_of_another_7b_model(
    tokens: int, published_gb: float, tmp_path: Path
) -> None:
    # QwenLM/Qwen, README, "Profiling of Memory and Speed": LoRA on Qwen-7B, one A100, batch 1, flash attention.
    config = json.loads(SHAPES["7b"].read_text())
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    config["text_config"] |= {**sizes, "num_key_value_heads": 32, "vocab_size": 151936}
    (tmp_path / "config.json").write_text(json.dumps(config))
    workload = load(f"model.path={tmp_path}")
    memory = plan_training(workload, train(tokens))
    no_tower = count_parameters(workload.shape).vision * 2
    logits = tokens * 151936 * 10  # bfloat16, float32 and their gradient: its trainer had no fused head
    # The reserve has DeepSpeed's buckets and more; a card without them keeps some 1.5 GB.
    overhead = 1.5e9 - next(part.bytes for part in memory.parts if part.name == "reserve")
    assert (memory.total - no_tower + logits + overhead) / 1e9 == pytest.approx(published_gb, rel=0.09)


def test_zero_shares_what_it_says() -> None:
    def sizes(training: Training, *, gathered: bool = False) -> dict[str, float]:
        return {part.name: part.bytes for part in list_states(load(), training, gathered=gathered)}

    # A weight in bfloat16 on each of 8 processes, and of 14 bytes of gradient, master and moments an eighth.
    two = sizes(train(1, parallel="zero2", processes=8))
    assert two == {"weights": 16_584_333_312, "trained": 161_480_704 * (2 + 14 / 8) + 1e9}  # the bucket
    full = train(1, lora=None, parallel="zero3", processes=8, reference=True)
    three = sizes(full)
    assert three["weights"] == 16_584_333_312 / 8 + 2e9  # and a billion parameters gathered
    assert three["trained"] == (8_292_166_656 - 676_550_144) * 14 / 8 + 1e9 and three["reference"] == 16_584_333_312 / 8
    assert sizes(full, gathered=True)["weights"] == 16_584_333_312 * 9 / 8
    assert sizes(train(1))["trained"] == 161_480_704 * 16


@given(
    st.integers(1, 16), st.integers(16, 6000), st.integers(1, 2000), st.integers(0, 20000),
    st.sampled_from(["batch", "tokens", "new", "patches"]), st.sampled_from(["none", "zero2", "zero3"]),
    st.sampled_from(["float32", "bfloat16"]), st.sampled_from(["eager", "sdpa", "flash_attention_2"]),
)  # fmt: skip
def test_more_work_never_needs_less_memory(
    batch: int, tokens: int, new: int, patches: int, grown: str, parallel: Any, dtype: str, attention: str
) -> None:
    workload = load()
    model = workload.recipe.model.model_copy(update={"dtype": dtype, "attention": attention})
    workload = replace(workload, recipe=workload.recipe.model_copy(update={"model": model}))
    small = {"batch": batch, "tokens": tokens, "new": new, "patches": patches}

    def plan(sizes: dict[str, int]) -> tuple[Memory, Memory]:
        asked = ask(sizes["tokens"], sizes["patches"])
        generated = plan_generation(workload, list_weights(workload), asked, sizes["batch"], sizes["new"])
        return plan_training(workload, train(**sizes, parallel=parallel, processes=4)), generated

    for less, more in zip(plan(small), plan({**small, grown: small[grown] + 1}), strict=True):
        assert more.total >= less.total
