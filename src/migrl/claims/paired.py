"""Two arms paired sample by sample, as a scope reads their rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from migrl.claims.claims import Scope
from migrl.grounding.samples import ChoiceTarget, Sample
from migrl.scoring.comparable import ComparableRows
from migrl.scoring.official import has_rule
from migrl.scoring.rows import EvaluationRow
from migrl.statistics.bootstrap import find_single_cluster_tasks


@dataclass(frozen=True)
class Pairs:
    """The n samples that two arms are compared on.

    `first` and `second` are the hits of minuend and subtrahend, (seeds, n). `strata` are what the average runs over,
    with `weights` (None: all alike), and `clusters` the image sets. `left_out` are tasks of a scope of readable pairs
    that have none, or, in an average over tasks, that have them in a single image set, which gives no interval: the
    average is of the other tasks.
    """

    first: npt.NDArray[np.bool_]
    second: npt.NDArray[np.bool_]
    strata: list[str]
    clusters: list[str]
    weights: dict[str, float] | None
    left_out: list[str]

    @property
    def n(self) -> int:
        return len(self.strata)


def pair_arms(scope: Scope, rows: ComparableRows) -> Pairs:
    """The samples of a scope whose arms have rows (see `find_gap`).

    A readable pair is one that both arms answered readably after every training seed: all seeds are compared on the
    same samples.
    """
    arms = (scope.minuend, scope.subtrahend)
    trained = {seed for arm in arms for seed in _list_seeds(rows, arm, scope)}
    seeds: list[int | None] = [*sorted(trained)] or [None]
    first, second = ([_read_scope(rows, scope, arm, seed) for seed in seeds] for arm in arms)
    samples = [row.sample for row in first[0].values()]
    left_out: list[str] = []
    if scope.pairs == "readable":
        asked = {*map(_name_task, samples)}
        samples = [one for one in samples if all(run[one.uid].score.readable for run in (*first, *second))]
        tasks = [*map(_name_task, samples)]
        lonely = [] if scope.averaging == "micro" else find_single_cluster_tasks(tasks, _name_clusters(samples))
        left_out = sorted(asked - {*tasks} | {*lonely})
        samples = [one for one, task in zip(samples, tasks, strict=True) if task not in left_out]
    tasks = [*map(_name_task, samples)]
    benchmarks = {task: one.benchmark for task, one in zip(tasks, samples, strict=True)}
    sizes = Counter(benchmarks.values())
    weights = {task: 1 / sizes[benchmark] for task, benchmark in benchmarks.items()}
    hits, others = (
        np.array([[run[one.uid].score.hit for one in samples] for run in runs], dtype=bool) for runs in (first, second)
    )
    return Pairs(
        hits,
        others,
        ["all"] * len(samples) if scope.averaging == "micro" else tasks,
        _name_clusters(samples),
        weights if scope.averaging == "benchmarks" else None,
        left_out,
    )


def _list_seeds(rows: ComparableRows, arm: str, scope: Scope) -> set[int]:
    """The training seeds of an arm's rows."""
    groups = (rows.groups.get((arm, benchmark), ()) for benchmark in scope.benchmarks)
    return {row.seed for group in groups for row in group if row.seed is not None}


def _read_scope(rows: ComparableRows, scope: Scope, arm: str, seed: int | None) -> dict[str, EvaluationRow]:
    """uid -> row, as the scope's rule reads it; an untrained arm answers for every seed."""
    return {
        row.sample.uid: row
        for benchmark in scope.benchmarks
        for row in rows.read(arm, benchmark, scope.rule)
        if row.seed in (seed, None) and (scope.tasks is None or row.sample.task in scope.tasks)
    }


def _name_task(sample: Sample) -> str:
    return f"{sample.benchmark}/{sample.task}"


def _name_clusters(samples: Sequence[Sample]) -> list[str]:
    return [f"{sample.benchmark}/{sample.cluster}" for sample in samples]


def find_gap(scope: Scope, rows: ComparableRows) -> str:
    """What keeps a scope from being judged, or an empty text."""
    arms = (scope.minuend, scope.subtrahend)
    for arm in arms:
        if arm in rows.served:
            return f"arm {arm} is answered by a server, by another engine than ours: no verdict follows"
        tasks = set()
        for benchmark in scope.benchmarks:
            samples = [row.sample for row in rows.groups.get((arm, benchmark), ())]
            if not samples:
                return f"no rows of arm {arm} on {benchmark}"
            if scope.rule == "official" and any(isinstance(sample.target, ChoiceTarget) for sample in samples):
                return f"{benchmark} asks for letters; only boxes are scored by the official rule here"
            if scope.rule == "official" and not has_rule(benchmark):
                return f"{benchmark} has no official rule: nobody has stated how its authors read a box"
            own = {sample.task for sample in samples}
            if scope.tasks and not own.intersection(scope.tasks):
                return f"no rows of arm {arm} on any of the tasks in {benchmark}"
            tasks |= own
        for task in scope.tasks or ():
            if task not in tasks:
                return f"no rows of arm {arm} on task {task}"
    if scope.rule == "official":
        for benchmark in scope.benchmarks:
            if not any(row.score.readable for arm in arms for row in rows.read(arm, benchmark, "official")):
                return f"the official rule of {benchmark} reads none of the answers: it asks for another form"
    trained = [_list_seeds(rows, arm, scope) for arm in arms]
    if all(trained) and trained[0] != trained[1]:
        return f"arms {scope.minuend} and {scope.subtrahend} were trained with different seeds"
    return ""
