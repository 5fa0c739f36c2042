"""What a stage finds among its inputs: an arm's weights and model, and what RL starts from and learns on."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel

from migrl.models.loading import load_for_inference
from migrl.recipe.arms import name_kind
from migrl.running.stage import StageContext
from migrl.running.worker import Rank


@dataclass(frozen=True)
class ArmSource:
    """Where an arm's weights are: a full model, and an adapter on top if there is one."""

    model: Path
    adapter: Path | None = None


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


def find_weights(context: StageContext, arm: str) -> ArmSource:
    """Weights of an arm among the stage's inputs."""
    made = [context.inputs[name] for name in ("fetch", *context.recipe.find_arm(arm).weights)]
    if (made[-1] / "model").is_dir():
        return ArmSource(made[-1] / "model")
    return ArmSource(made[-2] / "model", made[-1] / "adapter")


def load_arm(context: StageContext, arm: str, rank: Rank) -> PreTrainedModel:
    """An arm's model on the device; adapters are merged, so that all arms run the same code."""
    source = find_weights(context, arm)
    model = load_for_inference(source.model, context.recipe.model, rank.local)
    if source.adapter is None:
        return model
    merged: PreTrainedModel = PeftModel.from_pretrained(model, source.adapter).merge_and_unload()
    return merged
