"""vLLM answers as transformers does in every family; apart, as the engine of other weights ends the one before it."""

from pathlib import Path

import pytest
from architectures import ARCHITECTURES, write_untrained

from migrl.data.world_source import build_world
from migrl.engines.engine import Task, open_engine
from migrl.grounding.samples import read_samples
from migrl.models.decoding import Decoding
from migrl.models.inputs import prepare_input
from migrl.models.loading import Weights, load_processor
from migrl.recipe import WorldSource, load_recipe
from migrl.running.worker import Rank
from migrl.world.model import Architecture

ROOT = Path(__file__).resolve().parents[2]
RECIPE = load_recipe(
    ROOT / "reproduce/recipes/test.yaml",
    ["model.threads=1", "vllm.enforce_eager=true", "vllm.max_model_len=1024", "vllm.max_num_seqs=64"],
)
GREEDY = Decoding(max_new_tokens=48)


@pytest.mark.parametrize("architecture", ARCHITECTURES[1:], ids=lambda one: one.model_type)
def test_greedy_texts_are_those_of_transformers(
    architecture: Architecture, vllm_environment: None, tmp_path: Path
) -> None:
    assert isinstance(RECIPE.source, WorldSource)
    data, folder = tmp_path / "data", tmp_path / "model"
    build_world(RECIPE.source, data)
    write_untrained(folder, architecture)
    processor = load_processor(folder, min_pixels=RECIPE.model.min_pixels, max_pixels=RECIPE.evaluate.max_pixels)
    items = [
        prepare_input(sample, data, processor, frame="permille", style="think")
        for name in ("mini_mig", "mini_blink")
        for sample in read_samples(data / f"{name}.jsonl")[:8]
    ]
    task, answers = Task(items, GREEDY, processor), []
    for name in ("vllm", "transformers"):
        answers.append(open_engine(name, Weights(folder), RECIPE, task, Rank()).answer(items, GREEDY))
    assert answers[0] == answers[1] and len({some[0].text for some in answers[0]}) > 1
