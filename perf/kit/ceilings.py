"""What the device can do at most: a large matrix product, and a copy within its memory."""

from collections.abc import Callable, Iterator

import torch

from kit.bench import Bench, close_part
from migrl.models.loading import pick_device
from migrl.report.gpu_parts import Figure, Part
from migrl.running.metering import read_clock

REPETITIONS = 10
AT_ONCE = 5  # launches between two looks at the clock, so that the device never waits for the program


def measure_ceilings(bench: Bench, attention: str, *, side: int, copied: int) -> Iterator[Part]:
    """A product of two square matrices of `side` in the recipe's number type, and a copy of `copied` bytes."""
    part = bench.describe(attention, {"side": side, "copied": copied, "repetitions": REPETITIONS})
    yield part
    dtype, device = getattr(torch, bench.recipe.model.dtype), pick_device()
    # Random numbers: products of zeros need less power, and are faster than any that a model makes.
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(left)
    seconds = time_launches(lambda: torch.matmul(left, right, out=product))
    words = f"{part.conditions.dtype} matrices of {side:,} x {side:,}"
    figures = {"matmul": Figure(what=words, seconds=seconds, flops=2.0 * side**3)}
    yield close_part(part, figures, None, complete=False)
    left = right = product = None
    source = torch.randint(256, (copied,), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = time_launches(lambda: target.copy_(source))
    figures["copy"] = Figure(what=f"{copied / 1e9:.3g} GB read and written", seconds=seconds, bytes=2.0 * copied)
    yield close_part(part, figures, None)


def time_launches(launch: Callable[[], object]) -> tuple[float, ...]:
    """Seconds of one launch, from several groups of them, after one group to warm up."""
    found = []
    for number in range(REPETITIONS + 1):
        start = read_clock()
        for _ in range(AT_ONCE):
            launch()
        if number:
            found.append((read_clock() - start) / AT_ONCE)
    return tuple(found)
