"""The machine that is planned for: found with nvidia-smi, given by options, or assumed. torch would take seconds."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from migrl.errors import UserError
from migrl.plan.assumptions import Assumptions
from migrl.recipe import Recipe
from migrl.running.gpu_peaks import Gpu, find_gpu, load_gpus
from migrl.running.gpus import find_gpus

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class GpuOptions:
    """What the user says instead of letting the plan look: GPUs in all, GB of each, and what they are."""

    gpus: int | None = None
    memory_gb: float | None = None
    name: str | None = None


@dataclass(frozen=True)
class Machine:
    """GPUs of one kind on `machines` machines, and this machine's processor cores and memory in bytes.

    `gpus` counts all of them; 0 plans for the processor. `kind` is None where gpus.yaml has no figures for this device
    and number type: then there is no time. `found` says how the GPUs are known: found, given or assumed.
    """

    gpus: int
    device: str
    gpu_bytes: int
    kind: tuple[str, Gpu] | None
    machines: int
    found: str
    cores: int
    host_bytes: int

    @property
    def local_gpus(self) -> int:
        """GPUs of one machine."""
        return self.gpus // self.machines

    @property
    def knows_host(self) -> bool:
        """Whether the GPUs are this machine's, so that its host memory is theirs."""
        return self.gpus == 0 or self.found == "found"

    def is_kind(self, device: str) -> bool:
        """Whether what was measured on a device holds for these; all processors are alike here."""
        if not self.gpus or self.kind is None:
            return not self.gpus and device == "cpu"
        found = find_gpu(device, load_gpus())
        return found is not None and found[0] == self.kind[0]


def choose_machine(recipe: Recipe, options: GpuOptions, assumptions: Assumptions) -> Machine:
    """The machine to plan for; where there is no GPU, a recipe in bfloat16 is planned for the assumed one.

    Raises:
        UserError: options that mean nothing, a GPU that gpus.yaml does not know, without its memory, or GPUs that
            cannot be told apart.
    """
    host = {"machines": recipe.launch.machines, "cores": len(os.sched_getaffinity(0)), "host_bytes": read_host_bytes()}
    if options != GpuOptions():
        return _take_options(recipe, options, assumptions, host)
    device, count, memory = find_gpus()
    if count:
        kind = find_gpu(device, load_gpus()) if recipe.model.dtype == "bfloat16" else None
        return Machine(count * recipe.launch.machines, device, memory, kind, found="found", **host)
    if recipe.model.dtype == "float32":
        return Machine(0, "CPU", 0, None, found="no GPU found; a recipe in float32 runs on the processor", **host)
    name = assumptions.gpu
    gpu = load_gpus()[name]
    how = "no GPU found; assumed, as in reproduce/plan.yaml; say --gpus, --gpu, --gpu-memory for others"
    return Machine(recipe.launch.processes, name, int(gpu.memory_gb * 1e9), (name, gpu), found=how, **host)


def _take_options(recipe: Recipe, options: GpuOptions, assumptions: Assumptions, host: dict[str, int]) -> Machine:
    count = recipe.launch.processes if options.gpus is None else options.gpus
    if count < 0:
        raise UserError(f"--gpus {count}: give the number of GPUs in all, 0 to plan for the processor")
    if count == 0:
        return Machine(0, "CPU", 0, None, found="given", **host)
    if options.memory_gb is not None and not 0 < options.memory_gb < math.inf:
        raise UserError(f"--gpu-memory {options.memory_gb:g}: give the GB of each GPU, such as 80")
    if count % host["machines"]:
        raise UserError(f"--gpus {count}: not the same number on each of launch.machines={host['machines']}")
    name = options.name or assumptions.gpu
    kind = find_gpu(name, load_gpus())
    if kind is None and options.memory_gb is None:
        raise UserError(
            f"--gpu {name!r}: not in reproduce/gpus.yaml, which knows {', '.join(load_gpus())}; "
            "add it there, or give --gpu-memory for a plan without times"
        )
    memory = options.memory_gb if options.memory_gb is not None else kind[1].memory_gb if kind else 0.0
    device, timed = kind[0] if kind else name, kind if recipe.model.dtype == "bfloat16" else None
    return Machine(count, device, int(memory * 1e9), timed, found="given", **host)


def read_host_bytes() -> int:
    """This machine's memory, or this container's share of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return min(total, int(limit)) if limit.isdigit() else total
