"""select: rejection sampling. Keep RL samples that the start model hits sometimes, but not always.

k rollouts a sample at the RL temperature; a sample is kept if 0 < pass rate < 1, at most
`max_per_task` of each task. All-hit and all-miss groups have no advantage and would be wasted.
"""

from collections import Counter, defaultdict
from random import Random
from typing import Any

from migrl.evidence import StageContext, write_json
from migrl.generate import GenerationSettings, generate_batch, make_batches
from migrl.inputs import ModelInput, prepare_input
from migrl.launch import Rank, launch_generation, run_child
from migrl.models import load_model, load_processor, pick_device
from migrl.performance import GenerationMeter, read_performance
from migrl.records import read_samples, write_jsonl
from migrl.scores import score_completion
from migrl.shards import Rows, Worker, merge_progress, work_through


def run(context: StageContext) -> dict[str, Any]:
    """Write `rollouts.jsonl`, `rl.jsonl` (kept samples) and `pass_rates.json` (histogram)."""
    settings = context.recipe.select
    launch_generation("migrl.stages.select", context, generate)
    samples = read_samples(context.inputs["fetch"] / "data" / "rl.jsonl")
    rows = merge_progress(context.folder, "rollouts", [sample.uid for sample in samples])
    write_jsonl(context.folder / "rollouts.jsonl", rows)
    kept = keep_solvable(rows, settings.max_per_task, settings.seed, everything=settings.keep == "all")
    write_jsonl(context.folder / "rl.jsonl", [sample.to_json() for sample in samples if sample.uid in kept])
    facts = count_pass_rates(rows, settings.rollouts, len(kept))
    write_json(context.folder / "pass_rates.json", facts)
    return facts | {"performance": read_performance(context.folder, context.recipe.launch.processes)}


def generate(context: StageContext, rank: Rank) -> None:
    """Sample this rank's share of the rollouts."""
    recipe, settings = context.recipe, context.recipe.select
    data = context.inputs["fetch"] / "data"
    start = context.inputs.get("merge", context.inputs["fetch"]) / "model"
    processor = load_processor(start, min_pixels=recipe.model.min_pixels, max_pixels=recipe.grpo.max_pixels)
    items = [
        prepare_input(sample, data, processor, frame=recipe.model.frame, style="think")
        for sample in read_samples(data / "rl.jsonl")
    ]
    generation = GenerationSettings(
        max_new_tokens=recipe.grpo.max_completion_tokens,
        temperature=settings.temperature,
        rollouts=settings.rollouts,
        seed=settings.seed,
    )

    meter = GenerationMeter(context.folder, rank.index, processor)

    def make_worker() -> Worker:
        model = load_model(start, recipe.model).to(pick_device(rank.local)).eval()

        meter.start(model)

        def work(batch: list[ModelInput]) -> Rows:
            completions = generate_batch(model, processor, batch, generation)
            meter.note(batch, completions)
            return [score_rollouts(item, [c.text for c in some]) for item, some in zip(batch, completions, strict=True)]

        return work

    batches = make_batches(items, settings.batch, settings.batch_pixels)
    work_through(context, "rollouts", rank, batches, make_worker, "sampling rollouts")


def score_rollouts(item: ModelInput, completions: list[str]) -> dict[str, Any]:
    """Hits of one sample's rollouts, with the raw texts."""
    asked = item.describe()
    where = {key: asked[key] for key in ("sizes", "resized_sizes", "frame")}
    hits = [score_completion(text, asked["target"], **where, truncated=False)["hit"] for text in completions]
    return {"uid": item.sample.uid, "task": item.sample.task, "hits": sum(hits), "completions": completions}


def keep_solvable(rows: list[dict[str, Any]], max_per_task: int, seed: int, *, everything: bool = False) -> set[str]:
    """Uids with 0 < pass rate < 1 (or all, with `everything`), at most `max_per_task` of a task, chosen by seed."""
    by_task: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if everything or 0 < row["hits"] < len(row["completions"]):
            by_task[row["task"]].append(row["uid"])
    rng = Random(seed)
    kept = set()
    for _, uids in sorted(by_task.items()):
        kept.update(rng.sample(uids, min(max_per_task, len(uids))))
    return kept


def count_pass_rates(rows: list[dict[str, Any]], rollouts: int, kept: int) -> dict[str, Any]:
    """Histogram of hits a sample, in all and by task."""
    hits = range(rollouts + 1)
    total = Counter(row["hits"] for row in rows)
    tasks = {}
    for task in sorted({row["task"] for row in rows}):
        some = Counter(row["hits"] for row in rows if row["task"] == task)
        tasks[task] = {str(h): some[h] for h in hits}
    return {
        "k": rollouts,
        "counts": {str(h): total[h] for h in hits},
        "mean_pass_rate": sum(row["hits"] for row in rows) / (rollouts * len(rows)),
        "pass_at_k": sum(row["hits"] > 0 for row in rows) / len(rows),
        "kept": kept,
        "tasks": tasks,
    }


if __name__ == "__main__":
    run_child(generate)
