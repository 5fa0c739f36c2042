"""`reproduce/gpus.yaml`: what each kind of GPU can do at most, found by the name that a device gives itself."""

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from migrl.files import ROOT, Strict
from migrl.yaml_file import load_model

GPUS_FILE = ROOT / "reproduce" / "gpus.yaml"
_Positive = Annotated[float, Field(gt=0)]


class Gpu(Strict):
    """One kind of GPU: dense bf16 peak in TFLOP/s, memory in GB and its bandwidth in GB/s (10^9 bytes)."""

    names: Annotated[tuple[str, ...], Field(min_length=1)]
    tflops: _Positive
    memory_gb: _Positive
    bandwidth_gb: _Positive


class _Table(Strict):
    gpus: dict[str, Gpu]


def load_gpus() -> dict[str, Gpu]:
    """Every kind of GPU by name.

    Raises:
        UserError: no such file, no YAML, an unknown key or a bad value; it names file and key.
    """
    return load_model(GPUS_FILE, _Table).gpus


def find_gpu(device: str, gpus: Mapping[str, Gpu]) -> tuple[str, Gpu] | None:
    """The GPU that a device's name means: of all entries the one with the longest part of it; none for a MIG."""
    if re.search(r"(?<![a-z])mig(?![a-z])", device.lower()):
        return None
    found = [
        (len(part), name)
        for name, gpu in gpus.items()
        for part in gpu.names
        if re.search(rf"(?<![a-z0-9]){re.escape(part.lower())}(?![a-z0-9])", device.lower())
    ]
    name = max(found)[1] if found else None
    return None if name is None else (name, gpus[name])


def find_peak_flops(device: str) -> float | None:
    """Dense bf16 peak of a device in FLOP/s, or None if reproduce/gpus.yaml does not know it."""
    found = find_gpu(device, load_gpus())
    return found[1].tflops * 1e12 if found else None
