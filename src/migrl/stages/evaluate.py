"""evaluate: every arm on every benchmark, greedy, with one engine, prompt and pixel limit for all.

Each finished batch is appended to `<arm>.jsonl`; a killed evaluation goes on where it stopped and
ends in the same rows.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import Qwen2_5_VLForConditionalGeneration

from migrl.data.world_source import TRAINING_SPLITS
from migrl.errors import UserError
from migrl.evidence import StageContext
from migrl.generate import Completion, GenerationSettings, generate_batch, make_batches, track
from migrl.inputs import ModelInput, prepare_input
from migrl.models import load_model, load_processor, pick_device
from migrl.recipe import Arm
from migrl.records import ProgressLog, read_samples, write_jsonl
from migrl.scores import score_completion


@dataclass(frozen=True)
class ArmSource:
    """Where an arm's weights are: a full model, and an adapter on top if there is one."""

    model: Path
    adapter: Path | None = None


def run(context: StageContext) -> dict[str, Any]:
    """Write `samples.jsonl`: one row for each arm and sample, arms in the recipe's order."""
    recipe, settings = context.recipe, context.recipe.evaluate
    data = context.inputs["fetch"] / "data"
    base = context.inputs["fetch"] / "model"
    processor = load_processor(base, min_pixels=recipe.model.min_pixels, max_pixels=settings.max_pixels)
    benchmarks = sorted(path for path in data.glob("*.jsonl") if path.stem not in TRAINING_SPLITS)
    if not benchmarks:
        raise UserError(f"{data}: no benchmark file; add one to source")
    samples = [sample for path in benchmarks for sample in read_samples(path)]
    items = [
        prepare_input(sample, data, processor, frame=recipe.model.frame, style=settings.style) for sample in samples
    ]
    batches = make_batches(items, settings.batch, settings.batch_pixels)
    generation = GenerationSettings(max_new_tokens=settings.max_new_tokens)
    rows: list[dict[str, Any]] = []
    for arm in settings.arms:
        log = ProgressLog(context.folder / f"{arm}.jsonl")
        todo = [batch for batch in batches if any(item.sample.uid not in log for item in batch)]
        model = load_arm(context, arm) if todo else None
        for batch in track(todo, f"evaluating {arm}"):
            assert model is not None
            completions = generate_batch(model, processor, batch, generation)
            done = [make_row(item, arm, some[0]) for item, some in zip(batch, completions, strict=True)]
            log.append([row for row in done if row["uid"] not in log])
        log.close()
        rows += [log.rows[item.sample.uid] for item in items]
    write_jsonl(context.folder / "samples.jsonl", rows)
    return {
        "arms": list(settings.arms),
        "samples": len(items),
        "ledger": {arm: dict(Counter(row["status"] for row in rows if row["arm"] == arm)) for arm in settings.arms},
    }


def make_row(item: ModelInput, arm: Arm, completion: Completion) -> dict[str, Any]:
    """One evidence row: what was asked, what came, and its score."""
    asked = item.describe()
    score = score_completion(
        completion.text,
        asked["target"],
        frame=item.frame,
        sizes=asked["sizes"],
        resized_sizes=asked["resized_sizes"],
        truncated=completion.truncated,
    )
    said = {"completion": completion.text, "tokens": completion.tokens, "truncated": completion.truncated}
    return {"uid": item.sample.uid, "arm": arm, **asked, **said, **score}


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


def load_arm(context: StageContext, arm: Arm) -> Qwen2_5_VLForConditionalGeneration:
    """An arm's model on the device; adapters are merged, so that all arms run the same code."""
    source = find_arm(context, arm)
    model = load_model(source.model, context.recipe.model).to(pick_device()).eval()
    if source.adapter is None:
        return model
    merged: Qwen2_5_VLForConditionalGeneration = PeftModel.from_pretrained(model, source.adapter).merge_and_unload()
    return merged
