"""The GPUs of this machine, for the manifest: what they call themselves, and what drives them.

nvidia-smi is asked and not torch, which would open a context on each GPU and keep memory that the next stage needs.
"""

import subprocess
from collections.abc import Sequence
from typing import Any

QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
QUERY_SECONDS = 20  # a cold driver takes some
NO_GPU = "No devices were found"


def describe_gpus(query: Sequence[str] = QUERY) -> dict[str, Any] | None:
    """Names of this machine's GPUs, their number, how many of them this process may use, driver and CUDA version.

    None without a driver or a GPU. A driver that does not answer, or cannot be asked, must not cost a finished stage:
    the manifest then holds its `error` in place of names.
    """
    try:
        result = subprocess.run(query, capture_output=True, errors="replace", timeout=QUERY_SECONDS, check=False)
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        return {"error": f"nvidia-smi: no answer in {QUERY_SECONDS} s", **describe_torch()}
    except OSError as error:  # such as a file that nobody may execute
        return {"error": f"nvidia-smi: {error}", **describe_torch()}
    said = (result.stdout + result.stderr).strip()
    if NO_GPU in said:
        return None
    rows = [[cell.strip() for cell in line.rsplit(",", 1)] for line in result.stdout.splitlines() if line.strip()]
    if result.returncode or not rows or any(len(row) != 2 for row in rows):
        return {"error": f"nvidia-smi: exit {result.returncode}: {said[:200]}", **describe_torch()}
    names = [name for name, _ in rows]
    drivers = ", ".join(sorted({driver for _, driver in rows}))
    return {"names": names, "count": len(names), "driver": drivers, **describe_torch()}


def describe_torch() -> dict[str, Any]:
    """How many GPUs torch may use here, which it counts without touching them, and the CUDA that it was built with."""
    import torch  # seconds, and of no use where there is no GPU

    return {"visible": torch.cuda.device_count(), "cuda": torch.version.cuda}
