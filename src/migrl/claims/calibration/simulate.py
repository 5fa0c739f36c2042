"""One simulated pair of evaluations of a design, and its verdict by the real statistics.

Each arm has a standard normal value for every sample; it is a hit below the task's threshold. The value is made of a
part that all samples of an image set share and a part of the sample's own; in both parts the two arms are correlated,
for what is easy for one is easy for the other.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from migrl.claims.claims import Verdict, decide_verdict
from migrl.statistics.intervals import bootstrap_macro_delta
from migrl.statistics.power import Alternative, Correlation, Design

DECIMALS = 4  # verdicts are judged on numbers rounded as in claims.json
Hits = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Layout:
    """The samples of a design, one entry each: task and image set by name, and both by number."""

    tasks: list[str]
    clusters: list[str]
    task_numbers: npt.NDArray[np.int64]
    cluster_numbers: npt.NDArray[np.int64]


def lay_out(design: Design) -> Layout:
    """Samples in the order of tasks, image sets, samples of a set."""
    sizes = [
        (number, size)
        for number, task in enumerate(design.tasks.values())
        for size, count in task.sets.items()
        for _ in range(count)
    ]
    lengths = [size for _, size in sizes]
    task_numbers = np.repeat([number for number, _ in sizes], lengths)
    cluster_numbers = np.repeat(np.arange(len(sizes)), lengths)
    names = list(design.tasks)
    return Layout(
        [names[number] for number in task_numbers],
        [f"set {number}" for number in cluster_numbers],
        task_numbers,
        cluster_numbers,
    )


@dataclass(frozen=True)
class Scenario:
    """A design with a true difference in points, and how strongly the answers are correlated."""

    design: Design
    delta: float
    alternative: Alternative

    @cached_property
    def layout(self) -> Layout:
        return lay_out(self.design)

    @cached_property
    def thresholds(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return self.design.find_thresholds(self.delta)


def simulate_hits(scenario: Scenario, generator: np.random.Generator) -> tuple[Hits, Hits]:
    """Hits of the better and of the weaker arm, (samples,) each, in the order of the scenario's layout."""
    layout, correlation = scenario.layout, scenario.design.correlations[scenario.alternative]
    shared = _draw_pair(int(layout.cluster_numbers[-1]) + 1, correlation, generator)
    own = _draw_pair(len(layout.tasks), correlation, generator)
    weight = np.sqrt(correlation.samples)
    rest = np.sqrt(1 - correlation.samples)
    values = weight * shared[:, layout.cluster_numbers] + rest * own
    first, second = scenario.thresholds
    return values[0] < first[layout.task_numbers], values[1] < second[layout.task_numbers]


def _draw_pair(count: int, correlation: Correlation, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """(2, count) standard normal values, the two rows correlated as the arms are."""
    pair = generator.standard_normal((2, count))
    pair[1] = correlation.arms * pair[0] + np.sqrt(1 - correlation.arms**2) * pair[1]
    return pair


class Judged(NamedTuple):
    """What one simulated pair of runs was found to show, in points."""

    delta: float
    low: float
    high: float
    standard_error: float
    verdict: Verdict


def judge_simulated(scenario: Scenario, seed: tuple[int, ...], resamples: int) -> Judged:
    """Simulate one pair of runs and judge it by the rule that judges claims.

    Args:
        seed: of the simulation; its last number also seeds the bootstrap, so that runs do not share their resamples.
    """
    first, second = simulate_hits(scenario, np.random.default_rng(seed))
    layout = scenario.layout
    interval = bootstrap_macro_delta(first, second, layout.tasks, layout.clusters, resamples=resamples, seed=seed[-1])
    delta, low, high, error = (
        round(value, DECIMALS) for value in (interval.delta, interval.low, interval.high, interval.standard_error)
    )
    verdict, _ = decide_verdict(low, high, scenario.design.expected)
    return Judged(delta, low, high, error, verdict)
