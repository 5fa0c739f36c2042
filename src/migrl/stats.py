"""Intervals: Wilson for one accuracy, a cluster bootstrap for macro averages and their paired deltas.

Questions over the same pictures are not independent, so whole image sets (clusters) are drawn, not
samples; and because a macro average weighs every task alike, they are drawn within each task. Two
arms answered the same samples, so a delta resamples their differences.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000


@dataclass(frozen=True)
class MacroInterval:
    """A macro accuracy and its bootstrap interval, in percent, over `n` samples in `clusters` image sets."""

    macro: float
    low: float
    high: float
    n: int
    clusters: int
    standard_error: float


@dataclass(frozen=True)
class DeltaInterval:
    """First minus second arm's macro accuracy and its bootstrap interval, in percentage points."""

    delta: float
    low: float
    high: float
    n: int
    clusters: int
    standard_error: float


def wilson_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion, as fractions within 0 to 1.

    Raises:
        ValueError: no trials, hits outside 0 to n, or a level outside 0 to 1.
    """
    _check_level(level)
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n} trials is no proportion: n >= 1 and 0 <= hits <= n are required")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n hits the bound is exact in theory, and a rounding error beside it in floating point.
    low = 0.0 if hits == 0 else (centre - spread) / scale
    high = 1.0 if hits == n else (centre + spread) / scale
    return low, high


def bootstrap_macro(
    hits: Sequence[bool] | npt.NDArray[np.bool_],
    tasks: Sequence[str],
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> MacroInterval:
    """Macro accuracy (unweighted mean over tasks) with its percentile interval, in percent.

    Args:
        hits, tasks, clusters: one entry a sample; a cluster id that spans tasks is one unit in each.

    Raises:
        ValueError: empty or unequal inputs, or a task with a single cluster (it has no spread to resample).
    """
    return MacroInterval(*_bootstrap(np.asarray(hits, dtype=np.int64), tasks, clusters, resamples, seed, level))


def bootstrap_macro_delta(
    first_hits: Sequence[bool] | npt.NDArray[np.bool_],
    second_hits: Sequence[bool] | npt.NDArray[np.bool_],
    tasks: Sequence[str],
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> DeltaInterval:
    """Paired difference of two arms' macro accuracies (first minus second) with its percentile interval, in points.

    Args:
        first_hits, second_hits, tasks, clusters: one entry a sample, in the same order for both arms.

    Raises:
        ValueError: as `bootstrap_macro`, or arms of different length.
    """
    first, second = np.asarray(first_hits, dtype=np.int64), np.asarray(second_hits, dtype=np.int64)
    if first.shape != second.shape:
        raise ValueError(f"the arms are not paired: {first.size} hits against {second.size}")
    return DeltaInterval(*_bootstrap(first - second, tasks, clusters, resamples, seed, level))


def normal_macro(
    values: Sequence[float] | npt.NDArray[np.float64],
    tasks: Sequence[str],
    clusters: Sequence[str],
    *,
    level: float = 0.95,
) -> MacroInterval:
    """Macro mean of values within 0 to 1 (IoUs) with its normal interval, in percent.

    The variance is that of a ratio of sums over clusters, task by task: for values that are no plain hits a
    bootstrap has no repeated patterns to save work on, and the normal interval needs none.

    Raises:
        ValueError: as `bootstrap_macro`.
    """
    _check_level(level)
    if not 0 < len(values) == len(tasks) == len(clusters):
        raise ValueError(
            f"{len(values)} values, {len(tasks)} tasks, {len(clusters)} clusters; one a sample is required"
        )
    means, variances, units = [], [], 0
    for task, sums, counts in _sum_clusters(np.asarray(values, dtype=np.float64), tasks, clusters):
        k = len(sums)
        if k < 2:
            raise ValueError(f"task {task!r} has a single cluster; at least 2 are required")
        mean = sums.sum() / counts.sum()
        means.append(mean)
        variances.append(k / (k - 1) * np.square(sums - mean * counts).sum() / counts.sum() ** 2)
        units += k
    error = math.sqrt(math.fsum(variances)) / len(means)
    centre, spread = math.fsum(means) / len(means), NormalDist().inv_cdf((1 + level) / 2) * error
    low, high = max(0.0, centre - spread), min(1.0, centre + spread)
    return MacroInterval(100 * centre, 100 * low, 100 * high, len(values), units, 100 * error)


def _bootstrap(
    values: npt.NDArray[np.int64],
    tasks: Sequence[str],
    clusters: Sequence[str],
    resamples: int,
    seed: int,
    level: float,
) -> tuple[float, float, float, int, int, float]:
    """Estimate, low and high (times 100), number of samples and of units, standard error (times 100).

    Integers up to the last division, and tasks in sorted order: the same rows in any order give the
    same result on any machine.
    """
    _check_level(level)
    if resamples < 2:
        raise ValueError(f"{resamples} resamples give no interval; at least 2 are required")
    if values.size == 0:
        raise ValueError("no samples: there is nothing to average")
    if values.ndim != 1 or not len(values) == len(tasks) == len(clusters):
        raise ValueError(f"{len(values)} hits, {len(tasks)} tasks, {len(clusters)} clusters; one a sample is required")
    generator = np.random.default_rng(seed)
    estimates, draws, units = [], [], 0
    for task, sums, counts in _sum_clusters(values, tasks, clusters):
        if len(sums) < 2:
            raise ValueError(f"task {task!r} has a single cluster; at least 2 are required to resample")
        units += len(sums)
        estimates.append(sums.sum() / counts.sum())
        # Clusters with equal sum and count are interchangeable, so it is enough to draw how often each
        # such pattern comes: the same distribution as drawing clusters one by one, at a fraction of the work.
        patterns, frequencies = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
        times = generator.multinomial(len(sums), frequencies / len(sums), size=resamples)
        draws.append((times @ patterns[:, 0]) / (times @ patterns[:, 1]))
    resampled = 100 * np.mean(draws, axis=0)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    error = np.std(resampled, ddof=1)
    return 100 * float(np.mean(estimates)), float(low), float(high), len(values), units, float(error)


def _sum_clusters(
    values: npt.NDArray[Any], tasks: Sequence[str], clusters: Sequence[str]
) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[np.int64]]]:
    """Each task in sorted order, with the sum and the number of values of each of its clusters."""
    totals: dict[str, dict[str, list[Any]]] = {}
    for value, task, cluster in zip(values.tolist(), tasks, clusters, strict=True):
        total = totals.setdefault(task, {}).setdefault(cluster, [0, 0])
        total[0] += value
        total[1] += 1
    for task in sorted(totals):
        sums, counts = zip(*totals[task].values(), strict=True)
        yield task, np.array(sums, dtype=values.dtype), np.array(counts, dtype=np.int64)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level {level} is no confidence level; it lies between 0 and 1")
