"""synthesize: a teacher writes reasoning for training samples, filters keep what is usable.

The teacher sees question, images and the true box and writes as if it did not know the answer (synthesis/teachers/).
Of the candidates that pass the filters (filters.py), the first of each sample is kept, up to `max_samples` in seeded
order.
"""

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

from migrl.engines.server.ledger import add_up, count_tokens
from migrl.engines.server.reply import Reply
from migrl.files import write_json, write_jsonl
from migrl.models.inputs import ModelInput
from migrl.recipe import PromptedTeacher, ScriptedTeacher, ServerTeacher, VllmTeacher
from migrl.running.launch import launch_generation
from migrl.running.stage import StageContext
from migrl.running.worker import Rank, run_child
from migrl.synthesis.filters import count_filters, judge_candidates
from migrl.synthesis.teachers.local import read_replies, write_batches
from migrl.synthesis.teachers.prompts import find_family, hash_teacher_prompts, prompt_item
from migrl.synthesis.teachers.scripted import write_replies
from migrl.synthesis.teachers.teacher import choose_decoding, find_replies, load_items


def run(context: StageContext) -> dict[str, Any]:
    """Write `candidates.jsonl`, `cot.jsonl` (kept samples with their completion) and `filters.json` (counts)."""
    settings = context.recipe.synthesize
    items = load_items(context.recipe, context.inputs["fetch"])
    replies, ledger = collect_replies(context, items)
    rows = [judge_replies(context, item, some) for item, some in zip(items, replies, strict=True)]
    write_jsonl(context.folder / "candidates.jsonl", rows)
    passed = {row["uid"]: find_passed(row) for row in rows}
    kept: list[dict[str, Any]] = []
    for item in Random(settings.seed).sample(items, len(items)):  # a cap must not cut whole tasks off
        completion = passed[item.sample.uid]
        if completion is not None and len(kept) < settings.max_samples:
            kept.append({**item.sample.to_json(), "completion": completion})
    write_jsonl(context.folder / "cot.jsonl", kept)
    facts = count_filters([candidate for row in rows for candidate in row["candidates"]], len(kept))
    if isinstance(settings.teacher, ScriptedTeacher):
        write_json(context.folder / "filters.json", facts)
        return facts
    facts |= {name: ledger[name] for name in ("truncated", "filtered", "unanswered")}
    facts |= {"families": count_families(rows)}
    write_json(context.folder / "filters.json", facts)
    teacher = {"engine": settings.teacher.engine, "model": settings.teacher.model, "prompts": hash_teacher_prompts()}
    return {**facts, "teacher": {**teacher, "ledger": ledger}}


def collect_replies(context: StageContext, items: list[ModelInput]) -> tuple[list[list[Reply]], dict[str, Any]]:
    """Every item's replies, in order, and the ledger of a teacher that was asked."""
    recipe, settings = context.recipe, context.recipe.synthesize
    match settings.teacher:
        case ScriptedTeacher() as teacher:
            how = {"candidates": settings.candidates, "seed": settings.seed}
            return [write_replies(teacher, item, **how) for item in items], {}
        case ServerTeacher() as teacher:
            from migrl.engines.server.ask import ask_server  # loads openai, which takes seconds

            asked, decoding, home = (
                prompt_items(context, items),
                choose_decoding(recipe, teacher),
                context.folder.parent,
            )
            rows = ask_server(teacher, "synthesize.teacher", asked, decoding, find_replies(recipe, home), home)
            ledger = add_up([row for some in rows for row in some], teacher)
            return [[row["reply"] for row in some] for some in rows], ledger
        case _:
            launch_generation("migrl.stages.synthesize", choose_processes(context), generate)
            replies = read_replies(context, items)
            return replies, count_tokens(reply for some in replies for reply in some)


def generate(context: StageContext, rank: Rank) -> None:
    """Write this rank's share of the replies of a teacher with weights of its own."""
    items = load_items(context.recipe, context.inputs["fetch"])
    write_batches(context, rank, prompt_items(context, items))


def choose_processes(context: StageContext) -> StageContext:
    """vLLM is one process that spreads over the devices by itself; other engines take the recipe's processes."""
    recipe = context.recipe
    if not isinstance(recipe.synthesize.teacher, VllmTeacher):
        return context
    launch = type(recipe.launch)()
    return replace(context, recipe=recipe.model_copy(update={"launch": launch}))


def prompt_items(context: StageContext, items: list[ModelInput]) -> list[ModelInput]:
    """The items, asked as a teacher is."""
    return [prompt_item(item, context.recipe.synthesize.max_thought_words) for item in items]


def judge_replies(context: StageContext, item: ModelInput, replies: list[Reply]) -> dict[str, Any]:
    """One row of `candidates.jsonl`: a sample's replies, each with the filter that rejects it."""
    settings = context.recipe.synthesize
    verdicts = judge_candidates(item, [reply["completion"] for reply in replies], settings)
    candidates = [{**reply, "rejected": verdict} for reply, verdict in zip(replies, verdicts, strict=True)]
    family = {"family": find_family(item.sample.task)} if isinstance(settings.teacher, PromptedTeacher) else {}
    return {"uid": item.sample.uid, **family, "candidates": candidates}


def find_passed(row: dict[str, Any]) -> str | None:
    """The first completion of a row that passed every filter."""
    return next((c["completion"] for c in row["candidates"] if c["rejected"] is None), None)


def count_families(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """For each family of prompts how many samples it was used on, and how many got a usable reply."""
    samples = Counter(row["family"] for row in rows)
    usable = Counter(row["family"] for row in rows if find_passed(row) is not None)
    return {name: {"samples": samples[name], "usable": usable[name]} for name in sorted(samples)}


if __name__ == "__main__":
    run_child(generate)
