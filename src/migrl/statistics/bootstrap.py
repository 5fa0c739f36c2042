"""Resampling image sets: the cluster bootstrap that every interval of a macro average stands on."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr, stdtrit


@dataclass(frozen=True)
class Resampled:
    """An estimate, its (resamples,) values from resampled clusters, both times 100, and what they are short of.

    Resampling k clusters spreads as the k do, not as their population: its variance is short by (k - 1) / k, and it
    does not know that a spread of k is itself uncertain. `factor` is what the deviation lacks, `freedom` the degrees of
    freedom over all tasks; with them the ends of an interval move outwards (the expanded percentile interval of
    T. C. Hesterberg, What Teachers Should Know About the Bootstrap, 2015).
    """

    estimate: float
    values: npt.NDArray[np.float64]
    units: int
    factor: float
    freedom: float

    @property
    def error(self) -> float:
        """Standard error."""
        return self.factor * float(np.std(self.values, ddof=1))

    def compute_interval(self, level: float) -> tuple[float, float]:
        """Both ends of the interval."""
        tail = float(ndtr(self.factor * stdtrit(self.freedom, (1 - level) / 2)))
        low, high = np.quantile(self.values, [tail, 1 - tail])
        return float(low), float(high)

    def read_p_value(self) -> float:
        """Two-sided p of no difference: below 1 - level where that interval excludes 0, up to one resample."""
        rarer = min(int(np.sum(self.values <= 0)), int(np.sum(self.values >= 0)))
        share = min(0.5, (rarer + 1) / (len(self.values) + 1))
        return 2 * float(stdtr(self.freedom, ndtri(share) / self.factor))


def resample_clusters(
    values: npt.NDArray[np.int64],
    tasks: Sequence[str],
    clusters: Sequence[str],
    weights: Mapping[str, float] | None,
    resamples: int,
    seed: int,
) -> Resampled:
    """Resample clusters within each task.

    Integers up to the last division, and tasks in sorted order: the same rows in any order give the
    same result on any machine.
    """
    if resamples < 2:
        raise ValueError(f"{resamples} resamples give no interval; at least 2 are required")
    generator = np.random.default_rng(seed)
    names, estimates, draws, variances, sizes = [], [], [], [], []
    for task, sums, counts in sum_clusters(values, tasks, clusters):
        k = len(sums)
        mean, variance = measure_ratio(task, sums, counts)
        names.append(task)
        sizes.append(k)
        estimates.append(mean)
        variances.append(variance)
        # Clusters with equal sum and count are interchangeable, so it is enough to draw how often each
        # such pattern comes: the same distribution as drawing clusters one by one, at a fraction of the work.
        patterns, frequencies = np.unique(np.stack([sums, counts], axis=1), axis=0, return_counts=True)
        times = generator.multinomial(k, frequencies / k, size=resamples)
        draws.append((times @ patterns[:, 0]) / (times @ patterns[:, 1]))
    shares = np.full(len(names), 1 / len(names))
    if weights is not None:
        if missing := [name for name in names if name not in weights]:
            raise ValueError(f"task {missing[0]!r} has no weight; one per task is required")
        shares = np.array([weights[name] for name in names])
        shares /= shares.sum()
    estimate = 100 * float(np.sum(shares * np.array(estimates)))
    resampled = 100 * np.sum(shares[:, None] * np.array(draws), axis=0)
    parts, k_tasks = shares**2 * np.array(variances), np.array(sizes)
    if not parts.any():
        return Resampled(estimate, resampled, sum(sizes), 1.0, math.inf)
    factor = math.sqrt(parts.sum() / (parts * (k_tasks - 1) / k_tasks).sum())
    freedom = parts.sum() ** 2 / (parts**2 / (k_tasks - 1)).sum()
    return Resampled(estimate, resampled, sum(sizes), factor, float(freedom))


def find_single_cluster_tasks(tasks: Sequence[str], clusters: Sequence[str]) -> list[str]:
    """Tasks with a single cluster, by name: there is nothing to resample, so they have no interval."""
    counts = Counter(task for task, _ in set(zip(tasks, clusters, strict=True)))
    return sorted(task for task, count in counts.items() if count < 2)


def sum_clusters(
    values: npt.NDArray[Any], tasks: Sequence[str], clusters: Sequence[str]
) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[np.int64]]]:
    """Each task in sorted order, with the sum and the number of values of each of its clusters.

    Raises:
        ValueError: no values, or not one task and one cluster per value.
    """
    if not len(values):
        raise ValueError("no samples: there is nothing to average")
    if not len(values) == len(tasks) == len(clusters):
        raise ValueError(
            f"{len(values)} hits, {len(tasks)} tasks, {len(clusters)} clusters; one per sample is required"
        )
    totals: dict[str, dict[str, list[Any]]] = {}
    for value, task, cluster in zip(values.tolist(), tasks, clusters, strict=True):
        total = totals.setdefault(task, {}).setdefault(cluster, [0, 0])
        total[0] += value
        total[1] += 1
    for task in sorted(totals):
        sums, counts = zip(*totals[task].values(), strict=True)
        yield task, np.array(sums, dtype=values.dtype), np.array(counts, dtype=np.int64)


def measure_ratio(task: str, sums: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> tuple[float, float]:
    """The mean over a task's values, as a ratio of sums over its clusters, and the variance of that ratio.

    Raises:
        ValueError: a single cluster, which has no spread.
    """
    k = len(sums)
    if k < 2:
        raise ValueError(f"task {task!r} has a single cluster; at least 2 are required to resample")
    mean = sums.sum() / counts.sum()
    return mean, k / (k - 1) * np.square(sums - mean * counts).sum() / counts.sum() ** 2
