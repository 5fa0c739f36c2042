"""What a stage finds among its inputs: an arm's weights, and what RL starts from and learns on."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from migrl.models.loading import Weights, write_merged
from migrl.recipe import EngineName
from migrl.recipe.arms import name_kind
from migrl.running.stage import PROGRESS, StageContext, check_disk

MERGED = "merged"


def find_made(context: StageContext, kind: str) -> Path | None:
    """Folder of the stage of a kind that this one reads; None if it reads none."""
    return next((folder for name, folder in context.inputs.items() if name_kind(name) == kind), None)


def find_start(context: StageContext) -> Path:
    """Folder of the model RL starts from: a merged cold start, or the base for an arm without one."""
    return (find_made(context, "merge") or context.inputs["fetch"]) / "model"


def find_pool(context: StageContext) -> Path:
    """File of the samples RL learns on: the selected ones, or the whole pool for an arm without selection."""
    selected = find_made(context, "select")
    return selected / "rl.jsonl" if selected else context.inputs["fetch"] / "data" / "rl.jsonl"


def find_weights(context: StageContext, arm: str) -> Weights:
    """Weights of an arm among the stage's inputs."""
    made = [context.inputs[name] for name in ("fetch", *context.recipe.find_arm(arm).weights)]
    if (made[-1] / "model").is_dir():
        return Weights(made[-1] / "model")
    return Weights(made[-2] / "model", made[-1] / "adapter")


def find_engine_weights(context: StageContext, arm: str, engine: EngineName) -> Weights:
    """The same as an engine reads them: vLLM has a folder of merged weights for each arm with an adapter."""
    weights = find_weights(context, arm)
    if engine == "vllm" and weights.adapter is not None:
        return Weights(context.folder / PROGRESS / MERGED / arm)
    return weights


@contextmanager
def merging_adapters(context: StageContext, engine: EngineName, arms: Iterable[str]) -> Iterator[None]:
    """While a stage runs, what `find_engine_weights` names is there; what ends with an error leaves it to the next try.

    vLLM's own LoRA adds the adapter's product at each layer, which rounds otherwise than weights that hold it.
    """
    folder = context.folder / PROGRESS / MERGED
    for arm in arms:
        target = find_engine_weights(context, arm, engine).model
        if target.parent == folder and not target.is_dir():
            source = find_weights(context, arm)
            check_disk(context.folder, sum(path.stat().st_size for path in source.model.glob("*.safetensors")))
            partial = folder / f"{arm}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            write_merged(source, context.recipe.model, partial)
            partial.rename(target)
    yield
    shutil.rmtree(folder, ignore_errors=True)
