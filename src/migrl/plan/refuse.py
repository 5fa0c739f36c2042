"""What cannot fit, with the changes of the recipe that would make it fit."""

from operator import attrgetter

from migrl.errors import UserError
from migrl.plan.advice import (
    EXPERIMENT,
    PARALLEL,
    can_share,
    change_peak,
    fits_device,
    fits_host,
    list_effects,
    list_processes,
    show_change,
)
from migrl.plan.machine import Machine
from migrl.plan.peak import Peak
from migrl.plan.workload import Workload
from migrl.recipe import Recipe


def refuse_memory(name: str, kind: str, peak: Peak, workload: Workload, machine: Machine) -> list[str]:
    """Why a stage's peak does not fit its GPU or its host, with changes that do."""
    faults = []
    if not fits_device(peak, machine):
        parts = sorted(peak.device.parts, key=lambda part: part.bytes, reverse=True)[:3]
        most = ", ".join(f"{part.name} {part.bytes / 1e9:.1f}" for part in parts)
        share = f", of which it takes {100 * peak.share:g} %" if peak.share < 1 else ""
        shown: dict[bool, list[str]] = {True: [], False: []}
        for key, value, changed in list_effects(kind, workload, machine):
            fits = fits_device(changed, machine)
            if fits or changed.device.total < peak.device.total:
                mark = ", changes the experiment" * key.endswith(EXPERIMENT)
                effect = f"{show_change(key, value)} ({changed.device.total / 1e9:.1f} GB{mark})"
                shown[fits].append(effect)
        remedies = [f"any of these fits: {'; '.join(shown[True])}"] if shown[True] else []
        remedies += [f"together with others {'; '.join(shown[False])}"] if shown[False] else []
        faults.append(
            f"{name}: {peak.device.phase} needs {peak.device.total / 1e9:.1f} GB of a GPU with "
            f"{machine.gpu_bytes / 1e9:.1f} GB{share} (most of it {most}); "
            f"{'; or '.join([*remedies, 'use GPUs with more memory'])}"
        )
    if not fits_host(peak, machine):
        fewer = ", ".join(map(str, list_processes(workload.recipe, workload.recipe.launch.processes - 1)))
        faults.append(
            f"{name}: needs {peak.host.bytes / 1e9:.1f} GB of host memory ({peak.host.words}), there are "
            f"{machine.host_bytes / 1e9:.1f} GB; {f'lower launch.processes to one of {fewer}, or ' if fewer else ''}"
            "use a machine with more memory"
        )
    return faults


def refuse_machine(workload: Workload, machine: Machine) -> list[str]:
    """Processes without a GPU each, a model that vLLM cannot cut so, a recipe for GPUs where there is none."""
    recipe, model = workload.recipe, workload.recipe.model
    processes, faults = recipe.launch.processes, []
    if machine.gpus == 0 and model.needs_gpu:
        faults.append(
            f"model.dtype={model.dtype}, model.attention={model.attention}: need a GPU, and there is none; "
            "run it on a GPU server"
        )
    if 0 < machine.gpus < processes:
        legal = list_processes(recipe, machine.gpus)
        change = f"set launch.processes={legal[0]}" if legal else f"no number up to {machine.gpus} divides the batches"
        faults.append(
            f"launch.processes={processes}: one GPU each, and there are {machine.gpus}; {change}; or use more GPUs"
        )
    for kind, key in PARALLEL.items():
        if not (recipe.trains or kind == "evaluate") or can_share(kind, workload, machine):
            continue
        tried = ((n, change_peak(kind, workload, machine, key, n)) for n in range(1, machine.local_gpus + 1))
        fitting = " or ".join(str(n) for n, peak in tried if peak and fits_device(peak, machine))
        other = "ask a server (engine: server)" if kind == "synthesize" else f"{kind}.engine=transformers"
        faults.append(
            f"{key}={attrgetter(key)(recipe)}: the GPUs of one machine share the model of {kind}, there are "
            f"{machine.local_gpus}, and its heads and widths have to divide; "
            f"{f'set {fitting}' if fitting else 'no such number fits: name a smaller model'}, or {other}"
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
