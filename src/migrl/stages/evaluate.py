"""evaluate: every arm on every benchmark, greedy, with one engine, prompt and pixel limit for all.

Questions are spread over processes (shards.py); a killed evaluation goes on where it stopped and ends in the same rows.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import Qwen2_5_VLForConditionalGeneration

from migrl.data.world_source import TRAINING_SPLITS
from migrl.errors import UserError
from migrl.evidence import StageContext
from migrl.generate import Completion, GenerationSettings, generate_batch, make_batches
from migrl.inputs import ModelInput, prepare_input
from migrl.launch import Rank, launch_generation, run_child
from migrl.models import load_model, load_processor, pick_device
from migrl.performance import GenerationMeter, read_performance
from migrl.recipe import Arm
from migrl.records import Sample, read_samples, write_jsonl
from migrl.scores import score_completion
from migrl.shards import Rows, Worker, merge_progress, work_through


@dataclass(frozen=True)
class ArmSource:
    """Where an arm's weights are: a full model, and an adapter on top if there is one."""

    model: Path
    adapter: Path | None = None


def run(context: StageContext) -> dict[str, Any]:
    """Write `samples.jsonl`: one row for each arm and sample, arms in the recipe's order."""
    settings = context.recipe.evaluate
    samples = read_benchmarks(context)
    launch_generation("migrl.stages.evaluate", context, generate)
    uids = [sample.uid for sample in samples]
    rows = {arm: merge_progress(context.folder, arm, uids) for arm in settings.arms}
    write_jsonl(context.folder / "samples.jsonl", [row for arm in settings.arms for row in rows[arm]])
    return {
        "arms": list(settings.arms),
        "samples": len(samples),
        "ledger": {arm: dict(Counter(row["status"] for row in rows[arm])) for arm in settings.arms},
        "performance": read_performance(context.folder, context.recipe.launch.processes),
    }


def read_benchmarks(context: StageContext) -> list[Sample]:
    """The samples of every benchmark, by name.

    Raises:
        UserError: there is none.
    """
    data = context.inputs["fetch"] / "data"
    benchmarks = sorted(path for path in data.glob("*.jsonl") if path.stem not in TRAINING_SPLITS)
    if not benchmarks:
        raise UserError(f"{data}: no benchmark file; add one to source")
    return [sample for path in benchmarks for sample in read_samples(path)]


def generate(context: StageContext, rank: Rank) -> None:
    """Answer this rank's share of the questions, arm after arm."""
    recipe, settings = context.recipe, context.recipe.evaluate
    data = context.inputs["fetch"] / "data"
    base = context.inputs["fetch"] / "model"
    processor = load_processor(base, min_pixels=recipe.model.min_pixels, max_pixels=settings.max_pixels)
    items = [
        prepare_input(sample, data, processor, frame=recipe.model.frame, style=settings.style)
        for sample in read_benchmarks(context)
    ]
    batches = make_batches(items, settings.batch, settings.batch_pixels)
    generation = GenerationSettings(max_new_tokens=settings.max_new_tokens)

    meter = GenerationMeter(context.folder, rank.index, processor)

    def make_worker(arm: Arm) -> Worker:
        model = load_arm(context, arm, rank)

        meter.start(model)

        def work(batch: list[ModelInput]) -> Rows:
            completions = generate_batch(model, processor, batch, generation)
            meter.note(batch, completions)
            return [make_row(item, arm, some[0]) for item, some in zip(batch, completions, strict=True)]

        return work

    for arm in settings.arms:
        work_through(context, arm, rank, batches, partial(make_worker, arm), f"evaluating {arm}")


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


def load_arm(context: StageContext, arm: Arm, rank: Rank) -> Qwen2_5_VLForConditionalGeneration:
    """An arm's model on the device; adapters are merged, so that all arms run the same code."""
    source = find_arm(context, arm)
    model = load_model(source.model, context.recipe.model).to(pick_device(rank.local)).eval()
    if source.adapter is None:
        return model
    merged: Qwen2_5_VLForConditionalGeneration = PeftModel.from_pretrained(model, source.adapter).merge_and_unload()
    return merged


if __name__ == "__main__":
    run_child(generate)
