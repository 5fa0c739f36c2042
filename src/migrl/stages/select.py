"""select: rejection sampling. Keep RL samples that the start model hits sometimes, but not always.

k rollouts per sample at the RL temperature; a sample is kept if 0 < pass rate < 1 and it is at most
`max_pass_rate`, at most `max_per_task` of each task. All-hit and all-miss groups have no advantage and would be wasted.
"""

from collections import defaultdict
from random import Random
from typing import Any

from migrl.files import write_json, write_jsonl
from migrl.models.loading import Weights
from migrl.recipe import SelectSettings
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
    kept = keep_solvable(rows, settings)
    write_jsonl(context.folder / "rl.jsonl", [sample.to_json() for sample in samples if sample.uid in kept])
    facts = count_pass_rates(rows, settings.rollouts, len(kept))
    write_json(context.folder / "pass_rates.json", facts)
    return facts | {"performance": read_performance(context.folder, context.recipe.launch.processes)}


def generate(context: StageContext, rank: Rank) -> None:
    """Sample this rank's share of the rollouts."""
    sample_rollouts(context, rank, read_pool(context), Weights(find_start(context)))


def keep_solvable(rows: list[dict[str, Any]], settings: SelectSettings) -> set[str]:
    """Uids that are sometimes hit and at most `max_pass_rate` often (or all), `max_per_task` of a task, by seed."""
    by_task: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        hits, rollouts = row["hits"], len(row["completions"])
        if settings.keep == "all" or (0 < hits < rollouts and hits <= settings.max_pass_rate * rollouts):
            by_task[row["task"]].append(row["uid"])
    rng = Random(settings.seed)
    kept = set()
    for _, uids in sorted(by_task.items()):
        kept.update(rng.sample(uids, min(settings.max_per_task, len(uids))))
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
