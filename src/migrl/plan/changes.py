"""Changes of a recipe with which a stage fits: each is tried on the formulas, and on the recipe's own rules, before."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from migrl.plan.checks import list_batch_faults
from migrl.plan.machine import Machine
from migrl.plan.peaks import Peak, plan_peak
from migrl.plan.shapes import ModelShape
from migrl.plan.workload import Workload
from migrl.recipe import LoraSettings, Recipe, TransformersTeacher, VllmTeacher
from migrl.recipe.section import dump_whole, list_divisors

SMALLER_PIXELS = (640_000, 401_408, 200_704)
EXPERIMENT = (".max_pixels", ".prompts_per_step", ".lora")  # keys that change what is learnt or seen
Changes = dict[str, Any]  # dotted keys of the recipe, and their new values


@dataclass(frozen=True)
class Fit:
    """Changes with which a stage fits, and its peak then."""

    changes: Changes
    peak: Peak


def find_changes(kind: str, workload: Workload, machine: Machine) -> list[Fit]:
    """Changes of the recipe with each of which a stage fits.

    Of each key that does alone, the mildest value; and where these all change the experiment, or there are none, what
    does together, with as little of that as possible.
    """
    alone: dict[str, Fit] = {}
    offers = list(offer_changes(kind, workload.recipe))
    for key, value in offers:
        peak = None if key in alone else try_changes(kind, workload, machine, {key: value})
        if peak is not None:
            alone[key] = Fit({key: value}, peak)
    if any(not key.endswith(EXPERIMENT) for key in alone):
        return list(alone.values())
    return [*find_together(kind, offers, workload, machine), *alone.values()]


def find_together(kind: str, offers: list[tuple[str, Any]], workload: Workload, machine: Machine) -> list[Fit]:
    """The first of the offers, one after the other, with which a stage fits, without those that it does not need."""
    changes: Changes = {}
    for key, value in offers:
        if not is_legal(change_recipe(workload.recipe, {**changes, key: value}), workload, machine):
            continue
        changes[key] = value
        if try_changes(kind, workload, machine, changes) is None:
            continue
        for name in list(changes):
            fewer = {key: value for key, value in changes.items() if key != name}
            if fewer and try_changes(kind, workload, machine, fewer) is not None:
                changes = fewer
        peak = try_changes(kind, workload, machine, changes)
        return [Fit(changes, peak)] if peak is not None and len(changes) > 1 else []
    return []


def try_changes(kind: str, workload: Workload, machine: Machine, changes: Changes) -> Peak | None:
    """A stage's peak with some keys changed; None if that is no sound recipe, or does not fit the GPU.

    Nor may it need more of a host that has too little.
    """
    recipe = change_recipe(workload.recipe, changes)
    if not is_legal(recipe, workload, machine):
        return None
    old, peak = (plan_peak(kind, replace(workload, recipe=used), machine) for used in (workload.recipe, recipe))
    if old is None or peak is None or not fits_device(peak, machine):
        return None
    return peak if fits_host(peak, machine) or peak.host.bytes <= old.host.bytes else None


def fits_device(peak: Peak, machine: Machine) -> bool:
    """Whether a peak fits its share of a GPU; without GPUs it is the host's matter."""
    return peak.device is None or not machine.gpus or peak.device.total <= peak.share * machine.gpu_bytes


def fits_host(peak: Peak, machine: Machine) -> bool:
    """Whether a peak fits the host, where that is known."""
    return not machine.knows_host or peak.host.bytes <= machine.host_bytes


def is_legal(recipe: Recipe, workload: Workload, machine: Machine) -> bool:
    """Whether a changed recipe passes its own checks and has a GPU for every process, as far as the old one did."""
    try:
        Recipe.model_validate(dump_whole(recipe))
    except ValidationError:
        return False
    changed, old = replace(workload, recipe=recipe), workload.recipe
    if machine.gpus and recipe.launch.processes > max(machine.gpus, old.launch.processes):
        return False
    if list_batch_faults(recipe) and (not list_batch_faults(old) or recipe.launch != old.launch):
        return False
    return can_share(changed, machine) or recipe.synthesize == old.synthesize


def show_value(value: Any) -> str:
    """A value as an override has it."""
    return f"{{rank: {value.rank}, alpha: {value.alpha}}}" if isinstance(value, LoraSettings) else str(value)


def offer_changes(kind: str, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Changes worth a try for a stage, mildest first."""
    processes, teacher = recipe.launch.processes, recipe.synthesize.teacher
    if kind == "sft":
        yield from (
            ("sft.per_device_train_batch_size", n)
            for n in smaller(recipe.sft.per_device_train_batch_size, recipe.sft.batch // processes)
        )
    if kind == "grpo":
        share = recipe.grpo.completions_per_step // processes
        yield from (
            ("grpo.per_device_train_batch_size", n) for n in smaller(recipe.grpo.per_device_train_batch_size, share)
        )
        if recipe.grpo.lora is None:
            yield "grpo.lora", LoraSettings(rank=64, alpha=128)
    if kind in ("sft", "grpo"):
        yield f"{kind}.parallel", "zero3"
    if kind == "select":
        pixels = recipe.select.batch_pixels or 2 * recipe.select.batch * recipe.grpo.max_pixels
        yield from (("select.batch_pixels", n) for n in halve(pixels, recipe.grpo.max_pixels))
        yield from (("select.batch", n) for n in halve(recipe.select.batch))
    if kind == "evaluate":
        yield from (
            ("evaluate.batch_pixels", n) for n in halve(recipe.evaluate.batch_pixels, recipe.evaluate.max_pixels)
        )
        yield from (("evaluate.batch", n) for n in halve(recipe.evaluate.batch))
    if kind == "synthesize" and isinstance(teacher, TransformersTeacher):
        yield from (("synthesize.teacher.batch", n) for n in halve(teacher.batch))
    if kind == "synthesize" and isinstance(teacher, VllmTeacher):
        yield from (("synthesize.teacher.tensor_parallel", n) for n in (2, 4, 8) if n > teacher.tensor_parallel)
        yield from (("synthesize.teacher.memory", share) for share in (0.9, 0.95) if share > teacher.memory)
    if kind == "grpo" and recipe.grpo.engine == "vllm":
        yield from (
            ("grpo.vllm_gpu_memory_utilization", share)
            for share in (0.4, 0.3, 0.25)
            if share < recipe.grpo.vllm_gpu_memory_utilization
        )
        yield "grpo.engine", "transformers"
    sections = {"select": "grpo", "synthesize": "sft", "merge": "sft"}
    section = sections.get(kind, kind)
    if section in ("sft", "grpo", "evaluate"):
        now = getattr(recipe, section).max_pixels
        yield from ((f"{section}.max_pixels", pixels) for pixels in SMALLER_PIXELS if pixels < now)
    if kind == "grpo":
        # More processes have fewer rollouts each.
        yield from (("launch.processes", n * processes) for n in (2, 4))
        yield from (("grpo.prompts_per_step", n) for n in halve(recipe.grpo.prompts_per_step))


def smaller(value: int, share: int) -> list[int]:
    """Smaller micro-batches that divide a process's share of the batch, the largest first."""
    return [n for n in reversed(list_divisors(max(1, share))) if n < value]


def halve(value: int, least: int = 1) -> list[int]:
    """Half, a quarter and so on, down to `least`."""
    values = []
    while (value := value // 2) >= least:
        values.append(value)
    return values


def change_recipe(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe with some dotted keys changed; nothing is checked."""
    for key, value in changes.items():
        recipe = _change(recipe, key.split("."), value)
    return recipe


def _change(section: Any, keys: list[str], value: Any) -> Any:
    first, *rest = keys
    return section.model_copy(update={first: _change(getattr(section, first), rest, value) if rest else value})


def list_processes(recipe: Recipe, most: int) -> list[int]:
    """Numbers of processes up to `most` that the batches and the machines allow, the largest first."""
    counts = range(most - most % recipe.launch.machines, 0, -recipe.launch.machines)
    return [n for n in counts if not list_batch_faults(change_recipe(recipe, {"launch.processes": n}))]


def can_share(workload: Workload, machine: Machine) -> bool:
    """Whether the GPUs of one machine can share a vLLM teacher as the recipe says; other teachers need no sharing."""
    teacher = workload.recipe.synthesize.teacher
    if not isinstance(teacher, VllmTeacher) or not machine.gpus or not workload.recipe.trains:
        return True
    shape, count = workload.find_shape(teacher.model, "teacher"), teacher.tensor_parallel
    return count <= machine.local_gpus and can_divide(shape, count)


def can_divide(shape: ModelShape, parts: int) -> bool:
    """Whether vLLM can cut a model into so many parts: heads and MLPs evenly, each KV head into one part or several."""
    text, vision = shape.text_config, shape.vision_config
    widths = (text.num_attention_heads, text.intermediate_size, vision.num_heads, vision.intermediate_size)
    keys = text.num_key_value_heads
    return not any(width % parts for width in widths) and (keys % parts == 0 or parts % keys == 0)
