"""What cannot fit, and which changes of the recipe would make it fit: each is tried before it is named."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from migrl.errors import UserError
from migrl.plan.checks import list_divisors
from migrl.plan.machine import Machine
from migrl.plan.peaks import Peak, plan_peak
from migrl.plan.workload import Workload
from migrl.recipe import LoraSettings, Recipe, TransformersTeacher, VllmTeacher

SMALLER_PIXELS = (640_000, 401_408, 200_704)


def refuse_memory(name: str, kind: str, peak: Peak, workload: Workload, machine: Machine) -> list[str]:
    """Why a stage's peak does not fit its GPU or its host, with changes that were tried and do."""
    faults = []
    if not fits(peak, machine) and peak.device is not None:
        parts = sorted(peak.device.parts, key=lambda part: part.bytes, reverse=True)[:3]
        most = ", ".join(f"{part.name} {part.bytes / 1e9:.1f}" for part in parts)
        share = f", of which it takes {100 * peak.share:g} %" if peak.share < 1 else ""
        faults.append(
            f"{name}: {peak.device.phase} needs {peak.device.total / 1e9:.1f} GB of a GPU with "
            f"{machine.gpu_bytes / 1e9:.1f} GB{share} (most of it {most}); {suggest(kind, workload, machine)}; or GPUs "
            "with more memory"
        )
    if peak.host.bytes > machine.host_bytes and machine.knows_host:
        faults.append(
            f"{name}: needs {peak.host.bytes / 1e9:.1f} GB of host memory ({peak.host.words}), there are "
            f"{machine.host_bytes / 1e9:.1f} GB; use fewer processes on this machine (launch.processes), or more memory"
        )
    return faults


def fits(peak: Peak | None, machine: Machine) -> bool:
    """Whether a peak fits its share of a GPU; without GPUs it is the host's matter."""
    if peak is None or peak.device is None or not machine.gpus:
        return True
    return peak.device.total <= peak.share * machine.gpu_bytes


def suggest(kind: str, workload: Workload, machine: Machine) -> str:
    """Changes of the recipe with which a stage fits: the mildest value of each key, or else all keys together."""
    alone: dict[str, str] = {}
    offers = list(offer_changes(kind, workload.recipe))
    for key, value in offers:
        total = try_changes(kind, workload, machine, {key: value})
        if key not in alone and total is not None:
            alone[key] = f"{key}={show_value(value)} ({total / 1e9:.1f} GB)"
    if alone:
        return f"any of these fits: {'; '.join(alone.values())}"
    changes: dict[str, Any] = {}
    for key, value in offers:
        changes[key] = value
        total = try_changes(kind, workload, machine, changes)
        if total is not None:
            shown = ", ".join(f"{key}={show_value(value)}" for key, value in changes.items())
            return f"together these fit: {shown} ({total / 1e9:.1f} GB)"
    return f"no settings of {kind} that were tried fit"


def try_changes(kind: str, workload: Workload, machine: Machine, changes: dict[str, Any]) -> float | None:
    """Bytes of a stage's peak with some keys changed; None if it does not fit."""
    recipe = workload.recipe
    for key, value in changes.items():
        recipe = change_recipe(recipe, key, value)
    peak = plan_peak(kind, replace(workload, recipe=recipe), machine)
    return peak.device.total if peak and peak.device and fits(peak, machine) else None


def show_value(value: Any) -> str:
    """A value as an override has it."""
    return f"{{rank: {value.rank}, alpha: {value.alpha}}}" if isinstance(value, LoraSettings) else str(value)


def offer_changes(kind: str, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Changes worth a try for a stage, mildest first."""
    processes, teacher = recipe.launch.processes, recipe.synthesize.teacher
    if kind == "sft":
        yield from (("sft.micro_batch", n) for n in smaller(recipe.sft.micro_batch, recipe.sft.batch // processes))
    if kind == "grpo":
        share = recipe.grpo.completions_per_step // processes
        yield from (("grpo.micro_batch", n) for n in smaller(recipe.grpo.micro_batch, share))
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
    section = {"sft": "sft", "grpo": "grpo", "select": "grpo", "evaluate": "evaluate", "synthesize": "sft"}.get(kind)
    if section is not None:
        now = getattr(recipe, section).max_pixels
        yield from ((f"{section}.max_pixels", pixels) for pixels in SMALLER_PIXELS if pixels < now)
    if kind == "grpo":
        # More processes have fewer rollouts each.
        more = [n * processes for n in (2, 4) if recipe.grpo.completions_per_step % (n * processes) == 0]
        yield from (("launch.processes", n) for n in more)


def smaller(value: int, share: int) -> list[int]:
    """Smaller micro-batches that divide a process's share of the batch, the largest first."""
    return [n for n in reversed(list_divisors(max(1, share))) if n < value]


def halve(value: int, least: int = 1) -> list[int]:
    """Half, a quarter and so on, down to `least`."""
    values = []
    while (value := value // 2) >= least:
        values.append(value)
    return values


def change_recipe(recipe: Recipe, key: str, value: Any) -> Recipe:
    """The recipe with one dotted key changed."""
    first, *rest = key.split(".")
    if not rest:
        return recipe.model_copy(update={first: value})
    return recipe.model_copy(update={first: _change(getattr(recipe, first), rest, value)})


def _change(section: Any, keys: list[str], value: Any) -> Any:
    first, *rest = keys
    return section.model_copy(update={first: _change(getattr(section, first), rest, value) if rest else value})


def refuse_machine(workload: Workload, machine: Machine) -> list[str]:
    """Processes without a GPU each, and a recipe for GPUs where there is none."""
    processes, model = workload.recipe.launch.processes, workload.recipe.model
    if machine.gpus == 0:
        if model.needs_gpu:
            return [
                f"model.dtype={model.dtype}, model.attention={model.attention}: need a GPU, and there is none; "
                "run it on a GPU server"
            ]
        return []
    if machine.gpus < processes:
        return [
            f"launch.processes={processes}: one GPU each, and there are {machine.gpus}; set launch.processes to at "
            f"most {machine.gpus} (the batches have to divide), or use more GPUs"
        ]
    return []


def refuse_disk(needs: dict[str, tuple[float, int, int]]) -> list[str]:
    """Folders that need more than is free; needs: folder -> (bytes, device, free bytes). One disk counts once."""
    faults = []
    for device in sorted({device for _, device, _ in needs.values()}):
        folders = {name: need for name, (need, where, _) in needs.items() if where == device}
        free = next(free for _, where, free in needs.values() if where == device)
        if sum(folders.values()) > free:
            parts = " and ".join(f"{need / 1e9:.0f} GB in {name}" for name, need in folders.items())
            faults.append(
                f"disk: {parts} needed, {free / 1e9:.0f} GB are free there; free space, use --runs DIR or "
                "source.downloads on another disk, or train on fewer tasks (source.training.tasks)"
            )
    return faults


def raise_refusals(recipe: Recipe, faults: list[str]) -> None:
    """End with every fault.

    Raises:
        UserError: there is one.
    """
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise UserError(f"recipe {recipe.name!r} does not fit:\n{lines}")
