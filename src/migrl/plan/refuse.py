"""What cannot fit, with the changes of the recipe that would make it fit."""

from migrl.errors import UserError
from migrl.plan.changes import (
    Fit,
    can_share,
    find_changes,
    fits_device,
    fits_host,
    list_processes,
    show_value,
    try_changes,
)
from migrl.plan.machine import Machine
from migrl.plan.peaks import Peak
from migrl.plan.workload import Workload
from migrl.recipe import Recipe, VllmTeacher


def refuse_memory(name: str, kind: str, peak: Peak, workload: Workload, machine: Machine) -> list[str]:
    """Why a stage's peak does not fit its GPU or its host, with changes that were tried and do."""
    faults = []
    if not fits_device(peak, machine) and peak.device is not None:
        parts = sorted(peak.device.parts, key=lambda part: part.bytes, reverse=True)[:3]
        most = ", ".join(f"{part.name} {part.bytes / 1e9:.1f}" for part in parts)
        share = f", of which it takes {100 * peak.share:g} %" if peak.share < 1 else ""
        faults.append(
            f"{name}: {peak.device.phase} needs {peak.device.total / 1e9:.1f} GB of a GPU with "
            f"{machine.gpu_bytes / 1e9:.1f} GB{share} (most of it {most}); "
            f"{show_changes(kind, find_changes(kind, workload, machine))}"
        )
    if not fits_host(peak, machine):
        faults.append(
            f"{name}: needs {peak.host.bytes / 1e9:.1f} GB of host memory ({peak.host.words}), there are "
            f"{machine.host_bytes / 1e9:.1f} GB; {suggest_processes(kind, workload, machine)}"
        )
    return faults


def show_changes(kind: str, found: list[Fit]) -> str:
    """What `find_changes` found, as overrides of the recipe."""
    if not found:
        return f"no settings of {kind} that were tried fit; use GPUs with more memory"
    shown = []
    for fit in found:
        keys = ", ".join(f"{key}={show_value(value)}" for key, value in fit.changes.items())
        shown.append(f"{keys}{' together' if len(fit.changes) > 1 else ''} ({show_total(fit.peak)})")
    return f"{'any of these fits' if found[1:] else 'this fits'}: {'; '.join(shown)}; or use GPUs with more memory"


def show_total(peak: Peak) -> str:
    """The GB of a peak, on the GPU if it has one."""
    return f"{(peak.device.total if peak.device else peak.host.bytes) / 1e9:.1f} GB"


def suggest_processes(kind: str, workload: Workload, machine: Machine) -> str:
    """The most processes with which a stage fits the host, and its GPU still."""
    for count in list_processes(workload.recipe, workload.recipe.launch.processes - 1):
        peak = try_changes(kind, workload, machine, {"launch.processes": count})
        if peak is not None and fits_host(peak, machine):
            return f"launch.processes={count} fits; or use a machine with more memory"
    return "fewer processes do not fit either; use a machine with more memory"


def refuse_machine(workload: Workload, machine: Machine) -> list[str]:
    """Processes without a GPU each, a teacher that the GPUs cannot share, a recipe for GPUs where there is none."""
    recipe, model = workload.recipe, workload.recipe.model
    if machine.gpus == 0:
        if model.needs_gpu:
            return [
                f"model.dtype={model.dtype}, model.attention={model.attention}: need a GPU, and there is none; "
                "run it on a GPU server"
            ]
        return []
    faults, processes = [], recipe.launch.processes
    if machine.gpus < processes:
        legal = list_processes(recipe, machine.gpus)
        change = f"set launch.processes={legal[0]}" if legal else f"no number up to {machine.gpus} divides the batches"
        faults = [
            f"launch.processes={processes}: one GPU each, and there are {machine.gpus}; {change}; or use more GPUs"
        ]
    return faults + refuse_teacher(workload, machine)


def refuse_teacher(workload: Workload, machine: Machine) -> list[str]:
    """A vLLM teacher on GPUs that cannot share it, with the numbers that can and fit."""
    teacher = workload.recipe.synthesize.teacher
    if not isinstance(teacher, VllmTeacher) or can_share(workload, machine):
        return []
    key = "synthesize.teacher.tensor_parallel"
    counts = (n for n in range(1, machine.local_gpus + 1) if n != teacher.tensor_parallel)
    fitting = [n for n in counts if try_changes("synthesize", workload, machine, {key: n}) is not None]
    change = f"set {' or '.join(map(str, fitting))}" if fitting else "no such number fits: name a smaller model"
    return [
        f"{key}={teacher.tensor_parallel}: the GPUs of one machine share the teacher, there are {machine.local_gpus}, "
        f"and its heads and widths have to divide; {change}, or ask a server (engine: openai)"
    ]


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
