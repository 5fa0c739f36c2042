"""What cannot work out whatever the machine: batches, and prompts longer than a model reads. No torch."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from migrl.errors import UserError
from migrl.pipeline import plan_stages
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
    """Refuse a recipe whose batches, prompts or pictures cannot work out, its own or those of an arm.

    Args:
        home: `runs/<recipe>`; prompts are counted there once fetched, and as plan.yaml assumes before.
        stages: names of the stages that will run; None for all.

    Raises:
        UserError: naming every fault with its keys and their legal values.
    """
    names = None if stages is None else set(stages)
    planned = [stage for stage in plan_stages(recipe) if names is None or stage.name in names]
    workload, faults = Workload(recipe, load_assumptions(), home), []
    for arm in dict.fromkeys(stage.arm for stage in planned):
        own = workload if arm is None else replace(workload, recipe=recipe.with_arm(arm))
        faults += list_arm_faults(arm, own, {stage.name for stage in planned if stage.arm == arm})
    if faults:
        raise UserError(f"recipe {recipe.name!r}: " + "; ".join(faults))


def list_arm_faults(arm: str | None, workload: Workload, stages: set[str]) -> list[str]:
    """The faults of some stages by the recipe they follow: that of an arm, or None for the recipe as it stands."""
    faults = list_batch_faults(workload.recipe, stages) or list_length_faults(workload, stages)
    return faults if arm is None else [f"arm {arm}: {fault}" for fault in faults]


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
