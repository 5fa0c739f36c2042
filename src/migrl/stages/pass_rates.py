"""pass_rates: how often the trained model hits samples of the RL pool, beside select's count before RL.

`pass_rates.samples` samples are drawn without a look at any result, and the RL arm rolls them out as select did: same
prompts, rollouts, temperature, limits and scoring. "Before" is select's own count on the same samples. They are
of the pool that RL trained on: the shift says what RL did to it, the benchmarks say what that is worth.
"""

from collections import defaultdict
from itertools import islice, zip_longest
from random import Random
from typing import Any

from migrl.errors import UserError
from migrl.files import read_jsonl, write_json
from migrl.grounding.samples import Sample
from migrl.running.launch import launch_generation
from migrl.running.metering import read_performance
from migrl.running.shards import Rows
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
from migrl.training.weights import find_engine_weights, merging_adapters


def run(context: StageContext) -> dict[str, Any]:
    """Write `rollouts.jsonl` of the RL arm and `pass_rates_after.json`, the histograms before and after."""
    with merging_adapters(context, context.recipe.select.engine, ["rl"]):
        launch_generation("migrl.stages.pass_rates", context, generate)
    samples = find_samples(context)
    after = write_rollouts(context, samples)
    facts = compare_pass_rates(read_before(context, samples), after, context.recipe.select.rollouts)
    write_json(context.folder / "pass_rates_after.json", facts)
    return facts | {"performance": read_performance(context.folder, context.recipe.launch.processes)}


def generate(context: StageContext, rank: Rank) -> None:
    """Sample this rank's share of the rollouts."""
    engine = context.recipe.select.engine
    sample_rollouts(context, rank, find_samples(context), find_engine_weights(context, "rl", engine))


def find_samples(context: StageContext) -> list[Sample]:
    """The samples that are rolled out again."""
    settings = context.recipe.pass_rates
    assert settings is not None  # else the stage is not planned
    return draw_samples(read_pool(context), settings.samples, context.recipe.select.seed)


def draw_samples(samples: list[Sample], count: int, seed: int) -> list[Sample]:
    """At most `count` samples, in their own order: tasks take turns until they have no more, the seed decides which."""
    by_task: dict[str, list[str]] = defaultdict(list)
    for sample in samples:
        by_task[sample.task].append(sample.uid)
    rng = Random(f"pass_rates {seed}")  # not select's numbers: it chose what RL was trained on
    queues = [rng.sample(sorted(uids), len(uids)) for _, uids in sorted(by_task.items())]
    rng.shuffle(queues)  # the first ones may have one more
    turns = (uid for turn in zip_longest(*queues) for uid in turn if uid is not None)
    drawn = set(islice(turns, count))
    return [sample for sample in samples if sample.uid in drawn]


def read_before(context: StageContext, samples: list[Sample]) -> Rows:
    """Select's rows of the same samples, in their order.

    Raises:
        UserError: select has no row of one of them.
    """
    path = context.inputs["select"] / "rollouts.jsonl"
    rows = {row["uid"]: row for row in read_jsonl(path)}
    try:
        return [rows[sample.uid] for sample in samples]
    except KeyError as error:
        raise UserError(f"{path}: no row for {error}; run select again with --force") from error


def compare_pass_rates(before: Rows, after: Rows, rollouts: int) -> dict[str, Any]:
    """Histograms of hits per sample before and after RL, in all and by task; both are of the same samples."""
    tasks_before, tasks_after = count_task_hits(before, rollouts), count_task_hits(after, rollouts)
    return {
        "k": rollouts,
        "samples": len(after),
        "before": {
            "counts": count_hits(before, rollouts),
            "mean_pass_rate": compute_mean_pass_rate(before, rollouts),
        },
        "after": {"counts": count_hits(after, rollouts), "mean_pass_rate": compute_mean_pass_rate(after, rollouts)},
        "tasks": {task: {"before": tasks_before[task], "after": tasks_after[task]} for task in tasks_after},
    }


if __name__ == "__main__":
    run_child(generate)
