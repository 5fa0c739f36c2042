"""The heat map: every task by arm, and what one arm gained over another in each pair that the claims name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from migrl.report.outcomes import Answers, Outcome, count_outcomes
from migrl.statistics.intervals import DeltaInterval, bootstrap_macro_delta, bootstrap_over_seeds

Pair = tuple[str, str]
"""Two arms: minuend and subtrahend."""

RESAMPLES = 4000  # a cell is shown with one decimal; its interval decides nothing


@dataclass(frozen=True)
class TaskDelta:
    """Difference of two arms on one task in percentage points; bounds are None where nothing can be resampled."""

    delta: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class HeatLine:
    """One task. `cells` maps an arm to its entry in scores.json, `deltas` a pair of arms to their difference.

    A difference is None where an arm did not answer all samples; `outcomes` counts the samples.
    """

    benchmark: str
    task: str
    n: int
    cells: Mapping[str, Mapping[str, Any]]
    deltas: Mapping[Pair, TaskDelta | None]
    outcomes: Mapping[Outcome, int]


def list_pairs(claims: Iterable[Mapping[str, Any]], arms: Sequence[str], before: str, after: str) -> list[Pair]:
    """The pairs of arms to measure: the one that outcomes compare, then those of the claims; all of `arms`."""
    named = [(claim.get("minuend", ""), claim.get("subtrahend", "")) for claim in claims]
    pairs = dict.fromkeys([(after, before), *named])
    return [(first, second) for first, second in pairs if first in arms and second in arms and first != second]


def build_heat(
    samples: Sequence[Answers], scores: Mapping[str, Any], arms: Sequence[str], pairs: Sequence[Pair]
) -> list[HeatLine]:
    """One line per task, by benchmark, in the order of the samples.

    Args:
        samples: every sample that was evaluated.
        scores: arm -> benchmark -> score (scores.json); accuracies are read from it, in percent.
        pairs: the arms whose differences are measured, as (minuend, subtrahend).
    """
    by_task: dict[tuple[str, str], list[Answers]] = {}
    for answers in samples:
        by_task.setdefault(answers.key, []).append(answers)
    lines = []
    for (benchmark, task), outcomes in count_outcomes(samples).items():
        some = by_task[benchmark, task]
        cells = {arm: scores.get(arm, {}).get(benchmark, {}).get("tasks", {}).get(task) for arm in arms}
        known = {arm: cell for arm, cell in cells.items() if cell is not None}
        deltas = {(after, before): measure_task(some, before, after) for after, before in pairs}
        lines.append(HeatLine(benchmark, task, len(some), known, deltas, outcomes))
    return lines


def measure_task(samples: Sequence[Answers], before: str, after: str) -> TaskDelta | None:
    """The difference on one task, paired by sample; None where an arm did not answer all of its samples.

    With several training seeds the interval is over seeds and samples.
    """
    runs = {arm: _stack_hits(samples, arm) for arm in (before, after)}
    first, second = runs[after], runs[before]
    if first is None or second is None:
        return None
    seeds = max(len(first), len(second))
    if min(len(first), len(second)) not in (1, seeds):
        return None
    first, second = (np.broadcast_to(hits, (seeds, len(samples))) for hits in (first, second))
    clusters = [answers.sample.cluster for answers in samples]
    if len(set(clusters)) < 2:
        return TaskDelta(100 * float(first.mean() - second.mean()), None, None, len(samples))
    measured = _measure(first, second, clusters)
    return TaskDelta(measured.delta, measured.low, measured.high, len(samples))


def _measure(first: Any, second: Any, clusters: Sequence[str]) -> DeltaInterval:
    tasks = ["task"] * len(clusters)
    if len(first) == 1:
        return bootstrap_macro_delta(first[0], second[0], tasks, clusters, resamples=RESAMPLES)
    return bootstrap_over_seeds(first, second, tasks, clusters, resamples=RESAMPLES)


def _stack_hits(samples: Iterable[Answers], arm: str) -> Any:
    """(seeds, samples) hits of one arm; None if it did not answer every sample equally often."""
    hits = [[row.score.hit for row in answers.rows if row.arm == arm] for answers in samples]
    if len({len(one) for one in hits}) != 1 or not hits[0]:
        return None
    return np.array(hits).T
