"""Where a stage finds weights among its inputs, those of an arm and those that RL starts from, and an arm's model."""

from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import Qwen2_5_VLForConditionalGeneration

from migrl.models.loading import load_for_inference
from migrl.recipe import Arm
from migrl.running.stage import StageContext
from migrl.running.worker import Rank


@dataclass(frozen=True)
class ArmSource:
    """Where an arm's weights are: a full model, and an adapter on top if there is one."""

    model: Path
    adapter: Path | None = None


def find_start(context: StageContext) -> Path:
    """Folder of the model RL starts from: the merged cold start, or the base for `rl_no_cold_start`."""
    return context.inputs.get("merge", context.inputs["fetch"]) / "model"


def find_arm(context: StageContext, arm: Arm) -> ArmSource:
    """Weights of an arm among the stage's inputs."""
    base = context.inputs["fetch"] / "model"
    match arm:
        case "base":
            return ArmSource(base)
        case "sft":
            return ArmSource(context.inputs["merge"] / "model")
        case "sft_direct":
            return ArmSource(context.inputs["merge_direct"] / "model")
        case "rl" | "rl_no_selection" | "rl_no_cold_start":
            folder = context.inputs["grpo" + arm.removeprefix("rl")]
            if (folder / "model").is_dir():
                return ArmSource(folder / "model")
            start = base if arm == "rl_no_cold_start" else context.inputs["merge"] / "model"
            return ArmSource(start, folder / "adapter")


def load_arm(context: StageContext, arm: Arm, rank: Rank) -> Qwen2_5_VLForConditionalGeneration:
    """An arm's model on the device; adapters are merged, so that all arms run the same code."""
    source = find_arm(context, arm)
    model = load_for_inference(source.model, context.recipe.model, rank.local)
    if source.adapter is None:
        return model
    merged: Qwen2_5_VLForConditionalGeneration = PeftModel.from_pretrained(model, source.adapter).merge_and_unload()
    return merged
