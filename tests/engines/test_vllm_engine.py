"""vLLM answers as transformers does. Skipped where neither vLLM nor its build for processors is installed."""

from pathlib import Path
from typing import Any

import pytest

from migrl.engines.engine import Engine, Task, open_engine
from migrl.engines.vllm_engine import VllmEngine, check_lengths
from migrl.errors import UserError
from migrl.grounding.samples import read_samples
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import Weights, load_processor
from migrl.recipe import Recipe, VllmSettings, WorldSource, load_recipe
from migrl.running.worker import Rank

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "reproduce/tiny_base"
RECIPE = load_recipe(
    ROOT / "reproduce/recipes/test.yaml",
    ["model.threads=1", "vllm.enforce_eager=true", "vllm.max_model_len=1024", "vllm.max_num_seqs=64"],
)
GREEDY = Decoding(max_new_tokens=48)
PROCESSOR = load_processor(BASE, min_pixels=RECIPE.model.min_pixels, max_pixels=RECIPE.evaluate.max_pixels)


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[ModelInput]:
    from migrl.data.world_source import build_world

    assert isinstance(RECIPE.source, WorldSource)
    data = tmp_path_factory.mktemp("world")
    build_world(RECIPE.source, data)
    return [
        prepare_input(sample, data, PROCESSOR, frame=RECIPE.model.frame, style="think")
        for name in ("mini_mig", "mini_blink")
        for sample in read_samples(data / f"{name}.jsonl")[:8]
    ]


@pytest.fixture(scope="module")
def vllm(vllm_environment: None, items: list[ModelInput]) -> VllmEngine:
    engine = open_with("vllm", RECIPE, items)
    assert isinstance(engine, VllmEngine)
    return engine


def open_with(name: str, recipe: Recipe, items: list[ModelInput]) -> Engine:
    return open_engine(name, Weights(BASE), recipe, Task(items, GREEDY, PROCESSOR), Rank())


def test_greedy_texts_lengths_and_truncation_are_those_of_transformers(
    vllm: VllmEngine, items: list[ModelInput]
) -> None:
    assert vllm.answer(items, GREEDY) == open_with("transformers", RECIPE, items).answer(items, GREEDY)


def test_a_seeded_sample_does_not_depend_on_what_is_asked_beside_it(vllm: VllmEngine, items: list[ModelInput]) -> None:
    sampled = Decoding(max_new_tokens=16, temperature=1.0, rollouts=4, seed=3)
    together = vllm.answer(items[:4], sampled)
    assert [vllm.answer([item], sampled)[0] for item in items[:4]] == together
    assert all(len({completion.text for completion in some}) > 1 for some in together)


def test_a_prompt_that_does_not_fit_is_refused_before_anything_loads(items: list[ModelInput]) -> None:
    with pytest.raises(UserError, match=r"vllm.max_model_len=64: sample 'mini_.*set it to \d+ or more"):
        check_lengths(Task(items, GREEDY, PROCESSOR), VllmSettings(max_model_len=64))


def test_trls_expanded_prompts_are_put_right_and_another_prompt_is_refused(
    vllm: VllmEngine, items: list[ModelInput]
) -> None:
    from vllm import SamplingParams

    from migrl.training.vllm_rollouts import ExactEngine  # loads trl's use of vLLM, which warns

    def encode(item: ModelInput) -> dict[str, Any]:
        text = PROCESSOR.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False)
        ids = PROCESSOR(text=[text], images=[item.load_images()])["input_ids"][0]
        return {"prompt_token_ids": ids, "multi_modal_data": {"image": item.load_images()}}

    prompts, sampling = [encode(item) for item in items[:4]], SamplingParams(temperature=0, max_tokens=1)
    unlike = vllm.model.generate(prompts, sampling, use_tqdm=False)
    assert all(
        len(output.prompt_token_ids) > len(prompt["prompt_token_ids"])
        for output, prompt in zip(unlike, prompts, strict=True)
    )  # else trl or vLLM has mended it, and ExactEngine may go
    exact = ExactEngine(vllm.model, PROCESSOR, PROCESSOR, lambda count: [0] * count)
    found = exact.generate(prompts, sampling, use_tqdm=False)
    assert [output.prompt_token_ids for output in found] == [prompt["prompt_token_ids"] for prompt in prompts]
    prompts[0]["prompt_token_ids"].remove(PROCESSOR.image_token_id)
    with pytest.raises(UserError, match="vLLM read a prompt of .* tokens, which is not the trainer's"):
        exact.generate(prompts, sampling, use_tqdm=False)
    smaller = load_processor(BASE, min_pixels=784, max_pixels=784)
    with pytest.raises(UserError, match="vLLM resizes a picture of .* px to 28x28 px, the trainer to"):
        ExactEngine(vllm.model, PROCESSOR, smaller, lambda count: [0] * count).generate(prompts, sampling, False)
