"""synthesize: a teacher writes reasoning for training samples, filters keep what is usable.

The teacher sees question, images and the true box and writes as if it did not know the answer.
Filters, in order; the first that fires is counted:

    parse      the completion does not have the exact output form
    iou        the answer misses the true box (IoU below `min_iou`) or names another image
    leak       the thought betrays that the truth was given, or quotes the true box
    image      the thought never names the image the answer is in
    length     the thought has more words than `max_thought_words`
    duplicate  the same completion was kept for the same sample before

Of the candidates that pass, the first of each sample is kept, up to `max_samples` in seeded order.
"""

import re
from collections import Counter
from random import Random
from typing import Any

from rich.progress import track

from migrl.answers import Answer, has_exact_form, parse_box_answer
from migrl.boxes import Box, compute_iou, frame_size
from migrl.evidence import StageContext, write_json
from migrl.inputs import ModelInput, prepare_input
from migrl.models import load_processor
from migrl.recipe import SynthesizeSettings
from migrl.records import BoxTarget, ProgressLog, read_samples, write_jsonl
from migrl.world.teacher import Candidate, write_candidate

FILTERS = ("parse", "iou", "leak", "image", "length", "duplicate")
LEAK_WORDS = re.compile(r"\b(given|ground truth|true answer|true box|annotation|provided box|correct answer)\b", re.I)


def run(context: StageContext) -> dict[str, Any]:
    """Write `cot.jsonl` (kept samples with their completion) and `filters.json` (counts)."""
    settings = context.recipe.synthesize
    data = context.inputs["fetch"] / "data"
    model = context.recipe.model
    processor = load_processor(
        context.inputs["fetch"] / "model", min_pixels=model.min_pixels, max_pixels=context.recipe.sft.max_pixels
    )
    samples = [sample for sample in read_samples(data / "cot.jsonl") if isinstance(sample.target, BoxTarget)]
    log = ProgressLog(context.folder / "candidates.jsonl")
    todo = [sample for sample in samples if sample.uid not in log]
    for sample in track(todo, description="synthesizing reasoning"):
        item = prepare_input(sample, data, processor, frame=model.frame, style="think")
        candidates = ask_teacher(item, settings)
        verdicts = judge_candidates(item, [candidate.completion for candidate in candidates], settings)
        rows = [
            {"completion": candidate.completion, "planted": candidate.planted, "rejected": verdict}
            for candidate, verdict in zip(candidates, verdicts, strict=True)
        ]
        log.append([{"uid": sample.uid, "candidates": rows}])
    log.close()
    kept = []
    for sample in Random(settings.seed).sample(samples, len(samples)):  # a cap must not cut whole tasks off
        passed = [row for row in log.rows[sample.uid]["candidates"] if row["rejected"] is None]
        if passed and len(kept) < settings.max_samples:
            kept.append({**sample.to_json(), "completion": passed[0]["completion"]})
    write_jsonl(context.folder / "cot.jsonl", kept)
    facts = count_filters([row for sample in samples for row in log.rows[sample.uid]["candidates"]], len(kept))
    write_json(context.folder / "filters.json", facts)
    return facts


def ask_teacher(item: ModelInput, settings: SynthesizeSettings) -> list[Candidate]:
    """`settings.candidates` completions for one sample, deterministic in its uid."""
    rng = Random(f"{settings.seed}/{item.sample.uid}")
    image = item.box_target.image
    return [
        write_candidate(
            rng,
            settings.teacher,
            facts=item.sample.facts,
            image=image,
            box=item.true_box,
            resized_size=item.resized_sizes[image - 1],
        )
        for _ in range(settings.candidates)
    ]


def judge_candidates(item: ModelInput, completions: list[str], settings: SynthesizeSettings) -> list[str | None]:
    """For each completion the filter that rejects it, or None."""
    seen: set[str] = set()
    verdicts = []
    for completion in completions:
        verdict = judge_completion(item, completion, settings)
        if verdict is None and completion in seen:
            verdict = "duplicate"
        seen.add(completion)
        verdicts.append(verdict)
    return verdicts


def judge_completion(item: ModelInput, completion: str, settings: SynthesizeSettings) -> str | None:
    """The first filter that rejects a completion, or None."""
    limits = [
        frame_size(item.frame, original_size=size, resized_size=resized)
        for size, resized in zip(item.sizes, item.resized_sizes, strict=True)
    ]
    answer = parse_box_answer(completion, frame_limits=limits)
    if not has_exact_form(completion, "box") or answer.box is None or answer.thought is None:
        return "parse"
    image = item.box_target.image
    if answer.image != image or compute_iou(answer.box, item.true_box) < settings.min_iou:
        return "iou"
    if leaks_truth(answer, item.true_box):
        return "leak"
    if f"image {image}" not in answer.thought.lower():
        return "image"
    if len(answer.thought.split()) > settings.max_thought_words:
        return "length"
    return None


def leaks_truth(answer: Answer, box: Box) -> bool:
    """Whether a thought says that the truth was given, or quotes the true box."""
    thought = answer.thought or ""
    numbers = r"\D{1,6}".join(str(round(v)) for v in box)
    return LEAK_WORDS.search(thought) is not None or re.search(rf"\b{numbers}\b", thought) is not None


def count_filters(rows: list[dict[str, Any]], kept: int) -> dict[str, Any]:
    """Counts for the evidence: rejections by filter, and for each planted fault how many were caught."""
    rejected = Counter(row["rejected"] for row in rows if row["rejected"])
    planted = Counter(row["planted"] for row in rows if row["planted"])
    caught = Counter(row["planted"] for row in rows if row["planted"] and row["rejected"])
    return {
        "candidates": len(rows),
        "kept": kept,
        "rejected": {name: rejected[name] for name in FILTERS},
        "planted": {name: {"planted": planted[name], "caught": caught[name]} for name in sorted(planted)},
    }
