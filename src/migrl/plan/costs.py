"""Hours by formulas: FLOPs at a share of the peak, and decoding at a share of the bandwidth.

FLOPs are those of models/flops.py, which a measured MFU counts too. Time is taken to fall with the number of GPUs;
loading of weights and the network between GPUs are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migrl.models.flops import Forward, count_forward, count_vision
from migrl.models.shapes import ModelShape, count_kv_bytes, count_lora_parameters, count_parameters
from migrl.plan.assumptions import Efficiency
from migrl.plan.lengths import Length
from migrl.plan.machine import Machine
from migrl.plan.work import show_span


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
        return self.low / 3600, self.high / 3600

    @property
    def gpu_hours(self) -> tuple[float, float]:
        return self.hours[0] * self.gpus, self.hours[1] * self.gpus


def count_pass(shape: ModelShape, prompt: Length, completion: int, rank: int, packed: int = 1) -> Forward:
    """FLOPs of one forward pass over a prompt and `packed` completions, or the first token of each."""
    lengths, shared = [round(prompt.tokens + completion)] * packed, [round(prompt.tokens)] * (packed - 1)
    forward = count_forward(shape, lengths, packed * (completion or 1), [], lora_rank=rank, shared=shared)
    return replace(forward, vision=prompt.images * count_vision(shape, round(prompt.patches / prompt.images)))


def count_step(shape: ModelShape, prompt: Length, sequences: float, completion: int, rank: int) -> float:
    """Bytes that a step reads in bfloat16: weights without embeddings and vision tower, adapters, half-grown caches."""
    parameters = count_parameters(shape)
    weights = parameters.layers + (parameters.head or parameters.embedding) + count_lora_parameters(shape, rank)
    return weights * 2 + sequences * (prompt.tokens + completion / 2) * count_kv_bytes(shape, 2)


def time_compute(what: str, flops: float, share: Efficiency, machine: Machine, gpus: int) -> Duration | None:
    """Seconds for so many FLOPs; None for a device whose peak is unknown."""
    if machine.kind is None:
        return None
    tflops = machine.kind[1].tflops
    power, ideal = f"{flops:.1e}".replace("e+", "e"), flops / (tflops * 1e12 * gpus)
    return share_peak(f"{what} {power} FLOPs / ({gpus} x {tflops:g} TFLOP/s", (ideal, ideal), share, gpus)


def time_decoding(
    batches: float, steps: tuple[float, float], read: float, share: Efficiency, machine: Machine, gpus: int
) -> Duration | None:
    """Seconds to decode all batches, a GPU's share of them after each other; `read` are the bytes that a step reads."""
    if machine.kind is None:
        return None
    bandwidth, (short, long) = machine.kind[1].bandwidth_gb, steps
    each = batches / gpus * read / (bandwidth * 1e9)
    words = f"decoding {batches:,.0f} batches / {gpus} x {show_span(steps)} steps x {read / 1e9:.1f} GB / "
    return share_peak(f"{words}({bandwidth / 1e3:g} TB/s", (each * short, each * long), share, gpus)


def share_peak(words: str, ideal: tuple[float, float], share: Efficiency, gpus: int) -> Duration:
    """The seconds that work takes at a share of a peak that would do it in `ideal`."""
    low, high = share.range
    words = f"{words} x {100 * low:.0f}-{100 * high:.0f} %)"
    return Duration(ideal[0] / high, ideal[1] / low, gpus, words, share.basis)


def add_durations(parts: Sequence[Duration | None]) -> Duration | None:
    """One after the other; None if one of them is unknown."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    basis = "measured" if all(part.basis == "measured" for part in known) else "assumed"
    low, high, gpus = sum(part.low for part in known), sum(part.high for part in known), known[0].gpus
    return Duration(low, high, gpus, " + ".join(part.words for part in known), basis)


def take_longer(one: Duration | None, other: Duration | None) -> Duration | None:
    """Both at the same time, in the words of the longer; None if one of them is unknown."""
    if one is None or other is None:
        return None
    longer = max(one, other, key=lambda part: part.high)
    return replace(longer, low=max(one.low, other.low))
