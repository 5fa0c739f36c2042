"""Hours: FLOPs at a share of the peak, decoding at a share of the bandwidth, or tokens at a rate that was measured.

Reading a prompt and training are bound by compute, decoding by memory: every step reads the weights and the cache of
all sequences, and a batch ends with its longest completion. Time is taken to fall with the number of GPUs; loading of
weights and the network between GPUs are not counted.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.plan.assumptions import Assumptions, Efficiency
from migrl.plan.machine import Machine

HOUR = 3600.0
MEASUREMENTS = Path("rehearsal") / "measurements.json"


@dataclass(frozen=True)
class Duration:
    """Seconds of wall time from low to high on `gpus` GPUs, the formula in numbers, and what it rests on."""

    low: float
    high: float
    gpus: int
    words: str
    basis: str = "assumed"

    @property
    def hours(self) -> tuple[float, float]:
        return self.low / HOUR, self.high / HOUR

    @property
    def gpu_hours(self) -> tuple[float, float]:
        return self.low / HOUR * self.gpus, self.high / HOUR * self.gpus


@dataclass(frozen=True)
class Decoding:
    """Batches of one stage on all GPUs, steps of each from mean to limit, and bytes that a step reads."""

    batches: float
    steps: tuple[float, float]
    bytes: float


def time_compute(what: str, flops: float, share: Efficiency, machine: Machine, gpus: int) -> Duration | None:
    """Seconds for so many FLOPs; None for a device whose peak is unknown."""
    if machine.peak_flops is None:
        return None
    low, high = share.range
    ideal = flops / (machine.peak_flops * gpus)
    words = f"{what} {show_power(flops)} FLOPs / ({gpus} x {machine.peak_flops / 1e12:g} TFLOP/s x {show_share(share)})"
    return Duration(ideal / high, ideal / low, gpus, words)


def time_decoding(decoding: Decoding, share: Efficiency, machine: Machine, gpus: int) -> Duration | None:
    """Seconds to decode all batches, a GPU's share of them after each other."""
    if machine.bandwidth is None:
        return None
    low, high = share.range
    each = decoding.batches / gpus * decoding.bytes / machine.bandwidth
    short, long = decoding.steps
    words = (
        f"decoding {decoding.batches:,.0f} batches / {gpus} x {show_span(short, long)} steps x "
        f"{decoding.bytes / 1e9:.1f} GB / ({machine.bandwidth / 1e12:g} TB/s x {show_share(share)})"
    )
    return Duration(each * short / high, each * long / low, gpus, words)


def time_measured(stage: str, tokens: tuple[float, float], measured: "Measured", gpus: int) -> Duration | None:
    """Seconds for so many tokens at a rate that was measured on this kind of GPU; None if it was not."""
    entry = measured.stages.get(stage, {})
    if not entry.get("tokens_per_second"):
        return None
    rate = entry["tokens_per_second"] / entry["processes"]
    low, high = tokens
    words = f"{show_span(low, high)} tokens / ({rate:,.0f} a second, measured, x {gpus} GPUs)"
    return Duration(low / rate / gpus, high / rate / gpus, gpus, words, "measured")


def add_durations(*parts: Duration | None) -> Duration | None:
    """One after the other; None if one of them is unknown."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    words = " + ".join(part.words for part in known)
    low, high = sum(part.low for part in known), sum(part.high for part in known)
    return Duration(low, high, max(part.gpus for part in known), words)


def show_span(low: float, high: float) -> str:
    """Whole numbers from low to high."""
    return f"{low:,.0f}-{high:,.0f}" if round(low) != round(high) else f"{low:,.0f}"


def show_power(number: float) -> str:
    """Such as 1.7e18."""
    return f"{number:.1e}".replace("e+", "e")


def show_share(share: Efficiency) -> str:
    """A range of shares in percent."""
    low, high = share.range
    return f"{100 * low:.0f}-{100 * high:.0f} %"


@dataclass(frozen=True)
class Measured:
    """What was measured: the rehearsal's stages on this kind of GPU, and this recipe's own stages in an earlier run."""

    stages: dict[str, Any]
    own: dict[str, Any]
    note: str


def read_measured(results: Path, recipe: dict[str, Any], machine: Machine, assumptions: Assumptions) -> Measured:
    """Look for measurements that hold for this plan below `results`; `recipe` is the recipe as JSON data.

    Raises:
        UserError: a file of measurements that is broken.
    """
    stages: dict[str, Any] = {}
    note = f"no {MEASUREMENTS.as_posix()} below {results}: nothing was measured on a GPU"
    path = results / MEASUREMENTS
    if path.is_file():
        data = _read(path)
        kind = assumptions.find_gpu(data["device"])
        if data.get("not_run") or kind is None or machine.kind is None or kind[0] != machine.kind[0]:
            note = f"{path}: measured on {data['device']}, not on {machine.device}, so not used"
        else:
            stages, note = data["stages"], f"{path}: measured on {data['device']}"
    run = results / recipe["name"] / "manifest.json"
    own: dict[str, Any] = {}
    if run.is_file() and agrees(_read(run)["settings"], recipe):
        own = _read(run)["stages"]
    return Measured(stages, own, note)


def agrees(old: Any, new: Any) -> bool:
    """Whether settings of an earlier run are these, as far as both have a key: keys are added with time."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(agrees(value, new[key]) for key, value in old.items() if key in new)
    return bool(old == new)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it, or restore it from the repository") from error
