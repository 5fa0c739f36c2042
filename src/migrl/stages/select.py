"""select: rejection sampling. Keep RL samples that the start model hits sometimes, but not always.

k rollouts per sample at the RL temperature; a sample is kept if 0 < pass rate < 1, at most
`max_per_task` of each task. All-hit and all-miss groups have no advantage and would be wasted.
"""

from collections import defaultdict
from random import Random
from typing import Any

from migrl.files import write_json, write_jsonl
from migrl.models.loading import Weights
from migrl.running.launch import launch_generation
from migrl.running.metering import read_performance
from migrl.running.stage import StageContext
from migrl.running.worker import Rank, run_child
from migrl.training.rollouts import (
    compute_mean_pass_rate,
    count_hits,
    count_task_hits,
    read_pool,
    sample_rollouts,
    write_rollouts,
)
from migrl.training.weights import find_start


def run(context: StageContext) -> dict[str, Any]:
    """Write `rollouts.jsonl`, `rl.jsonl` (kept samples) and `pass_rates.json` (histogram)."""
    settings = context.recipe.select
    launch_generation("migrl.stages.select", context, generate)
    samples = read_pool(context)
    rows = write_rollouts(context, samples)
    kept = keep_solvable(rows, settings.max_per_task, settings.seed, everything=settings.keep == "all")
    write_jsonl(context.folder / "rl.jsonl", [sample.to_json() for sample in samples if sample.uid in kept])
    facts = count_pass_rates(rows, settings.rollouts, len(kept))
    write_json(context.folder / "pass_rates.json", facts)
    return facts | {"performance": read_performance(context.folder, context.recipe.launch.processes)}


def generate(context: StageContext, rank: Rank) -> None:
    """Sample this rank's share of the rollouts."""
    sample_rollouts(context, rank, read_pool(context), Weights(find_start(context)))


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
    """Histogram of hits per sample, in all and by task."""
    return {
        "k": rollouts,
        "counts": count_hits(rows, rollouts),
        "mean_pass_rate": compute_mean_pass_rate(rows, rollouts),
        "pass_at_k": sum(row["hits"] > 0 for row in rows) / len(rows),
        "kept": kept,
        "tasks": count_task_hits(rows, rollouts),
    }


if __name__ == "__main__":
    run_child(generate)
