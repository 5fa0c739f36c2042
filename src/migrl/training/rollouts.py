"""Rollouts of the RL pool and their hits: select does it with the start model, pass_rates with the trained one.

One code path with one set of settings, so that the weights are the only difference between before and after.
"""

from collections import Counter
from typing import Any

from migrl.engines.engine import Task, open_engine, share_engines, split_inputs
from migrl.files import write_jsonl
from migrl.grounding.samples import Sample, read_samples
from migrl.models.decoding import Completion, choose_sampling
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import Weights, load_processor
from migrl.running.metering import GenerationMeter
from migrl.running.shards import Rows, Worker, merge_progress, work_through
from migrl.running.stage import StageContext
from migrl.running.worker import Rank
from migrl.scoring.completions import Score, score_completion
from migrl.training.weights import find_start

LOG = "rollouts"


def read_pool(context: StageContext) -> list[Sample]:
    """The whole RL pool, as it was fetched."""
    return read_samples(context.inputs["fetch"] / "data" / "rl.jsonl")


def sample_rollouts(context: StageContext, rank: Rank, samples: list[Sample], weights: Weights) -> None:
    """Sample this rank's share of the rollouts, `select.rollouts` a sample, with the model of these weights."""
    recipe, settings = context.recipe, context.recipe.select
    data = context.inputs["fetch"] / "data"
    processor = load_processor(
        find_start(context), min_pixels=recipe.model.min_pixels, max_pixels=recipe.grpo.max_pixels
    )
    items = [prepare_input(sample, data, processor, frame=recipe.model.frame, style="think") for sample in samples]
    decoding = choose_sampling(recipe.sampling, recipe.grpo.max_new_tokens, settings.rollouts, settings.seed)
    task, own = Task(items, decoding, processor), share_engines(settings.engine, recipe, rank)
    if own is None:
        return
    meter = GenerationMeter(context.folder, own.index, processor)

    def make_worker() -> Worker:
        engine = open_engine(settings.engine, weights, recipe, task, own)
        meter.start(engine.config, engine.dtype)

        def work(batch: list[ModelInput]) -> Rows:
            completions = engine.answer(batch, decoding)
            meter.note(batch, completions)
            return [score_rollouts(item, some) for item, some in zip(batch, completions, strict=True)]

        return work

    batches = split_inputs(settings, recipe, items)
    work_through(context, LOG, own, batches, make_worker, "sampling rollouts")


def score_rollouts(item: ModelInput, completions: list[Completion]) -> dict[str, Any]:
    """Hits of one sample's rollouts, with the raw texts."""
    hits = sum(score_answer(item, completion.text, truncated=completion.truncated).hit for completion in completions)
    texts = [completion.text for completion in completions]
    return {"uid": item.sample.uid, "task": item.sample.task, "hits": hits, "completions": texts}


def score_answer(item: ModelInput, text: str, *, truncated: bool) -> Score:
    """The score of what a model answered to an input: select, GRPO and evaluation count by this one."""
    return score_completion(
        text,
        item.sample.target,
        frame=item.frame,
        sizes=item.sizes,
        resized_sizes=item.resized_sizes,
        truncated=truncated,
    )


def write_rollouts(context: StageContext, samples: list[Sample]) -> Rows:
    """Write what all ranks sampled to `rollouts.jsonl`, a row a sample in their order; return the rows."""
    rows = merge_progress(context.folder, LOG, [sample.uid for sample in samples])
    write_jsonl(context.folder / "rollouts.jsonl", rows)
    return rows


def count_hits(rows: Rows, rollouts: int) -> dict[str, int]:
    """How many samples have 0, 1 .. `rollouts` hits."""
    total = Counter(row["hits"] for row in rows)
    return {str(hits): total[hits] for hits in range(rollouts + 1)}


def count_task_hits(rows: Rows, rollouts: int) -> dict[str, dict[str, int]]:
    """The same for each task, tasks by name."""
    tasks = sorted({row["task"] for row in rows})
    return {task: count_hits([row for row in rows if row["task"] == task], rollouts) for task in tasks}


def compute_mean_pass_rate(rows: Rows, rollouts: int) -> float:
    """Hits by rollouts, over all samples."""
    mean: float = sum(row["hits"] for row in rows) / (rollouts * len(rows))
    return mean
