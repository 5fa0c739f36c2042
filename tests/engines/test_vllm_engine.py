"""vLLM answers as transformers does. Skipped where neither vLLM nor its build for processors is installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from migrl.engines.engine import Engine, Task, open_engine
from migrl.engines.vllm_engine import check_lengths
from migrl.errors import UserError
from migrl.grounding.samples import read_samples
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import Weights, load_processor
from migrl.recipe import Recipe, VllmSettings, WorldSource, load_recipe
from migrl.running.worker import Rank

# vLLM's own, of torch's interfaces that it loads.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "FutureWarning", "UserWarning")
]
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
def vllm(items: list[ModelInput]) -> Iterator[Engine]:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    with pytest.MonkeyPatch.context() as patch:
        # What the build for processors asks for; one process, so that its errors are seen here.
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        yield open_with("vllm", RECIPE, items)


def open_with(name: str, recipe: Recipe, items: list[ModelInput]) -> Engine:
    return open_engine(name, Weights(BASE), recipe, Task(items, GREEDY, PROCESSOR), Rank())


def test_greedy_texts_lengths_and_truncation_are_those_of_transformers(vllm: Engine, items: list[ModelInput]) -> None:
    assert vllm.answer(items, GREEDY) == open_with("transformers", RECIPE, items).answer(items, GREEDY)


def test_a_seeded_sample_does_not_depend_on_what_is_asked_beside_it(vllm: Engine, items: list[ModelInput]) -> None:
    sampled = Decoding(max_new_tokens=16, temperature=1.0, rollouts=4, seed=3)
    together = vllm.answer(items[:4], sampled)
    assert [vllm.answer([item], sampled)[0] for item in items[:4]] == together
    assert all(len({completion.text for completion in some}) > 1 for some in together)


def test_a_prompt_that_does_not_fit_is_refused_before_anything_loads(items: list[ModelInput]) -> None:
    with pytest.raises(UserError, match=r"vllm.max_model_len=64: sample 'mini_.*set it to \d+ or more"):
        check_lengths(Task(items, GREEDY, PROCESSOR), VllmSettings(max_model_len=64))
