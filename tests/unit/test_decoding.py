"""Decoding is what the recipe says, whatever settings a checkpoint comes with, and evidence states all of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from migrl.data.world_source import build_world
from migrl.engines.transformers_engine import generate_batch
from migrl.errors import UserError
from migrl.grounding.samples import read_samples
from migrl.models.decoding import GENERATION_FILE, Decoding, choose_evaluation, choose_sampling
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import list_vision_token_ids, load_model, load_processor
from migrl.recipe import Recipe, WorldSource, load_recipe
from migrl.stages import grpo

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "reproduce/tiny_base"
QWEN = {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05, "eos_token_id": [512, 513]}
STRONG = {"do_sample": True, "temperature": 5.0, "top_k": 2, "top_p": 0.3, "repetition_penalty": 3.0}


def load(*overrides: str) -> Recipe:
    return load_recipe(ROOT / "reproduce/recipes/test.yaml", list(overrides))


def copy_base(folder: Path, settings: dict[str, Any] | None) -> Path:
    """The tiny base with a generation_config.json of its own, or without one."""
    shutil.copytree(BASE, folder)
    if settings is None:
        (folder / GENERATION_FILE).unlink()
    else:
        (folder / GENERATION_FILE).write_text(json.dumps({"eos_token_id": 512, "pad_token_id": 513, **settings}))
    return folder


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[ModelInput]:
    data = tmp_path_factory.mktemp("world")
    build_world(WorldSource(kind="world", cot_per_task=1, rl_per_task=1, eval_per_task={"mini_mig": 1}), data)
    processor = load_processor(BASE, min_pixels=3136, max_pixels=9600)
    samples = read_samples(data / "mini_mig.jsonl")[:4]
    return [prepare_input(sample, data, processor, frame="resized_px", style="think") for sample in samples]


def answer(folder: Path, items: list[ModelInput], decoding: Decoding) -> list[list[str]]:
    processor = load_processor(folder, min_pixels=3136, max_pixels=9600)
    model = load_model(folder, load().model).eval()
    return [[completion.text for completion in some] for some in generate_batch(model, processor, items, decoding)]


def test_the_tiny_base_carries_settings_that_would_change_every_answer() -> None:
    shipped = GenerationConfig.from_pretrained(BASE)
    assert (
        shipped.repetition_penalty == 1.05 and shipped.do_sample and shipped.top_k == 1 and shipped.temperature == 0.1
    )


@pytest.mark.parametrize("decoding", [Decoding(24), Decoding(24, 1.0, rollouts=2), Decoding(24, 0.7, 5, 0.9, 1.2)])
def test_a_checkpoints_settings_change_no_completion(
    decoding: Decoding, items: list[ModelInput], tmp_path: Path
) -> None:
    plain = answer(copy_base(tmp_path / "plain", {}), items, decoding)
    assert answer(copy_base(tmp_path / "strong", STRONG), items, decoding) == plain
    assert answer(BASE, items, decoding) == plain


def test_greedy_is_the_likeliest_token_and_a_penalty_is_seen(items: list[ModelInput]) -> None:
    processor = load_processor(BASE, min_pixels=3136, max_pixels=9600)
    model = load_model(BASE, load().model).eval()
    (greedy,) = answer(BASE, items[:1], Decoding(12))[0]
    text = processor.apply_chat_template(items[0].messages, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=[items[0].load_images()], return_tensors="pt")
    never = list_vision_token_ids(processor)
    ids = inputs.pop("input_ids")
    start = ids.shape[1]
    for _ in range(12):
        types = (ids == model.config.image_token_id).long()
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=types,
                pixel_values=inputs["pixel_values"],
                image_grid_thw=inputs["image_grid_thw"],
            ).logits[0, -1]
        logits[never] = -torch.inf
        ids = torch.cat([ids, logits.argmax()[None, None]], 1)
    assert processor.tokenizer.decode(ids[0, start:], skip_special_tokens=True) == greedy
    assert answer(BASE, items, Decoding(24, repetition_penalty=1.3)) != answer(BASE, items, Decoding(24))


def test_selection_and_rl_share_one_sampler(tmp_path: Path) -> None:
    recipe = load("sampling={temperature: 0.7, top_k: 20, top_p: 0.9, repetition_penalty: 1.1}", "grpo.parallel=none")
    chosen = choose_sampling(recipe.sampling, 96, 4, 0)
    processor = load_processor(BASE, min_pixels=3136, max_pixels=9600)
    config = grpo.make_config(recipe, tmp_path, grpo.suppress_vision(processor))
    for key in ("temperature", "top_k", "top_p", "repetition_penalty"):
        assert getattr(config, key) == getattr(chosen, key) == getattr(recipe.sampling, key)


def test_an_evaluation_is_greedy_unless_the_checkpoints_own_settings_are_asked_for(tmp_path: Path) -> None:
    base = copy_base(tmp_path / "qwen", QWEN)
    assert choose_evaluation(load(), base) == Decoding(96)
    assert choose_evaluation(load("evaluate.repetition_penalty=1.05"), base) == Decoding(96, repetition_penalty=1.05)
    own = choose_evaluation(load("evaluate.decoding=checkpoint"), base)
    # transformers takes 50 for a top_k that is not there.
    assert own == Decoding(96, temperature=1e-6, top_k=50, top_p=1.0, repetition_penalty=1.05)
    assert own.describe([512, 513], [7])["do_sample"] and own.describe([512], [7])["seed"] == 0
    greedy = copy_base(tmp_path / "greedy", {"repetition_penalty": 1.1, "temperature": 0.3})
    assert choose_evaluation(load("evaluate.decoding=checkpoint"), greedy) == Decoding(96, repetition_penalty=1.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "no such file"),
        ({"min_p": 0.1}, "key 'min_p' is not taken over"),
        ({"repetition_penalty": "1.05"}, "key 'repetition_penalty' is '1.05', no such setting"),
        ({"do_sample": 1}, "key 'do_sample' is 1, no such setting"),
        ({"temperature": float("nan")}, "key 'temperature' is nan, no such setting"),
    ],
)
def test_settings_that_cannot_be_taken_over_are_named(
    settings: dict[str, Any] | None, message: str, tmp_path: Path
) -> None:
    base = copy_base(tmp_path / "base", settings)
    with pytest.raises(UserError, match=message) as caught:
        choose_evaluation(load("evaluate.decoding=checkpoint"), base)
    assert GENERATION_FILE in str(caught.value) and "set it to greedy" in str(caught.value)
    assert choose_evaluation(load(), base) == Decoding(96)


def test_a_penalty_beside_the_checkpoints_own_is_refused() -> None:
    with pytest.raises(UserError, match="repetition_penalty=1.1 beside decoding=checkpoint"):
        load("evaluate.decoding=checkpoint", "evaluate.repetition_penalty=1.1")
