"""evaluate: every arm on every benchmark, with one engine, decoding, prompt and pixel limit for all.

Questions are spread over processes (shards.py); a killed evaluation goes on where it stopped and ends in the same rows.
"""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

from migrl.engines.engine import Task, open_engine, read_version, share_engines, split_inputs
from migrl.errors import UserError
from migrl.evidence.evaluations import (
    EVALUATIONS,
    Evaluation,
    check_evaluations,
    describe_evaluation,
    note_device,
    read_devices,
)
from migrl.files import write_json, write_jsonl
from migrl.grounding.samples import Sample, read_samples
from migrl.models.decoding import Completion, choose_evaluation
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import list_vision_token_ids, load_processor, read_end_tokens
from migrl.recipe import TRAINING_SPLITS, Recipe, is_trained
from migrl.running.launch import launch_generation
from migrl.running.metering import GenerationMeter, read_performance, release_memory
from migrl.running.shards import Rows, Worker, merge_progress, work_through
from migrl.running.stage import PROGRESS, StageContext, hash_weights, join_weights, read_manifest
from migrl.running.worker import Rank, run_child
from migrl.scoring.completions import score_completion
from migrl.scoring.rows import EvaluationRow, parse_row
from migrl.training.weights import find_engine_weights, find_weights, merging_adapters

DEVICES = "devices.{rank}.jsonl"


def run(context: StageContext) -> dict[str, Any]:
    """Write `samples.jsonl`, one row for each arm and sample, arms in the recipe's order, and `evaluations.json`.

    Raises:
        UserError: an arm was evaluated differently from another, such as on another device after a kill.
    """
    settings = context.recipe.evaluate
    samples = read_benchmarks(context)
    with merging_adapters(context, settings.engine, settings.arms):
        launch_generation("migrl.stages.evaluate", context, generate)
    uids = [sample.uid for sample in samples]
    rows = {
        arm: [parse_row(row, f"{context.folder / PROGRESS}, arm {arm!r}") for row in merged]
        for arm, merged in ((arm, merge_progress(context.folder, arm, uids)) for arm in settings.arms)
    }
    write_jsonl(context.folder / "samples.jsonl", [row.to_json() for arm in settings.arms for row in rows[arm]])
    evaluations = describe_arms(context)
    check_evaluations(evaluations)
    write_json(context.folder / EVALUATIONS, evaluations)
    return {
        "arms": list(settings.arms),
        "samples": len(samples),
        "ledger": {arm: dict(Counter(row.score.status for row in rows[arm])) for arm in settings.arms},
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
    batches = split_inputs(settings, recipe, items)
    decoding = choose_evaluation(recipe, base)
    task, own = Task(items, decoding, processor), share_engines(settings.engine, recipe, rank)
    if own is None:
        return
    meter = GenerationMeter(context.folder, own.index, processor)

    def make_worker(arm: str) -> Worker:
        release_memory()  # the arm before has to be gone, not only out of use
        engine = open_engine(settings.engine, find_engine_weights(context, arm, settings.engine), recipe, task, own)
        note_device(context.folder / PROGRESS / DEVICES.format(rank=own.index), arm, engine.device)
        meter.start(engine.config, engine.dtype)
        seed = find_seed(recipe, arm)

        def work(batch: list[ModelInput]) -> Rows:
            completions = engine.answer(batch, decoding)
            meter.note(batch, completions)
            return [make_row(item, arm, seed, some[0]).to_json() for item, some in zip(batch, completions, strict=True)]

        return work

    for arm in settings.arms:
        work_through(context, arm, own, batches, partial(make_worker, arm), f"evaluating {arm}")


def describe_arms(context: StageContext) -> list[Evaluation]:
    """One entry of evaluations.json for each arm: the settings, the devices that were noted, and the weights' hash."""
    recipe, base = context.recipe, context.inputs["fetch"] / "model"
    logs = sorted((context.folder / PROGRESS).glob(DEVICES.format(rank="*")))
    processor = load_processor(base, min_pixels=recipe.model.min_pixels, max_pixels=recipe.evaluate.max_pixels)
    decoding = choose_evaluation(recipe, base).describe(read_end_tokens(base), list_vision_token_ids(processor))
    return [
        describe_evaluation(
            recipe,
            arm,
            find_seed(recipe, arm),
            weights=hash_arm(context, arm),
            version=read_version(recipe.evaluate.engine),
            device=read_devices(logs, arm),
            decoding=decoding,
        )
        for arm in recipe.evaluate.arms
    ]


def hash_arm(context: StageContext, arm: str) -> str:
    """SHA-256 of an arm's weights alone, an adapter's and those it lies on."""
    source = find_weights(context, arm)
    model = hash_weights(read_manifest(source.model.parent)["outputs"])
    adapter = hash_weights(read_manifest(source.adapter.parent)["outputs"]) if source.adapter else None
    return join_weights(model, adapter)


def find_seed(recipe: Recipe, arm: str) -> int | None:
    """The training seed that an arm's rows carry."""
    return recipe.training_seed if is_trained(arm) else None


def make_row(item: ModelInput, arm: str, seed: int | None, completion: Completion) -> EvaluationRow:
    """What was asked, what came, and its score."""
    score = score_completion(
        completion.text,
        item.sample.target,
        frame=item.frame,
        sizes=item.sizes,
        resized_sizes=item.resized_sizes,
        truncated=completion.truncated,
    )
    return EvaluationRow(
        sample=replace(item.sample, sizes=item.sizes, facts=""),
        score=score,
        truncated=completion.truncated,
        tokens=completion.tokens,
        arm=arm,
        seed=seed,
        completion=completion.text,
        frame=item.frame,
        resized_sizes=item.resized_sizes,
        prompt_hash=item.prompt_hash,
    )


if __name__ == "__main__":
    run_child(generate)
