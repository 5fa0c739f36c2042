"""Hours: FLOPs at a share of the peak, decoding at a share of the bandwidth, or tokens at a rate that was measured.

Reading a prompt and training are bound by compute, decoding by memory: every step reads the weights and the cache of
all sequences, and a batch ends with its longest completion. Time is taken to fall with the number of GPUs; loading of
weights and the network between GPUs are not counted.
"""

from dataclasses import dataclass

from migrl.plan.assumptions import Efficiency
from migrl.plan.machine import Machine
from migrl.plan.measured import Measured

HOUR = 3600.0


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
    return Duration(ideal / high, ideal / low, gpus, words, share.basis)


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
    return Duration(each * short / high, each * long / low, gpus, words, share.basis)


def time_measured(stage: str, tokens: tuple[float, float], measured: Measured, gpus: int) -> Duration | None:
    """Seconds for so many tokens at a rate that was measured on this kind of GPU; None if it was not."""
    entry = measured.stages.get(stage)
    if entry is None or not entry.tokens_per_second:
        return None
    rate = entry.tokens_per_second / entry.processes
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
    basis = "measured" if all(part.basis == "measured" for part in known) else "assumed"
    return Duration(low, high, max(part.gpus for part in known), words, basis)


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
