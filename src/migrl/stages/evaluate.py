"""evaluate: every arm on every benchmark, with one engine, decoding, prompt and pixel limit for all.

Questions are spread over processes (shards.py); a killed evaluation goes on where it stopped and ends in the same rows.
An arm that someone serves is asked the same by its server, with the pictures of the other arms, boxes in their frame;
what that leaves without a usable reply is a miss, `unanswered` in the ledger.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from migrl.engines.engine import Task, open_engine, share_engines, split_inputs
from migrl.errors import UserError
from migrl.evidence.evaluations import (
    EVALUATIONS,
    Evaluation,
    check_evaluations,
    describe_evaluation,
    describe_served,
    note_device,
    read_devices,
)
from migrl.files import write_json, write_jsonl
from migrl.grounding.prompts import TargetKind, build_own_messages
from migrl.grounding.samples import Sample, read_samples
from migrl.models.decoding import Completion, choose_evaluation
from migrl.models.family import find_processor_family
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import list_vision_token_ids, load_processor, read_end_tokens
from migrl.recipe import TRAINING_SPLITS, PromptForm, Recipe
from migrl.running.launch import launch_generation
from migrl.running.metering import GenerationMeter, read_performance, release_memory
from migrl.running.packages import read_version
from migrl.running.shards import Rows, Worker, merge_progress, work_through
from migrl.running.stage import PROGRESS, StageContext, hash_weights, join_weights, read_manifest
from migrl.running.worker import Rank, run_child
from migrl.scoring.completions import score_unanswered
from migrl.scoring.rows import EvaluationRow, parse_row
from migrl.training.rollouts import score_answer
from migrl.training.weights import find_engine_weights, find_weights, merging_adapters

if TYPE_CHECKING:
    from migrl.engines.server.estimate import Estimate

DEVICES = "devices.{rank}.jsonl"


def run(context: StageContext) -> dict[str, Any]:
    """Write `samples.jsonl`, one row for each arm and sample, arms in the recipe's order, and `evaluations.json`.

    Raises:
        UserError: an arm was evaluated differently from another, such as on another device after a kill.
    """
    recipe, settings = context.recipe, context.recipe.evaluate
    samples = read_benchmarks(context.inputs["fetch"])
    served = ask_servers(context)  # first, for one that is away is known at once
    if recipe.local_arms:
        with merging_adapters(context, settings.engine, recipe.local_arms):
            launch_generation("migrl.stages.evaluate", context, generate)
    rows = {arm: read_rows(context, arm, samples) for arm in recipe.local_arms}
    rows |= {arm: answers.rows for arm, answers in served.items()}
    write_jsonl(context.folder / "samples.jsonl", [row.to_json() for arm in settings.arms for row in rows[arm]])
    evaluations = describe_arms(context, {sample.kind for sample in samples}) | {
        arm: answers.evaluation for arm, answers in served.items()
    }
    check_evaluations([evaluations[arm] for arm in settings.arms])
    write_json(context.folder / EVALUATIONS, [evaluations[arm] for arm in settings.arms])
    return {
        "arms": list(settings.arms),
        "samples": len(samples),
        "ledger": {arm: dict(Counter(row.score.status for row in rows[arm])) for arm in settings.arms},
        **({"servers": {arm: answers.ledger for arm, answers in served.items()}} if served else {}),
        "performance": read_performance(context.folder, recipe.launch.processes),
    }


def read_benchmarks(fetch: Path) -> list[Sample]:
    """The samples of every benchmark, by name.

    Raises:
        UserError: there is none.
    """
    data = fetch / "data"
    benchmarks = sorted(path for path in data.glob("*.jsonl") if path.stem not in TRAINING_SPLITS)
    if not benchmarks:
        raise UserError(f"{data}: no benchmark file; add one to source")
    return [sample for path in benchmarks for sample in read_samples(path)]


def prepare_task(recipe: Recipe, fetch: Path) -> Task:
    """What every arm is asked, and how it is decoded."""
    model, settings, base = recipe.model, recipe.evaluate, fetch / "model"
    processor = load_processor(base, min_pixels=model.min_pixels, max_pixels=settings.max_pixels)
    items = [
        prepare_input(sample, fetch / "data", processor, frame=model.frame, style=settings.style)
        for sample in read_benchmarks(fetch)
    ]
    if settings.form is not None:
        items = [ask_otherwise(item, settings.form) for item in items]
    return Task(items, choose_evaluation(recipe, base), processor)


def ask_otherwise(item: ModelInput, form: PromptForm) -> ModelInput:
    """The same pictures and question, in the words of others."""
    messages = build_own_messages(item.sample.question, len(item.paths), form.text, form.lead)
    return replace(item, messages=messages)


@dataclass(frozen=True)
class ServedAnswers:
    """What a served arm answered, its entry in evaluations.json, and the ledger of its server."""

    rows: list[EvaluationRow]
    evaluation: Evaluation
    ledger: dict[str, Any]


def ask_servers(context: StageContext) -> dict[str, ServedAnswers]:
    """Ask every arm that someone serves what it has not answered yet.

    Raises:
        UserError: a server is away, refuses its key, or leaves too much unanswered; what was answered is kept.
    """
    recipe, fetch = context.recipe, context.inputs["fetch"]
    arms = [arm for arm in recipe.evaluate.arms if arm in recipe.served]
    if not arms:
        return {}
    from migrl.engines.server.arms import open_arm  # loads openai, which takes seconds

    found, task = {}, prepare_task(recipe, fetch)
    for arm in arms:
        engine = open_arm(recipe, arm, task, fetch, context.folder.parent)
        completions = engine.answer(task.items, task.decoding)
        rows = [make_row(item, arm, None, some[0]) for item, some in zip(task.items, completions, strict=True)]
        device, decoding = engine.device, engine.describe_decoding()
        kinds = {item.sample.kind for item in task.items}
        made = describe_served(
            recipe,
            arm,
            device=device,
            decoding=decoding,
            server=engine.describe(),
            pixel_factor=find_processor_family(task.processor).pixel_factor,
            kinds=kinds,
        )
        found[arm] = ServedAnswers(rows, made, engine.add_up())
    return found


def estimate_servers(recipe: Recipe, home: Path) -> "list[Estimate]":
    """Count what the served arms would be asked, from the samples fetched under `home` (`runs/<recipe>`).

    Raises:
        UserError: no arm is served, or nothing is fetched.
    """
    from migrl.engines.server.arms import estimate_arm

    arms = [arm for arm in recipe.evaluate.arms if arm in recipe.served]
    if not arms:
        raise UserError("evaluate --dry-run: no arm of evaluate.arms is served; there is no bill to estimate")
    task = prepare_task(recipe, home / "fetch")
    return [estimate_arm(recipe, arm, task, home / "fetch") for arm in arms]


def read_rows(context: StageContext, arm: str, samples: list[Sample]) -> list[EvaluationRow]:
    """What all processes wrote for an arm, in the order of the samples."""
    rows = merge_progress(context.folder, arm, [sample.uid for sample in samples])
    return [parse_row(row, f"{context.folder / PROGRESS}, arm {arm!r}") for row in rows]


def generate(context: StageContext, rank: Rank) -> None:
    """Answer this rank's share of the questions, arm after arm."""
    recipe, settings = context.recipe, context.recipe.evaluate
    task, own = prepare_task(recipe, context.inputs["fetch"]), share_engines(settings.engine, recipe, rank)
    if own is None:
        return
    meter = GenerationMeter(context.folder, own.index, task.processor)

    def make_worker(arm: str) -> Worker:
        release_memory()  # the arm before has to be gone, not only out of use
        engine = open_engine(settings.engine, find_engine_weights(context, arm, settings.engine), recipe, task, own)
        note_device(context.folder / PROGRESS / DEVICES.format(rank=own.index), arm, engine.device)
        meter.start(engine.config, engine.dtype)
        seed = find_seed(recipe, arm)

        def work(batch: list[ModelInput]) -> Rows:
            completions = engine.answer(batch, task.decoding)
            meter.note(batch, completions)
            return [make_row(item, arm, seed, some[0]).to_json() for item, some in zip(batch, completions, strict=True)]

        return work

    batches = split_inputs(settings, recipe, task.items)
    for arm in recipe.local_arms:
        work_through(context, arm, own, batches, partial(make_worker, arm), f"evaluating {arm}")


def describe_arms(context: StageContext, kinds: set[TargetKind]) -> dict[str, Evaluation]:
    """An entry of evaluations.json for each arm with weights: settings, the devices that were noted, the hash.

    `kinds` are the samples'.
    """
    recipe, base = context.recipe, context.inputs["fetch"] / "model"
    logs = sorted((context.folder / PROGRESS).glob(DEVICES.format(rank="*")))
    processor = load_processor(base, min_pixels=recipe.model.min_pixels, max_pixels=recipe.evaluate.max_pixels)
    decoding = choose_evaluation(recipe, base).describe(read_end_tokens(base), list_vision_token_ids(processor))
    return {
        arm: describe_evaluation(
            recipe,
            arm,
            find_seed(recipe, arm),
            weights=hash_arm(context, arm),
            version=read_version(recipe.evaluate.engine),
            device=read_devices(logs, arm),
            decoding=decoding,
            pixel_factor=find_processor_family(processor).pixel_factor,
            kinds=kinds,
        )
        for arm in recipe.local_arms
    }


def hash_arm(context: StageContext, arm: str) -> str:
    """SHA-256 of an arm's weights alone, an adapter's and those it lies on."""
    source = find_weights(context, arm)
    model = hash_weights(read_manifest(source.model.parent)["outputs"])
    adapter = hash_weights(read_manifest(source.adapter.parent)["outputs"]) if source.adapter else None
    return join_weights(model, adapter)


def find_seed(recipe: Recipe, arm: str) -> int | None:
    """The training seed that an arm's rows carry."""
    return recipe.training_seed if recipe.is_trained(arm) else None


def make_row(item: ModelInput, arm: str, seed: int | None, completion: Completion) -> EvaluationRow:
    """What was asked, what came, and its score."""
    if completion.unanswered:
        score = score_unanswered(item.sample.target)
    else:
        score = score_answer(item, completion.text, truncated=completion.truncated)
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
        unanswered=completion.unanswered,
    )


if __name__ == "__main__":
    run_child(generate)
