"""What cannot work out whatever the machine: batches, and prompts longer than a model reads. No torch."""

import math
from collections.abc import Iterable
from pathlib import Path

from migrl.errors import UserError
from migrl.plan.assumptions import load_assumptions
from migrl.plan.work import list_work
from migrl.plan.workload import Workload
from migrl.recipe import Recipe, VllmTeacher
from migrl.recipe.arithmetic import list_batch_faults

LENGTH_KEYS = {
    "sft": "sft.max_pixels or synthesize.max_thought_words",
    "select": "grpo.max_pixels or grpo.max_new_tokens",
    "grpo": "grpo.max_pixels or grpo.max_new_tokens",
    "evaluate": "evaluate.max_pixels or evaluate.max_new_tokens",
}
"""What to lower where a stage's prompts are too long."""


def check_arithmetic(recipe: Recipe, home: Path, stages: Iterable[str] | None = None) -> None:
    """Refuse a recipe whose batches, prompts or pictures cannot work out.

    Args:
        home: `runs/<recipe>`; prompts are counted there once fetched, and as plan.yaml assumes before.
        stages: names of the stages that will run; None for all.

    Raises:
        UserError: naming every fault with its keys and their legal values.
    """
    names = None if stages is None else set(stages)
    faults = list_batch_faults(recipe, names)
    if not faults:
        faults = list_length_faults(Workload(recipe, load_assumptions(), home), names)
    if faults:
        raise UserError(f"recipe {recipe.name!r}: " + "; ".join(faults))


def list_length_faults(workload: Workload, stages: set[str] | None = None) -> list[str]:
    """Prompts that together with their completion are longer than the model's positions.

    Only stages that read prompts need the model's shape: fetch, which brings it, does without.
    """
    recipe, faults = workload.recipe, []
    if recipe.trains and (stages is None or "synthesize" in stages):
        faults += list_teacher_faults(workload)
    for kind, keys in LENGTH_KEYS.items():
        if not (recipe.trains or kind == "evaluate"):
            continue
        if stages is not None and not any(stage.startswith(kind) for stage in stages):
            continue
        work, limit = list_work(kind, workload), workload.shape.text_config.max_position_embeddings
        asked = [(made.split, made.prompts, made.tokens[1]) for made in work.generations]
        if kind == "sft" and work.training:
            asked = [("cot", work.training.prompts, work.training.tokens[1])]
        for split, prompts, completion in asked:
            if prompts.longest.tokens + completion > limit:
                faults.append(
                    f"{kind}: the longest prompt of {split} has {prompts.longest.tokens:,.0f} tokens "
                    f"({prompts.source}), with {completion:,} of a completion more than the model's {limit:,} "
                    f"positions; lower {keys}, and nothing is ever cut"
                )
    return faults


def list_teacher_faults(workload: Workload) -> list[str]:
    """Prompts that together with their completion are longer than the context that a vLLM teacher is given."""
    teacher = workload.recipe.synthesize.teacher
    if not isinstance(teacher, VllmTeacher):
        return []
    needed = math.ceil(workload.measure_teacher().longest.tokens) + teacher.max_new_tokens
    if needed <= teacher.context_tokens:
        return []
    return [
        f"synthesize: the longest prompt and its completion have {needed:,} tokens, more than "
        f"synthesize.teacher.context_tokens={teacher.context_tokens}; set that to {needed} or more, or lower "
        f"synthesize.teacher.max_new_tokens={teacher.max_new_tokens} or sft.max_pixels={workload.recipe.sft.max_pixels}"
    ]
