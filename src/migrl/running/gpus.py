"""The GPUs of this machine: what they call themselves, and what drives them.

nvidia-smi is asked and not torch, which would open a context on each GPU and keep memory that the next stage needs.
"""

import subprocess
from collections.abc import Sequence
from typing import Any

from migrl.errors import UserError

PROGRAM = "nvidia-smi"
FORMAT = "--format=csv,noheader,nounits"
QUERY = (PROGRAM, "--query-gpu=name,driver_version", FORMAT)
MEMORY_QUERY = (PROGRAM, "--query-gpu=name,memory.total,mig.mode.current", FORMAT)
QUERY_SECONDS = 20  # a cold driver takes some
NO_GPU = "No devices were found"
OPTIONS = "give --gpus, --gpu and --gpu-memory of those to use"
MIB = 2**20


class NvidiaSmiError(Exception):
    """nvidia-smi is there and does not answer, or not with a table; the message says what it did."""


def query_gpus(query: Sequence[str], columns: int) -> list[list[str]]:
    """nvidia-smi's table, a row of so many cells for each GPU; no row without a driver or a GPU.

    Only the first cell, the name, may hold a comma of its own.

    Raises:
        NvidiaSmiError: no answer in time, an error, or no table.
    """
    try:
        result = subprocess.run(query, capture_output=True, errors="replace", timeout=QUERY_SECONDS, check=False)
    except FileNotFoundError:
        return []
    except subprocess.TimeoutExpired as error:
        raise NvidiaSmiError(f"{PROGRAM}: no answer in {QUERY_SECONDS} s") from error
    except OSError as error:  # such as a file that nobody may execute
        raise NvidiaSmiError(f"{PROGRAM}: {error}") from error
    said = (result.stdout + result.stderr).strip()
    if NO_GPU in said:
        return []
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    rows = [[cell.strip() for cell in line.rsplit(",", columns - 1)] for line in lines]
    if result.returncode or not rows or any(len(row) != columns for row in rows):
        raise NvidiaSmiError(f"{PROGRAM}: exit {result.returncode}: {said[:200]}")
    return rows


def find_gpus(query: Sequence[str] = MEMORY_QUERY) -> tuple[str, int, int]:
    """(name, number, bytes of each) of this machine's GPUs; no driver means none.

    Raises:
        UserError: nvidia-smi fails, the GPUs differ, or they are in parts (MIG).
    """
    try:
        rows = query_gpus(query, 3)
    except NvidiaSmiError as error:
        raise UserError(f"{error}; mend the driver, or {OPTIONS}") from error
    if not rows:
        return "", 0, 0
    if len({(name, memory) for name, memory, _ in rows}) > 1:
        kinds = ", ".join(sorted({f"{name} ({memory} MiB)" for name, memory, _ in rows}))
        raise UserError(f"{PROGRAM}: different GPUs ({kinds}); {OPTIONS}")
    name, memory, _ = rows[0]
    if any(mode == "Enabled" for _, _, mode in rows):
        raise UserError(f"{PROGRAM}: {name} is cut into parts (MIG), which it does not size; {OPTIONS}")
    if not memory.isdecimal():
        raise UserError(f"{PROGRAM}: {name} tells no memory ({memory}); {OPTIONS}")
    return name, len(rows), int(memory) * MIB


def describe_gpus(query: Sequence[str] = QUERY) -> dict[str, Any] | None:
    """Names of this machine's GPUs, their number, how many of them this process may use, driver and CUDA version.

    None without a driver or a GPU. A driver that does not answer, or cannot be asked, must not cost a finished stage:
    the manifest then holds its `error` in place of names.
    """
    try:
        rows = query_gpus(query, 2)
    except NvidiaSmiError as error:
        return {"error": str(error), **describe_torch()}
    if not rows:
        return None
    names = [name for name, _ in rows]
    drivers = ", ".join(sorted({driver for _, driver in rows}))
    return {"names": names, "count": len(names), "driver": drivers, **describe_torch()}


def describe_torch() -> dict[str, Any]:
    """How many GPUs torch may use here, which it counts without touching them, and the CUDA that it was built with."""
    import torch  # seconds, and of no use where there is no GPU

    return {"visible": torch.cuda.device_count(), "cuda": torch.version.cuda}
