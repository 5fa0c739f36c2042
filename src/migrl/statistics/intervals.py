"""Intervals: Wilson's for one accuracy, a cluster bootstrap for macro averages and their paired deltas.

Questions over the same pictures are not independent, so whole image sets (clusters) are drawn, not
samples; and because a macro average weighs every task alike, they are drawn within each task. Two
arms answered the same samples, so a delta resamples their differences.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from migrl.statistics.bootstrap import measure_ratio, resample_clusters, sum_clusters

RESAMPLES = 10_000
LEVEL = 0.95


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
    """First minus second arm's average accuracy and its interval, in percentage points.

    `inner_low` and `inner_high` are the 90 % interval, which two one-sided tests at 5 % read; `p_value` is that of no
    difference, two-sided.
    """

    delta: float
    low: float
    high: float
    n: int
    clusters: int
    standard_error: float
    p_value: float
    inner_low: float
    inner_high: float


def wilson_interval(hits: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a proportion, as fractions within 0 to 1; a hit may count in part.

    Raises:
        ValueError: no trials, or hits outside 0 to n.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"{hits} hits of {n} trials is no proportion: n >= 1 and 0 <= hits <= n are required")
    return _reach_wilson(hits / n, n, NormalDist().inv_cdf((1 + level) / 2))


def wilson_over_clusters(hits: Sequence[bool] | npt.NDArray[np.bool_], clusters: Sequence[str]) -> tuple[float, float]:
    """Wilson's interval of a proportion whose samples come in clusters, as fractions within 0 to 1.

    It is that of as many independent samples as would vary like the k clusters do, with Student's t of k - 1 degrees of
    freedom. Clusters that all have the same share of hits show no variation: each then counts as one sample. In
    simulations (5 to 85 clusters of 2 to 5, shares of 2 to 50 %, correlations of 0 to 0.8) 93.5 % of the intervals and
    more hold the truth; of percentile bootstrap intervals 86 % near 0, of Wilson's over samples 59 %.

    Args:
        hits, clusters: one entry per sample.

    Raises:
        ValueError: no samples, or unequal inputs.
    """
    ((_, sums, counts),) = sum_clusters(np.asarray(hits, dtype=np.int64), ["all"] * len(hits), clusters)
    k, hit, n = len(sums), int(sums.sum()), int(counts.sum())
    spread = int(np.square(sums * n - hit * counts).sum())  # times n squared: whole numbers, so that 0 is 0
    if spread == 0:
        return wilson_interval(hit * k / n, k)
    independent = hit * (n - hit) * n**2 * (k - 1) / (k * spread)
    return _reach_wilson(hit / n, max(1.0, independent), float(stdtrit(k - 1, (1 + LEVEL) / 2)))


def _reach_wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    square = quantile * quantile
    centre = share + square / (2 * n)
    spread = quantile * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    scale = 1 + square / n
    # At 0 and 1 the bound is exact in theory, and a rounding error beside it in floating point.
    low = 0.0 if share == 0 else (centre - spread) / scale
    high = 1.0 if share == 1 else (centre + spread) / scale
    return low, high


def bootstrap_macro(
    hits: Sequence[bool] | npt.NDArray[np.bool_],
    tasks: Sequence[str],
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MacroInterval:
    """Macro accuracy (unweighted mean over tasks) with its percentile interval, in percent.

    Args:
        hits, tasks, clusters: one entry per sample; a cluster id that spans tasks is one unit in each.

    Raises:
        ValueError: empty or unequal inputs, or a task with a single cluster (it has no spread to resample).
    """
    drawn = resample_clusters(np.asarray(hits, dtype=np.int64), tasks, clusters, None, resamples, seed)
    low, high = drawn.compute_interval(LEVEL)
    return MacroInterval(drawn.estimate, low, high, len(hits), drawn.units, drawn.error)


def bootstrap_macro_delta(
    first_hits: Sequence[bool] | npt.NDArray[np.bool_],
    second_hits: Sequence[bool] | npt.NDArray[np.bool_],
    tasks: Sequence[str],
    clusters: Sequence[str],
    *,
    weights: Mapping[str, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> DeltaInterval:
    """Paired difference of two arms' average accuracies (first minus second) with its percentile interval, in points.

    Args:
        first_hits, second_hits, tasks, clusters: one entry per sample, in the same order for both arms.
        weights: what each task counts in the average; all alike unless given.

    Raises:
        ValueError: as `bootstrap_macro`, or arms of different length.
    """
    first, second = np.asarray(first_hits, dtype=np.int64), np.asarray(second_hits, dtype=np.int64)
    if first.shape != second.shape:
        raise ValueError(f"the arms are not paired: {first.size} hits against {second.size}")
    drawn = resample_clusters(first - second, tasks, clusters, weights, resamples, seed)
    low, high = drawn.compute_interval(level)
    inner_low, inner_high = drawn.compute_interval(0.9)
    return DeltaInterval(
        drawn.estimate, low, high, len(first), drawn.units, drawn.error, drawn.read_p_value(), inner_low, inner_high
    )


def bootstrap_over_seeds(
    first_hits: npt.NDArray[np.bool_],
    second_hits: npt.NDArray[np.bool_],
    tasks: Sequence[str],
    clusters: Sequence[str],
    *,
    weights: Mapping[str, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> DeltaInterval:
    """The delta of a recipe that was trained with k seeds, its interval over seeds and samples, both resampled.

    With samples of variance I, seeds of variance S and their interaction X (of one run's delta), the mean of k runs has
    the variance I + (S + X) / k. The spread of the runs estimates S + X; the bootstrap of one run I + X; that of the
    mean I + X / k; the last two give X. Each part gets the quantile of its own certainty: squared, half the width is
    z^2 I + t^2 (S + X) / k, with the normal z and Student's t of k - 1 degrees of freedom (a modified large-sample
    interval), and never less than samples alone give. So it holds where seeds differ much; where they hardly differ,
    few seeds cannot show that, and it is wide.

    Args:
        first_hits, second_hits: (k, n), one row a training seed, k >= 2; a second arm without training repeats its row.
        tasks, clusters, weights: as `bootstrap_macro_delta`.

    Raises:
        ValueError: as `bootstrap_macro_delta`, or fewer than two seeds.
    """
    k = len(first_hits)
    if k < 2:
        raise ValueError(f"{k} runs have no spread; at least 2 training seeds are required")

    def measure(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> DeltaInterval:
        return bootstrap_macro_delta(first, second, tasks, clusters, weights=weights, resamples=resamples, seed=seed)

    runs = [measure(first, second) for first, second in zip(first_hits, second_hits, strict=True)]
    total = measure(np.sum(first_hits, axis=0), np.sum(second_hits, axis=0))
    delta, of_mean = total.delta / k, (total.standard_error / k) ** 2
    of_one = float(np.mean([run.standard_error**2 for run in runs]))
    spread = float(np.var([run.delta for run in runs], ddof=1))
    interaction = max(0.0, (of_one - of_mean) * k / (k - 1))
    of_samples = max(0.0, of_mean - interaction / k)

    def reach(p_value: float) -> float:
        z, t = float(ndtri(p_value / 2)), float(stdtrit(k - 1, p_value / 2))
        return math.sqrt(max(z * z * of_mean, z * z * of_samples + t * t * spread / k))

    wide, inner = reach(1 - LEVEL), reach(0.1)
    error = math.sqrt(of_mean + max(0.0, spread - interaction) / k)
    p_value = 1.0
    if delta:
        least = 1e-12
        p_value = least if reach(least) < abs(delta) else float(brentq(lambda p: reach(p) - abs(delta), least, 1.0))
    return DeltaInterval(
        delta, delta - wide, delta + wide, total.n, total.clusters, error, p_value, delta - inner, delta + inner
    )


def adjust_for_many(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment: p-values that keep their meaning although several claims are judged together."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def normal_macro(
    values: Sequence[float] | npt.NDArray[np.float64], tasks: Sequence[str], clusters: Sequence[str]
) -> MacroInterval:
    """Macro mean of values within 0 to 1 (IoUs) with its normal interval, in percent.

    The variance is that of a ratio of sums over clusters, task by task: for values that are no plain hits a
    bootstrap has no repeated patterns to save work on, and the normal interval needs none.

    Raises:
        ValueError: as `bootstrap_macro`.
    """
    means, variances, units = [], [], 0
    for task, sums, counts in sum_clusters(np.asarray(values, dtype=np.float64), tasks, clusters):
        mean, variance = measure_ratio(task, sums, counts)
        means.append(mean)
        variances.append(variance)
        units += len(sums)
    error = math.sqrt(math.fsum(variances)) / len(means)
    centre, spread = math.fsum(means) / len(means), NormalDist().inv_cdf((1 + LEVEL) / 2) * error
    low, high = max(0.0, centre - spread), min(1.0, centre + spread)
    return MacroInterval(100 * centre, 100 * low, 100 * high, len(values), units, 100 * error)
