"""The machine that is planned for: found with nvidia-smi, given by options, or assumed. torch would take seconds."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from migrl.errors import UserError
from migrl.plan.assumptions import Assumptions, Gpu
from migrl.recipe import Recipe

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
QUERY_SECONDS = 20  # a cold driver takes some
MIB = 2**20
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

    `gpus` counts all of them; 0 plans for the processor. `kind` is None where plan.yaml does not know the device: then
    there is no time. `found` says how the GPUs are known: found, given or assumed.
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
    def knows_host(self) -> bool:
        """Whether the GPUs are this machine's, so that its host memory is theirs."""
        return self.gpus == 0 or self.found == "found"

    @property
    def peak_flops(self) -> float | None:
        return self.kind[1].tflops * 1e12 if self.kind else None

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second."""
        return self.kind[1].bandwidth_gb * 1e9 if self.kind else None


def choose_machine(recipe: Recipe, options: GpuOptions, assumptions: Assumptions) -> Machine:
    """The machine to plan for; where there is no GPU, a recipe in bfloat16 is planned for the assumed one.

    Raises:
        UserError: a GPU that plan.yaml does not know, without its memory; or GPUs that cannot be told apart.
    """
    host = {"machines": recipe.launch.machines, "cores": len(os.sched_getaffinity(0)), "host_bytes": read_host_bytes()}
    if options != GpuOptions():
        return _take_options(recipe, options, assumptions, host)
    device, count, memory = find_gpus()
    if count:
        return Machine(
            count * recipe.launch.machines, device, memory, assumptions.find_gpu(device), found="found", **host
        )
    if recipe.model.dtype == "float32":
        return Machine(0, "CPU", 0, None, found="no GPU found; a recipe in float32 runs on the processor", **host)
    name = assumptions.machine.gpu
    gpu = assumptions.gpus[name]
    how = f"no GPU found; assumed: {assumptions.machine.source}; say --gpus, --gpu, --gpu-memory for others"
    return Machine(recipe.launch.processes, name, int(gpu.memory_gb * 1e9), (name, gpu), found=how, **host)


def _take_options(recipe: Recipe, options: GpuOptions, assumptions: Assumptions, host: dict[str, int]) -> Machine:
    if options.gpus == 0:
        return Machine(0, "CPU", 0, None, found="given", **host)
    name = options.name or assumptions.machine.gpu
    kind = assumptions.find_gpu(name)
    if kind is None and options.memory_gb is None:
        raise UserError(
            f"--gpu {name!r}: not in reproduce/plan.yaml, which knows {', '.join(assumptions.gpus)}; "
            "add it there, or give --gpu-memory for a plan without times"
        )
    memory = options.memory_gb if options.memory_gb is not None else kind[1].memory_gb if kind else 0.0
    count = recipe.launch.processes if options.gpus is None else options.gpus
    return Machine(count, kind[0] if kind else name, int(memory * 1e9), kind, found="given", **host)


def find_gpus() -> tuple[str, int, int]:
    """(name, number, bytes of each) of this machine's GPUs; no driver means none.

    Raises:
        UserError: nvidia-smi fails, or the GPUs differ.
    """
    try:
        result = subprocess.run(QUERY, capture_output=True, text=True, timeout=QUERY_SECONDS, check=False)
    except FileNotFoundError:
        return "", 0, 0
    except subprocess.TimeoutExpired as error:
        raise UserError(f"nvidia-smi: no answer in {QUERY_SECONDS} s; give --gpus and --gpu-memory") from error
    if result.returncode:
        why = (result.stdout + result.stderr).strip()[:200]
        if "No devices were found" in why:
            return "", 0, 0
        raise UserError(f"nvidia-smi: {why}; mend the driver, or give --gpus and --gpu-memory")
    return read_gpus(result.stdout)


def read_gpus(table: str) -> tuple[str, int, int]:
    """(name, number, bytes of each) from nvidia-smi's lines `name, MiB`.

    Raises:
        UserError: the GPUs differ, or one has no memory of its own (a MIG parent).
    """
    rows = [tuple(cell.strip() for cell in line.rsplit(",", 1)) for line in table.splitlines() if line.strip()]
    if not rows:
        return "", 0, 0
    if len(set(rows)) > 1:
        kinds = ", ".join(sorted({f"{name} ({memory} MiB)" for name, memory in rows}))
        raise UserError(f"nvidia-smi: different GPUs ({kinds}); give --gpus, --gpu and --gpu-memory of those to use")
    name, memory = rows[0]
    if not memory.isdigit():
        raise UserError(f"nvidia-smi: {name} tells no memory ({memory}); give --gpus and --gpu-memory")
    return name, len(rows), int(memory) * MIB


def read_host_bytes() -> int:
    """This machine's memory, or this container's share of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CGROUP_LIMIT.read_text().strip() if CGROUP_LIMIT.is_file() else "max"
    return min(total, int(limit)) if limit.isdigit() else total
