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
    "synthesize": "synthesize.teacher.max_new_tokens or sft.max_pixels, or raise synthesize.teacher.context_tokens",
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
    """Prompts that together with their completion are longer than the model reads, or a teacher's context.

    Only stages that read prompts need the model's shape: fetch, which brings it, does without.
    """
    recipe, faults = workload.recipe, []
    teacher = recipe.local_teacher
    for kind, keys in LENGTH_KEYS.items():
        if not (recipe.trains or kind == "evaluate"):
            continue
        if stages is not None and not any(stage.startswith(kind) for stage in stages):
            continue
        limit = workload.shape.text_config.max_position_embeddings
        if kind == "synthesize":
            if not isinstance(teacher, VllmTeacher):
                continue
            limit = teacher.context_tokens
        for split, (prompts, completion) in list_work(kind, workload).longest.items():
            longest = math.ceil(prompts.longest.tokens)
            if longest + completion > limit:
                faults.append(
                    f"{kind}: the longest prompt of {split} has {longest:,} tokens ({prompts.source}), with "
                    f"{completion:,} of a completion {longest + completion:,}, more than the model's {limit:,} "
                    f"positions; lower {keys}, and nothing is ever cut"
                )
    return faults
