"""What turns prompts with pictures into completions: one interface, and each engine a file.

    transformers  static batches, left padding; a killed run resumes bit for bit on a CPU
    vllm          continuous batching, prompts and pictures cached; sums, and so rarely a token, depend on what else is
                  in flight
    server        a model that someone serves (server/): a teacher, or an arm without weights

Which of the first two answers is a recipe key (`select.engine`, `evaluate.engine`). Prompts, pixel limits, decoding,
end tokens and suppressed tokens are the same under each; a server is told what its protocol knows.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from transformers import ProcessorMixin

from migrl.engines.batches import make_batches
from migrl.models.decoding import Completion, Decoding
from migrl.models.inputs import ModelInput
from migrl.models.loading import Weights
from migrl.recipe import EngineName, EvaluateSettings, Recipe, SelectSettings
from migrl.running.worker import Rank

Batches = list[list[ModelInput]]


class Engine(Protocol):
    """A model that answers. `config` and `dtype` are the model's, `device` is what it calls itself."""

    config: Any
    dtype: str
    device: str

    def answer(self, batch: list[ModelInput], decoding: Decoding) -> list[list[Completion]]:
        """Completions of one batch, `decoding.rollouts` a sample, in the batch's order."""


@dataclass(frozen=True)
class Task:
    """What an engine is opened for: its inputs, how they are decoded, and the processor with their pixel limits."""

    items: list[ModelInput]
    decoding: Decoding
    processor: ProcessorMixin


def open_engine(name: EngineName, weights: Weights, recipe: Recipe, task: Task, rank: Rank) -> Engine:
    """The engine with an arm's weights on this process's device; its module is loaded only now.

    Raises:
        UserError: weights that do not load, or inputs that cannot fit.
    """
    if name == "vllm":
        from migrl.engines.vllm_engine import VllmEngine

        return VllmEngine(weights.model, recipe.model.dtype, recipe.vllm, task, rank.local)
    from migrl.engines.transformers_engine import TransformersEngine

    return TransformersEngine(weights, recipe.model, task.processor, rank.local)


def split_inputs(settings: SelectSettings | EvaluateSettings, recipe: Recipe, items: list[ModelInput]) -> Batches:
    """A stage's batches: static ones within its limits, or under vLLM, which schedules by itself, larger ones."""
    if settings.engine == "vllm":
        return make_batches(items, recipe.vllm.batch)
    return make_batches(items, settings.batch, settings.batch_pixels)


def share_engines(name: EngineName, recipe: Recipe, rank: Rank) -> Rank | None:
    """Which of the engines this process holds; None if it holds none, as another's spreads over its device."""
    devices = recipe.vllm.tensor_parallel_size if name == "vllm" else 1
    if rank.local % devices:
        return None
    return Rank(rank.index // devices, rank.count // devices, rank.local)
