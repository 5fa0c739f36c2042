"""What cannot work out whatever the machine: batches, frames, and prompts longer than a model reads. No torch."""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from migrl.errors import UserError
from migrl.models.family import get_family
from migrl.pipeline import plan_stages
from migrl.plan.assumptions import load_assumptions
from migrl.plan.work import list_work
from migrl.plan.workload import Workload
from migrl.recipe import Recipe
from migrl.recipe.arithmetic import list_batch_faults

LENGTH_KEYS = {
    "synthesize": "synthesize.teacher.max_new_tokens or sft.max_pixels",
    "sft": "sft.max_pixels or synthesize.max_thought_words",
    "select": "grpo.max_pixels or grpo.max_new_tokens",
    "grpo": "grpo.max_pixels or grpo.max_new_tokens",
    "evaluate": "evaluate.max_pixels or evaluate.max_new_tokens",
}
"""What to lower where a stage's prompts are too long."""
VLLM_LENGTH = {
    "synthesize": "synthesize.teacher.context_tokens",
    "select": "vllm.max_model_len",
    "evaluate": "vllm.max_model_len",
}
"""The longest sequence that vLLM is told to hold; in RL it is told what the prompts need."""


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
    faults = list_batch_faults(workload.recipe, stages) or (
        list_frame_faults(workload, stages) + list_length_faults(workload, stages)
    )
    return faults if arm is None else [f"arm {arm}: {fault}" for fault in faults]


def list_frame_faults(workload: Workload, stages: set[str] | None = None) -> list[str]:
    """A frame that the model's family does not speak, where a stage reads prompts; fetch asks the model it brought."""
    if stages is not None and not any(stage.startswith(kind) for kind in LENGTH_KEYS for stage in stages):
        return []
    family = get_family(workload.shape.model_type, workload.recipe.model.path)
    return list(filter(None, [family.find_frame_fault(workload.recipe.model.frame)]))


def list_length_faults(workload: Workload, stages: set[str] | None = None) -> list[str]:
    """Prompts that together with their completion are longer than the model reads, or than vLLM is told to hold.

    Only stages that read prompts need the model's shape: fetch, which brings it, does without.
    """
    recipe, faults = workload.recipe, []
    for kind, keys in LENGTH_KEYS.items():
        if not (recipe.trains or kind == "evaluate"):
            continue
        if stages is not None and not any(stage.startswith(kind) for stage in stages):
            continue
        work, positions = list_work(kind, workload), workload.shape.text_config.max_position_embeddings
        served = work.served if kind in VLLM_LENGTH else None
        if kind == "synthesize" and not served:
            continue
        limit, remedy = positions, f"the model's {positions:,} positions;"
        if served:
            limit = served.settings.max_model_len
            remedy = f"{VLLM_LENGTH[kind]}={limit}; set that to {{}} or more, or"
            if limit > positions and kind != "synthesize":
                faults.append(
                    f"vllm.max_model_len={limit}: the model of {kind} has {positions} positions; set it to these"
                )
        if work.served and (sequences := work.served.settings.max_num_seqs) > work.served.step:
            faults.append(
                f"{kind}: vLLM is to hold {sequences} sequences at once, more than a step of it has tokens; lower "
                f"vllm.max_num_seqs to {work.served.step}, in RL grpo.prompts_per_step or grpo.num_generations"
            )
        for split, (prompts, completion) in work.longest.items():
            longest = math.ceil(prompts.longest.tokens)
            needed = longest + completion
            if needed > limit:
                faults.append(
                    f"{kind}: the longest prompt of {split} has {longest:,} tokens ({prompts.source}), with "
                    f"{completion:,} of a completion {needed:,}, more than {remedy.format(needed)} lower {keys}, and "
                    "nothing is ever cut"
                )
    return faults
