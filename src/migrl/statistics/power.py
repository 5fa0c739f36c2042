"""What a benchmark of a given size can show: designs as data, their standard errors, and the power that follows.

A design (`reproduce/designs.yaml`) says how many samples and image sets each task has, how good the weaker arm is, and
how strongly the answers are correlated. From it follows the standard error of the difference of two arms, before
anything was run; from a standard error, measured or predicted, follows what can be shown.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from migrl.files import ROOT, Strict
from migrl.yaml_file import load_model

DESIGNS_FILE = ROOT / "reproduce" / "designs.yaml"
SHOWN = 0.95  # the share of runs in which an effect has to be shown for a benchmark to be able to show it
Alternative = Literal["low", "stated", "high"]
Reals = npt.NDArray[np.float64]

_DECIMALS = 4
Z = float(ndtri(0.975))  # of the two-sided 95 % interval that verdicts read
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(48)
_MOST_STEP = 16.0  # on the normal scale: more than any accuracy within 0 and 1 needs

_Count = Annotated[int, Field(ge=1)]
_Points = Annotated[float, Field(gt=0, lt=100)]
_Text = Annotated[str, Field(min_length=1)]


class TaskDesign(Strict):
    """One task: size of an image set -> number of such sets, and the weaker arm's accuracy (a share)."""

    sets: dict[_Count, _Count]
    accuracy: Annotated[float, Field(gt=0, lt=1)]

    @model_validator(mode="after")
    def _check_sets(self) -> "TaskDesign":
        if sum(self.sets.values()) < 2:
            raise ValueError("a task needs at least 2 image sets to have an interval")
        return self


class Correlation(Strict):
    """On the normal scale that hits are cut from: of two arms on a sample, and of one arm on two samples of a set."""

    arms: Annotated[float, Field(gt=-1, lt=1)]
    samples: Annotated[float, Field(ge=0, lt=1)]


class Sources(Strict):
    """Where the numbers of a design are from."""

    sizes: _Text
    sets: _Text
    accuracies: _Text
    correlations: _Text


class Design(Strict):
    """The benchmark of one claim as the simulation sees it.

    Either `expected` is the claimed difference, or only the direction is claimed and `supposed` is the true difference
    that power is asked for; both in points of the macro average over `tasks` ("benchmark/task").
    """

    expected: _Points | None = None
    supposed: _Points | None = None
    tasks: Annotated[dict[_Text, TaskDesign], Field(min_length=1)]
    correlations: dict[Alternative, Correlation]
    sources: Sources

    @model_validator(mode="after")
    def _check_whole(self) -> "Design":
        if (self.expected is None) == (self.supposed is None):
            raise ValueError("give `expected` (a claimed difference) or `supposed` (only a direction is claimed)")
        if missing := [name for name in ("low", "stated", "high") if name not in self.correlations]:
            raise ValueError(f"correlations: {missing[0]!r} is missing")
        best = 100 * float(np.mean(1 - self.accuracies))
        if self.full_delta >= best:
            raise ValueError(f"a difference of {self.full_delta:g}: the weaker arm leaves room for {best:.1f} points")
        return self

    @property
    def full_delta(self) -> float:
        """The true difference, in points, that the benchmark is asked to show."""
        delta = self.supposed if self.expected is None else self.expected
        assert delta is not None
        return delta

    @property
    def accuracies(self) -> Reals:
        """The weaker arm's accuracy in each task, shares."""
        return np.array([task.accuracy for task in self.tasks.values()])

    @property
    def benchmarks(self) -> set[str]:
        """Names of the benchmarks that its tasks belong to."""
        return {name.split("/")[0] for name in self.tasks}

    @property
    def n(self) -> int:
        return sum(size * count for task in self.tasks.values() for size, count in task.sets.items())

    @property
    def clusters(self) -> int:
        return sum(sum(task.sets.values()) for task in self.tasks.values())

    def find_thresholds(self, delta: float) -> tuple[Reals, Reals]:
        """(better arm, weaker arm): a standard normal value below a task's threshold is a hit; (tasks,) each.

        The better arm's lie one step above the weaker arm's in every task, such that the macro averages differ by
        `delta` points.
        """
        weak = ndtri(self.accuracies)

        def miss(step: float) -> float:
            return 100 * float(np.mean(ndtr(weak + step) - self.accuracies)) - delta

        step = float(brentq(miss, 0.0, _MOST_STEP, xtol=1e-12)) if delta else 0.0
        return weak + step, weak

    def predict_standard_error(self, delta: float, alternative: Alternative = "stated") -> float:
        """Standard error, in points, of the measured difference of two arms whose true one is `delta` points.

        With m_j samples in image set j, n in all, v the variance of a sample's difference of hits and c the covariance
        of two samples' of one set, a task's difference has the variance (n v + c * sum of m_j (m_j - 1)) / n^2.
        Tasks are independent, and a macro average counts them alike.
        """
        correlation = self.correlations[alternative]
        first, second = self.find_thresholds(delta)
        cross = correlation.arms * correlation.samples
        single = _compute_difference_covariance(first, second, None, correlation.arms)
        shared = _compute_difference_covariance(first, second, correlation.samples, cross)
        sizes = [task.sets.items() for task in self.tasks.values()]
        n = np.array([sum(size * count for size, count in sets) for sets in sizes], dtype=float)
        pairs = np.array([sum(size * (size - 1) * count for size, count in sets) for sets in sizes], dtype=float)
        variances = (n * single + pairs * shared) / n**2
        return 100 * math.sqrt(math.fsum(variances)) / len(variances)


class _DesignsFile(Strict):
    designs: dict[_Text, Design]


def load_designs(path: Path = DESIGNS_FILE) -> Mapping[str, Design]:
    """Every design by the id of its claim.

    Raises:
        UserError: the file is missing, is no YAML, or breaks a design's form (the key is named).
    """
    return load_model(path, _DesignsFile).designs


def measure_power(standard_error: float, expected: float | None) -> dict[str, Any]:
    """What can be shown with a standard error of s points, by the rule of `claims.decide_verdict`.

    The measured difference d is taken as normal around the true one D with deviation s, its interval as d +- z s with
    z = 1.96.

        detectable  The interval lies above 0 if d > z s. That has the probability Phi(D / s - z), which is 95 % at
                    D = (1.96 + 1.645) s = 3.60 s.
        claimed     "reproduced" asks for d > z s and d + z s >= e, e the claim. That has the probability
                    Phi((D - max(z s, e - z s)) / s); if the claim is exactly true, Phi(min(e / s - z, z)), which is
                    at most 97.5 %.

    Returns:
        standard_error and detectable, in points; claimed, a probability, None where no number is claimed.

    Raises:
        ValueError: a standard error that is negative or no number.
    """
    _check_error(standard_error)
    claimed = None if expected is None else round(predict_reproduced(expected, standard_error, expected), _DECIMALS)
    return {
        "standard_error": round(standard_error, _DECIMALS),
        "detectable": round((Z + float(ndtri(SHOWN))) * standard_error, _DECIMALS),
        "claimed": claimed,
    }


def predict_reproduced(delta: float, standard_error: float, expected: float | None) -> float:
    """Probability of "reproduced" at a true difference of `delta` points, as derived in `measure_power`.

    Raises:
        ValueError: as `measure_power`.
    """
    _check_error(standard_error)
    if standard_error == 0:
        return float(delta > 0 and delta >= (expected or 0.0))
    least = max(Z * standard_error, (expected or 0.0) - Z * standard_error)
    return float(ndtr((delta - least) / standard_error))


def _check_error(standard_error: float) -> None:
    if not (standard_error >= 0 and math.isfinite(standard_error)):
        raise ValueError(f"{standard_error} is no standard error; it is finite and not negative")


def plan_power(design: Design, expected: float | None) -> dict[str, Any]:
    """What a benchmark can show of a claim, from its design alone: as `measure_power`, at the claimed difference."""
    return measure_power(design.predict_standard_error(expected or 0.0), expected)


def compute_hit_covariance(first: Reals, second: Reals, correlation: float) -> Reals:
    """Covariance of two hits: of P(X < first, Y < second) and its value without correlation, elementwise.

    X and Y are standard normal. By Plackett's identity the derivative of that probability by the correlation is the
    density at the thresholds; it is integrated by Gauss and Legendre.
    """
    h, k = first[..., None], second[..., None]
    r = correlation * (_NODES + 1) / 2
    rest = 1 - r**2
    density = np.exp(-(h * h - 2 * r * h * k + k * k) / (2 * rest)) / (2 * np.pi * np.sqrt(rest))
    return np.asarray(correlation / 2 * (density @ _NODE_WEIGHTS))


def _compute_difference_covariance(first: Reals, second: Reals, within: float | None, across: float) -> Reals:
    """Covariance of (first - second arm's hit) on two samples; `within` None: both are the same sample.

    Args:
        within, across: correlation of one arm, and of the two arms, on these samples.
    """
    if within is None:
        own = ndtr(first) * ndtr(-first) + ndtr(second) * ndtr(-second)
    else:
        own = compute_hit_covariance(first, first, within) + compute_hit_covariance(second, second, within)
    return np.asarray(own - 2 * compute_hit_covariance(first, second, across))
