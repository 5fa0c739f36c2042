"""Which keys of a recipe lower a stage's memory, and what becomes of its peak with each of them."""

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from migrl.models.shapes import can_divide
from migrl.plan.machine import Machine
from migrl.plan.peak import Peak, plan_peak
from migrl.plan.work import list_work
from migrl.plan.workload import Workload
from migrl.recipe import Recipe, TransformersTeacher, VllmTeacher
from migrl.recipe.arithmetic import list_batch_faults
from migrl.recipe.arms import name_kind
from migrl.recipe.keys import set_key
from migrl.recipe.section import dump_whole, list_divisors

LOWERED_BY = {
    "synthesize": ("synthesize.", "sft.max_pixels"),
    "sft": ("sft.",),
    "merge": ("sft.max_pixels",),
    "select": ("select.", "grpo.max_pixels"),
    "grpo": ("grpo.", "launch."),
    "evaluate": ("evaluate.",),
}
"""What the keys begin with that lower a stage's memory."""
LOWERED_BY_VLLM = {"select": ("vllm.", "select.engine"), "evaluate": ("vllm.", "evaluate.engine")}
"""The same where vLLM answers."""
PARALLEL = {
    "synthesize": "synthesize.teacher.tensor_parallel",
    "select": "vllm.tensor_parallel_size",
    "evaluate": "vllm.tensor_parallel_size",
    "grpo": "grpo.vllm_tensor_parallel_size",
}
"""Over how many GPUs of a machine vLLM cuts a stage's model."""
EXPERIMENT = (".max_pixels", ".prompts_per_step", ".lora")  # keys that change what is learnt or seen
OTHER_MACHINE = ("launch.processes", "synthesize.teacher.memory", "vllm.gpu_memory_utilization")
PIXELS = (640_000, 401_408, 200_704)


def list_smaller(kind: str, recipe: Recipe) -> dict[str, list[Any]]:
    """The keys that lower a stage's memory, and their smaller values, the mildest of both first."""
    sft, grpo, select, evaluate, vllm = recipe.sft, recipe.grpo, recipe.select, recipe.evaluate, recipe.vllm
    teacher, processes = recipe.synthesize.teacher, recipe.launch.processes
    prompts = teacher.batch if isinstance(teacher, TransformersTeacher) else 1
    parts, share = (teacher.tensor_parallel, teacher.memory) if isinstance(teacher, VllmTeacher) else (8, 1.0)
    used, shares = grpo.vllm_gpu_memory_utilization, (0.5, 0.4, 0.3, 0.25) if grpo.engine == "vllm" else ()
    engines = {f"{name}.engine": getattr(recipe, name).engine for name in ("select", "evaluate", "grpo")}
    values: dict[str, list[Any]] = {
        "synthesize.teacher.batch": halve(prompts),
        "synthesize.teacher.tensor_parallel": [n for n in (2, 4, 8) if n > parts],
        "synthesize.teacher.memory": [more for more in (0.9, 0.95) if more > share],
        "sft.per_device_train_batch_size": divide(sft.per_device_train_batch_size, sft.batch // processes),
        "sft.parallel": ["zero3"],
        "grpo.per_device_train_batch_size": divide(
            grpo.per_device_train_batch_size, grpo.completions_per_step // processes
        ),
        "grpo.lora": [] if grpo.lora else [{"rank": 64, "alpha": 128}],
        "grpo.parallel": ["zero3"],
        "grpo.vllm_enable_sleep_mode": [True] if shares and not grpo.vllm_enable_sleep_mode else [],
        # Too much leaves training no room, too little not even the weights.
        "grpo.vllm_gpu_memory_utilization": [less for less in shares if less < used]
        + [more for more in reversed(shares) if more > used],
        "vllm.gpu_memory_utilization": [more for more in (0.9, 0.95) if more > vllm.gpu_memory_utilization],
        "vllm.max_num_seqs": halve(vllm.max_num_seqs),
        "vllm.tensor_parallel_size": [n for n in (2, 4, 8) if n > vllm.tensor_parallel_size],
        **{key: ["transformers"] for key, engine in engines.items() if engine == "vllm"},
        "select.batch_pixels": halve(select.batch_pixels or 2 * select.batch * grpo.max_pixels, grpo.max_pixels),
        "select.batch": halve(select.batch),
        "evaluate.batch_pixels": halve(evaluate.batch_pixels, evaluate.max_pixels),
        "evaluate.batch": halve(evaluate.batch),
        "sft.max_pixels": [n for n in PIXELS if n < sft.max_pixels],
        "grpo.max_pixels": [n for n in PIXELS if n < grpo.max_pixels],
        "evaluate.max_pixels": [n for n in PIXELS if n < evaluate.max_pixels],
        "launch.processes": [2 * processes, 4 * processes],  # more of them have fewer rollouts each
        "grpo.prompts_per_step": halve(grpo.prompts_per_step),
    }
    served = kind in LOWERED_BY_VLLM and engines[f"{kind}.engine"] == "vllm"
    begins = LOWERED_BY_VLLM[kind] if served else LOWERED_BY[kind]
    return {key: some for key, some in values.items() if some and key.startswith(begins)}


def divide(now: int, share: int) -> list[int]:
    """Smaller micro-batches that divide a process's share of the batch, the largest first."""
    return [n for n in reversed(list_divisors(share)) if n < now]


def halve(value: int, least: int = 1) -> list[int]:
    """Half, a quarter and so on, down to `least`."""
    return [half for n in range(1, value.bit_length()) if (half := value >> n) >= least]


def list_effects(kind: str, workload: Workload, machine: Machine) -> list[tuple[str, Any, Peak]]:
    """What each key alone makes of a stage's peak: its mildest value with which the stage fits, or else its lowest."""
    found: list[tuple[str, Any, Peak]] = []
    for key, values in list_smaller(kind, workload.recipe).items():
        tried = [(key, value, peak) for value in values if (peak := change_peak(kind, workload, machine, key, value))]
        found += ([effect for effect in tried if fits_device(effect[2], machine)] or tried[::-1])[:1]
    return found


def change_peak(kind: str, workload: Workload, machine: Machine, key: str, value: Any) -> Peak | None:
    """A stage's peak with another value of a key; None if recipe, batches, GPUs or the host do not allow it."""
    recipe = try_change(workload.recipe, key, value)
    if recipe is None:
        return None
    changed = replace(workload, recipe=recipe)
    if workload.gpus < changed.gpus > machine.gpus > 0:
        return None
    if not can_share(kind, changed, machine):
        return None
    peak = plan_peak(kind, changed, machine)
    return peak if peak and fits_host(peak, machine) else None


def fits_device(peak: Peak, machine: Machine) -> bool:
    """Whether a peak fits its share of a GPU; without GPUs it is the host's matter."""
    return not machine.gpus or peak.device.total <= peak.share * machine.gpu_bytes


def fits_host(peak: Peak, machine: Machine) -> bool:
    """Whether a peak fits the host, where that is known."""
    return not machine.knows_host or peak.host.bytes <= machine.host_bytes


def can_share(kind: str, workload: Workload, machine: Machine) -> bool:
    """Whether the GPUs of one machine can share vLLM's model as the recipe says; other engines need no sharing."""
    served = list_work(kind, workload).served
    if not served or not machine.gpus:
        return True
    if kind == "synthesize" and (teacher := workload.recipe.local_teacher):
        workload = workload.for_teacher(teacher)
    parts = served.settings.tensor_parallel_size
    return parts <= machine.local_gpus and can_divide(workload.shape, parts)


def list_processes(recipe: Recipe, most: int) -> list[int]:
    """Numbers of processes up to `most` that the batches and the machines allow, the largest first."""
    counts = range(most - most % recipe.launch.machines, 0, -recipe.launch.machines)
    return [n for n in counts if try_change(recipe, "launch.processes", n)]


def try_change(recipe: Recipe, key: str, value: Any) -> Recipe | None:
    """The recipe with another value of a key; None if it is none then, or its batches do not work out."""
    try:
        changed = change_recipe(recipe, {key: value})
    except ValidationError:
        return None
    return None if list_batch_faults(changed) else changed


def change_recipe(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with some dotted keys changed.

    Raises:
        ValidationError: with these values it is no recipe.
    """
    data = dump_whole(recipe)
    for key, value in changes.items():
        set_key(data, key, value)
    return Recipe.model_validate(data)


def show_change(key: str, value: Any) -> str:
    """A change as an override of the recipe."""
    return f"{key}={str(value).replace(chr(39), '')}"


def explain_out_of_memory(stage: str, recipe: Recipe, said: str) -> str:
    """The error for a GPU that ran out of memory in the middle of a stage: what torch said, and the keys to lower."""
    kind = "select" if stage == "pass_rates" else name_kind(stage)
    # Merge has no key of its own: the pixels that a plan offers would have sft run anew.
    smaller = {} if kind == "merge" else list_smaller(kind, recipe)
    mildest = [
        show_change(key, values[0]) + " (changes the experiment)" * key.endswith(EXPERIMENT)
        for key, values in smaller.items()
        if key not in OTHER_MACHINE
    ]
    change = f"set one of {', '.join(mildest)}: this stage then begins anew; or " if mildest else ""
    return (
        f"{stage}: the GPU ran out of memory ({said}); {change}use GPUs with more memory or end what else is on them "
        f"(nvidia-smi); `migrl plan --recipe {recipe.name}` prints what needs how much"
    )
