"""Evaluation rows as a scope reads them: scored by its rule, and two arms paired sample by sample."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from migrl.claims.claims import Rule, Scope
from migrl.scoring.official import has_rule, read_officially
from migrl.scoring.scores import Row, check_rows, rescore_row
from migrl.scoring.tables import is_readable
from migrl.statistics.bootstrap import find_single_cluster_tasks

Read = tuple[bool, bool]
"""Of one completion: whether an answer could be read, and whether it is a hit."""


@dataclass(frozen=True)
class Evidence:
    """Rows by arm, benchmark and training seed (None where a recipe names one alone, or for an untrained arm)."""

    rows: Mapping[tuple[str, str], Mapping[int | None, Sequence[Row]]]
    read: dict[tuple[str, str, int | None, Rule], list[Read]] = field(default_factory=dict)

    def read_rows(self, arm: str, benchmark: str, seed: int | None, rule: Rule) -> list[Read]:
        """What a rule reads in each row, in their order; done once, for it may parse every completion again."""
        key = (arm, benchmark, seed, rule)
        if key not in self.read:
            self.read[key] = _read_rows(self.rows[arm, benchmark][seed], rule)
        return self.read[key]

    def list_seeds(self, arm: str, benchmarks: Sequence[str]) -> set[int | None]:
        """Seeds of an arm's rows on these benchmarks."""
        return {seed for benchmark in benchmarks for seed in self.rows.get((arm, benchmark), ())}

    def read_scope(self, scope: Scope, arm: str, seed: int | None) -> dict[tuple[str, str], tuple[Row, Read]]:
        """(benchmark, uid) -> row, and what the scope's rule reads in it; an untrained arm answers for every seed."""
        found = {}
        for benchmark in scope.benchmarks:
            answered = seed if seed in self.rows[arm, benchmark] else None
            rows = self.rows[arm, benchmark][answered]
            for row, read in zip(rows, self.read_rows(arm, benchmark, answered, scope.rule), strict=True):
                if scope.tasks is None or row["task"] in scope.tasks:
                    found[benchmark, row["uid"]] = (row, read)
        return found


def index_rows(rows: Sequence[Row]) -> Evidence:
    """The rows, checked and in the order that judging reads them.

    Raises:
        UserError: rows whose arms cannot be compared (see `check_rows`).
    """
    check_rows(rows)
    index: dict[tuple[str, str], dict[int | None, list[Row]]] = {}
    for row in rows:
        index.setdefault((row["arm"], row["benchmark"]), {}).setdefault(row.get("seed"), []).append(row)
    return Evidence(index)


def _read_rows(rows: Sequence[Row], rule: Rule) -> list[Read]:
    if rule == "official":
        return read_officially(rows)
    if rule == "untagged":
        rows = [rescore_row(row, tagged=False) for row in rows]
    return [(is_readable(row), row["hit"]) for row in rows]


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


def pair_arms(scope: Scope, evidence: Evidence) -> Pairs:
    """The samples of a scope whose arms have rows (see `find_gap`).

    A readable pair is one that both arms answered readably after every training seed: all seeds are compared on the
    same samples.
    """
    arms = (scope.minuend, scope.subtrahend)
    both = {seed for arm in arms for seed in evidence.list_seeds(arm, scope.benchmarks)}
    seeds: list[int | None] = [*sorted(seed for seed in both if seed is not None)] or [None]
    first, second = ([evidence.read_scope(scope, arm, seed) for seed in seeds] for arm in arms)
    rows = {key: row for key, (row, _) in first[0].items()}
    left_out: list[str] = []
    if scope.pairs == "readable":
        asked = {*_name_tasks(rows)}
        rows = {key: row for key, row in rows.items() if all(run[key][1][0] for run in (*first, *second))}
        tasks = _name_tasks(rows)
        lonely = [] if scope.averaging == "micro" else find_single_cluster_tasks(tasks, _name_clusters(rows))
        left_out = sorted(asked - {*tasks} | {*lonely})
        rows = {key: row for (key, row), task in zip(rows.items(), tasks, strict=True) if task not in left_out}
    tasks = _name_tasks(rows)
    sizes = Counter({task: benchmark for task, (benchmark, _) in zip(tasks, rows, strict=True)}.values())
    weights = {task: 1 / sizes[benchmark] for task, (benchmark, _) in zip(tasks, rows, strict=True)}
    hits, others = (
        np.array([[run[key][1][1] for key in rows] for run in runs], dtype=bool) for runs in (first, second)
    )
    return Pairs(
        hits,
        others,
        ["all"] * len(rows) if scope.averaging == "micro" else tasks,
        _name_clusters(rows),
        weights if scope.averaging == "benchmarks" else None,
        left_out,
    )


def _name_tasks(rows: Mapping[tuple[str, str], Row]) -> list[str]:
    return [f"{benchmark}/{row['task']}" for (benchmark, _), row in rows.items()]


def _name_clusters(rows: Mapping[tuple[str, str], Row]) -> list[str]:
    return [f"{benchmark}/{row['cluster']}" for (benchmark, _), row in rows.items()]


def find_gap(scope: Scope, evidence: Evidence) -> str:
    """What keeps a scope from being judged, or an empty text."""
    for arm in (scope.minuend, scope.subtrahend):
        for benchmark in scope.benchmarks:
            seeds = evidence.rows.get((arm, benchmark))
            if not seeds:
                return f"no rows of arm {arm} on {benchmark}"
            if scope.rule == "official" and any("letter" in row["target"] for row in next(iter(seeds.values()))):
                return f"{benchmark} asks for letters; only boxes are scored by the official rule here"
            if scope.rule == "official" and not has_rule(benchmark):
                return f"{benchmark} has no official rule: nobody has stated how its authors read a box"
            if scope.tasks and not any(row["task"] in scope.tasks for row in next(iter(seeds.values()))):
                return f"no rows of arm {arm} on any of the tasks in {benchmark}"
        for task in scope.tasks or ():
            places = [next(iter(evidence.rows[arm, benchmark].values())) for benchmark in scope.benchmarks]
            if not any(row["task"] == task for rows in places for row in rows):
                return f"no rows of arm {arm} on task {task}"
    if scope.rule == "official":
        for benchmark in scope.benchmarks:
            both = [(arm, seed) for arm in (scope.minuend, scope.subtrahend) for seed in evidence.rows[arm, benchmark]]
            if not any(read for arm, seed in both for read, _ in evidence.read_rows(arm, benchmark, seed, "official")):
                return f"the official rule of {benchmark} reads none of the answers: it asks for another form"
    trained = [evidence.list_seeds(arm, scope.benchmarks) - {None} for arm in (scope.minuend, scope.subtrahend)]
    if all(trained) and trained[0] != trained[1]:
        return f"arms {scope.minuend} and {scope.subtrahend} were trained with different seeds"
    return ""
