"""Arithmetic of batches and tokens, before any weight is loaded; that of pixels is in the recipe. No torch."""

import math
from collections.abc import Iterable
from pathlib import Path

from migrl.errors import UserError
from migrl.plan.assumptions import load_assumptions
from migrl.plan.workload import Workload
from migrl.recipe import Recipe, VllmTeacher
from migrl.recipe.section import list_divisors


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


def list_batch_faults(recipe: Recipe, stages: set[str] | None = None) -> list[str]:
    """Batches that their micro-batches and processes do not divide, with the values that would do.

    In RL the rollouts of a prompt stay in one process, which counts the groups without variance.
    """
    sft, grpo, processes = recipe.sft, recipe.grpo, recipe.launch.processes
    # (key, batch, micro-batch, what a process has whole ones of)
    batches = {
        "sft": ("sft.batch", sft.batch, sft.per_device_train_batch_size, sft.batch),
        "grpo": (
            "grpo.prompts_per_step * grpo.num_generations",
            grpo.completions_per_step,
            grpo.per_device_train_batch_size,
            grpo.prompts_per_step,
        ),
    }
    faults = []
    for name, (key, batch, micro, wholes) in batches.items():
        if stages is not None and not any(stage.startswith(name) for stage in stages):
            continue
        if batch % (micro * processes) == 0 and wholes % processes == 0:
            continue
        micros = list_divisors(batch // processes) if wholes % processes == 0 else []
        counts = [n for n in list_divisors(batch // micro) if wholes % n == 0] if batch % micro == 0 else []
        unit = micro if name == "sft" else math.lcm(micro, grpo.num_generations)
        faults.append(
            f"{key}={batch} is not {name}.per_device_train_batch_size={micro} x launch.processes={processes} x a whole "
            f"number of steps{' with whole groups' if name == 'grpo' else ''}; legal: "
            f"{name}.per_device_train_batch_size {show(micros)} with these processes, "
            f"launch.processes {show(counts)} with this per_device_train_batch_size, or a batch of "
            f"{round_up(batch, unit * processes)}"
        )
    return faults


def list_length_faults(workload: Workload, stages: set[str] | None = None) -> list[str]:
    """Prompts that together with their completion are longer than the model's positions.

    Only stages that read prompts need the model's shape: fetch, which brings it, does without.
    """
    recipe = workload.recipe
    longest = {
        "sft": (["cot"], recipe.sft.max_pixels, count_thought_tokens(workload)),
        "select": (["rl"], recipe.grpo.max_pixels, recipe.grpo.max_new_tokens),
        "grpo": (["rl"], recipe.grpo.max_pixels, recipe.grpo.max_new_tokens),
        "evaluate": (workload.list_benchmarks(), recipe.evaluate.max_pixels, recipe.evaluate.max_new_tokens),
    }
    keys = {"sft": "synthesize.max_thought_words", "evaluate": "evaluate.max_new_tokens"}
    faults = list_teacher_faults(workload) if stages is None or "synthesize" in stages else []
    for name, (splits, pixels, completion) in longest.items():
        if stages is not None and not any(stage.startswith(name) for stage in stages):
            continue
        for split in splits if has_split(workload, splits) else []:
            prompts = workload.measure(split, pixels)
            prompt, limit = prompts.longest_tokens, workload.shape.text_config.max_position_embeddings
            if prompt + completion > limit:
                section = "grpo" if name == "select" else name
                faults.append(
                    f"{name}: the longest prompt of {split} has {prompt:,} tokens ({prompts.source}), with "
                    f"{completion:,} of a completion more than the model's {limit:,} positions; lower "
                    f"{section}.max_pixels={pixels} or "
                    f"{keys.get(name, 'grpo.max_new_tokens')}, and nothing is ever cut"
                )
    return faults


def list_teacher_faults(workload: Workload) -> list[str]:
    """Prompts that together with their completion are longer than the context that a vLLM teacher is given."""
    teacher = workload.recipe.synthesize.teacher
    if not isinstance(teacher, VllmTeacher) or not workload.recipe.trains:
        return []
    needed = workload.measure_teacher().longest_tokens + teacher.max_new_tokens
    if needed <= teacher.context_tokens:
        return []
    return [
        f"synthesize: the longest prompt and its completion have {needed:,} tokens, more than "
        f"synthesize.teacher.context_tokens={teacher.context_tokens}; set that to {needed} or more, or lower "
        f"synthesize.teacher.max_new_tokens={teacher.max_new_tokens} or sft.max_pixels={workload.recipe.sft.max_pixels}"
    ]


def has_split(workload: Workload, splits: Iterable[str]) -> bool:
    """Whether a recipe trains at all: without training data there is no cot and no rl."""
    return not {"cot", "rl"} & set(splits) or workload.recipe.trains


def count_thought_tokens(workload: Workload) -> int:
    """Tokens of the longest completion that the cold start is trained on."""
    lengths, synthesize = workload.assumptions.lengths, workload.recipe.synthesize
    return round(synthesize.max_thought_words * lengths.tokens_per_word) + lengths.answer_tokens


def round_up(number: int, step: int) -> int:
    """The next multiple of `step` that is not smaller."""
    return -(-number // step) * step


def show(values: list[int]) -> str:
    """Values for a message."""
    return ", ".join(map(str, values)) if values else "(none)"
