"""Arithmetic of a recipe's batches and lengths, before anything is loaded; that of pixels is the recipe's own."""

import math
from collections.abc import Iterable, Sequence

from migrl.recipe.recipe import Recipe
from migrl.recipe.section import list_divisors
from migrl.recipe.stages import SynthesizeSettings

TOKENS_PER_WORD = 1.5  # of English in Qwen's tokenizer, with the numbers and brackets of the answer; on the high side
ANSWER_TOKENS = 50  # tags, JSON and box


def count_thought_tokens(settings: SynthesizeSettings) -> int:
    """Tokens of the longest completion that the filters let through."""
    return math.ceil(settings.max_thought_words * TOKENS_PER_WORD) + ANSWER_TOKENS


def list_batch_faults(recipe: Recipe, stages: Iterable[str] | None = None) -> list[str]:
    """Batches that their micro-batches and processes do not divide, with the values that would do.

    In RL the rollouts of a prompt stay in one process, which counts the groups without variance. Only the faults of
    `stages` if these are given.
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
        unit = (micro if name == "sft" else math.lcm(micro, grpo.num_generations)) * processes
        micro_key = f"{name}.per_device_train_batch_size"
        faults.append(
            f"{key}={batch} is not {micro_key}={micro} x launch.processes={processes} x a whole number of "
            f"steps{' with whole groups' if name == 'grpo' else ''}; legal: {micro_key} {show(micros)} with these "
            f"processes, launch.processes {show(counts)} with this batch size per device, or a batch of "
            f"{-(-batch // unit) * unit}"
        )
    return faults


def show(values: Sequence[int]) -> str:
    """Values for a message."""
    return ", ".join(map(str, values)) if values else "(none)"
