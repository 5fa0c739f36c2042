"""How strongly answers are correlated, measured on hits: what the designs' correlations are taken from.

The measured covariances of hits are those of normal values cut at each task's accuracy; the correlation that gives
them, pooled over tasks, is found by solving for it (a tetrachoric correlation by moments).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri

from migrl.statistics.power import compute_hit_covariance

_LARGEST = 0.999


@dataclass(frozen=True)
class Correlations:
    """Of two arms on one sample (`arms`); of one arm on two samples of an image set (`first`, `second`); of two arms
    on two samples of a set (`across`). None where no image set has two samples."""

    arms: float | None
    first: float | None
    second: float | None
    across: float | None


def measure_correlations(
    first_hits: Sequence[bool] | npt.NDArray[np.bool_],
    second_hits: Sequence[bool] | npt.NDArray[np.bool_],
    tasks: Sequence[str],
    clusters: Sequence[str],
) -> Correlations:
    """Correlations on the normal scale. Tasks that an arm gets all right or all wrong say nothing and are left out.

    Args:
        first_hits, second_hits, tasks, clusters: one entry a sample, in the same order for both arms.
    """
    # Of each kind of pair: number of pairs, thresholds of both members, and the sum of products of deviations.
    kinds: dict[str, list[tuple[float, float, float, float]]] = {"arms": [], "first": [], "second": [], "across": []}
    hits = np.array([first_hits, second_hits], dtype=float)
    names, sets = np.array(tasks), np.array(clusters)
    for task in sorted(set(tasks)):
        chosen = hits[:, names == task]
        n = chosen.shape[1]
        rates = chosen.mean(axis=1)
        if n < 2 or not np.all((rates > 0) & (rates < 1)):
            continue
        h, k = ndtri(rates)
        off = chosen - rates[:, None]
        # The sample's own mean takes one degree of freedom from a covariance.
        kinds["arms"].append((n, h, k, float((off[0] * off[1]).sum()) * n / (n - 1)))
        _, numbers, sizes = np.unique(sets[names == task], return_inverse=True, return_counts=True)
        pairs = float((sizes * (sizes - 1)).sum())
        if not pairs:
            continue
        sums = np.array([np.bincount(numbers, weights=row) for row in off])
        for kind, (a, b) in {"first": (0, 0), "second": (1, 1), "across": (0, 1)}.items():
            product = float((sums[a] * sums[b]).sum() - (off[a] * off[b]).sum())
            kinds[kind].append((pairs, (h, k)[a], (h, k)[b], product))
    return Correlations(**{kind: _solve(terms) for kind, terms in kinds.items()})


def _solve(terms: list[tuple[float, float, float, float]]) -> float | None:
    """The correlation at which the expected sum of products is the measured one."""
    if not terms:
        return None
    counts, first, second, products = (np.array(column) for column in zip(*terms, strict=True))

    def miss(correlation: float) -> float:
        return float((counts * compute_hit_covariance(first, second, correlation)).sum() - products.sum())

    return _find_root(miss)


def _find_root(miss: Callable[[float], float]) -> float:
    """Where an increasing function is 0, in the range of correlations; its end where answers agree still more."""
    if miss(-_LARGEST) > 0:
        return -_LARGEST
    if miss(_LARGEST) < 0:
        return _LARGEST
    return float(brentq(miss, -_LARGEST, _LARGEST))
