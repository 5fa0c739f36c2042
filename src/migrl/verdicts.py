"""Judging: from evaluation rows to the verdict on every claim, `claims.json`, and the table of levels, `levels.json`.

A claim is judged by the reading taken; its alternative readings are judged alike and stand beside it, so that nobody
has to wonder whether the choice made the verdict. All numbers are percentage points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from migrl.claims import CLAIMS_FILE, Claim, Level, Reading, Scope, decide_verdict
from migrl.official import read_officially
from migrl.power import DESIGNS_FILE, Design, Z, load_designs, measure_power, plan_power
from migrl.recipe import Recipe
from migrl.references import REFERENCE_RUNS, compare_with_reference
from migrl.resample import find_lonely_tasks
from migrl.scores import Row, check_rows
from migrl.stats import (
    DeltaInterval,
    adjust_for_many,
    bootstrap_macro,
    bootstrap_macro_delta,
    bootstrap_over_seeds,
)

_DECIMALS = 4
_P_DECIMALS = 6
_UNMEASURED: dict[str, Any] = dict.fromkeys(("delta", "low", "high")) | {"n": 0, "clusters": 0, "standard_error": None}


def list_judging_files(recipe: Recipe) -> list[Path]:
    """The files that decide, beside its rows, how a recipe's results are judged."""
    return [CLAIMS_FILE, DESIGNS_FILE, *sorted((REFERENCE_RUNS / recipe.name).rglob("*.json"))]


@dataclass(frozen=True)
class Evidence:
    """Rows by arm, benchmark and training seed (None where a recipe names one alone, or for an untrained arm)."""

    rows: Mapping[tuple[str, str], Mapping[int | None, Sequence[Row]]]
    official: dict[tuple[str, str, int | None], list[tuple[bool, bool]]] = field(default_factory=dict)

    def read_official(self, arm: str, benchmark: str, seed: int | None) -> list[tuple[bool, bool]]:
        """As `read_officially`, of each row in its order; done once, for it parses every completion."""
        key = (arm, benchmark, seed)
        if key not in self.official:
            self.official[key] = read_officially(self.rows[arm, benchmark][seed])
        return self.official[key]

    def list_seeds(self, arm: str, benchmarks: Sequence[str]) -> set[int | None]:
        """Seeds of an arm's rows on these benchmarks."""
        return {seed for benchmark in benchmarks for seed in self.rows.get((arm, benchmark), ())}

    def read_hits(self, scope: Scope, arm: str, seed: int | None) -> dict[tuple[str, str], tuple[Row, bool]]:
        """(benchmark, uid) -> row and hit by the scope's rule; an untrained arm answers for every seed."""
        hits = {}
        for benchmark in scope.benchmarks:
            answered = seed if seed in self.rows[arm, benchmark] else None
            rows = self.rows[arm, benchmark][answered]
            flags = [row["hit"] for row in rows]
            if scope.rule == "official":
                flags = [hit for _, hit in self.read_official(arm, benchmark, answered)]
            for row, flag in zip(rows, flags, strict=True):
                if scope.tasks is None or row["task"] in scope.tasks:
                    hits[benchmark, row["uid"]] = (row, flag)
        return hits


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


def judge_claims(
    claims: Sequence[Claim],
    rows: Sequence[Row],
    reference_deltas: Mapping[str, Sequence[float]] | None = None,
    *,
    resamples: int = 10_000,
) -> list[dict[str, Any]]:
    """The content of `claims.json`: one entry a claim, numbers in percentage points.

    Args:
        rows: evaluation rows of all arms, and of all training seeds.
        reference_deltas: claim id -> deltas of earlier runs of the same recipe; information, no part of the verdict.

    Raises:
        UserError: as `index_rows`.
    """
    evidence, designs = index_rows(rows), load_designs()
    references = reference_deltas or {}
    entries = [_judge_claim(claim, evidence, designs, references.get(claim.id, ()), resamples) for claim in claims]
    judged = [entry for entry in entries if entry["p_value"] is not None]
    for entry, adjusted in zip(judged, adjust_for_many([entry["p_value"] for entry in judged]), strict=True):
        entry["p_adjusted"] = round(adjusted, _P_DECIMALS)
    return entries


def _judge_claim(
    claim: Claim, evidence: Evidence, designs: Mapping[str, Design], reference: Sequence[float], resamples: int
) -> dict[str, Any]:
    found = _judge_scope(claim.scope, claim.expected, evidence, resamples, gap=claim.gap)
    interval, seeds = found.pop("interval"), found.pop("seeds")
    delta = found["delta"]
    return {
        "id": claim.id,
        "statement": claim.statement,
        "attested": claim.attested,
        **_describe(claim.scope),
        "expected": claim.expected,
        "unknown": list(claim.unknown),
        "note": claim.note,
        **found,
        "seeds": seeds,
        "p_value": None if interval is None else round(interval.p_value, _P_DECIMALS),
        "p_adjusted": None,
        "equivalence": None if interval is None or claim.expected is None else _weigh(interval, claim.expected),
        "power": _find_power(claim, interval, seeds, designs),
        "readings": [_judge_reading(claim, reading, evidence, resamples) for reading in claim.readings],
        "reference": compare_with_reference(delta, reference) if reference and delta is not None else None,
    }


def _judge_reading(claim: Claim, reading: Reading, evidence: Evidence, resamples: int) -> dict[str, Any]:
    scope = claim.read(reading)
    found = _judge_scope(scope, claim.expected, evidence, resamples)
    del found["interval"], found["seeds"]
    return {"id": reading.id, "differs": reading.differs, **_describe(scope), **found}


def _describe(scope: Scope) -> dict[str, Any]:
    """A scope as JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(scope).items()}


def _judge_scope(
    scope: Scope, expected: float | None, evidence: Evidence, resamples: int, gap: str = ""
) -> dict[str, Any]:
    """Numbers, verdict and reason of one scope; beside them its interval and the number of seeds."""
    gap = gap or _find_gap(scope, evidence)
    if gap:
        return {**_UNMEASURED, "verdict": "not run", "reason": gap, "interval": None, "seeds": 0}
    both = {seed for arm in (scope.minuend, scope.subtrahend) for seed in evidence.list_seeds(arm, scope.benchmarks)}
    seeds: list[int | None] = [*sorted(seed for seed in both if seed is not None)] or [None]
    first = [evidence.read_hits(scope, scope.minuend, seed) for seed in seeds]
    second = [evidence.read_hits(scope, scope.subtrahend, seed) for seed in seeds]
    rows = {key: row for key, (row, _) in first[0].items()}
    tasks, clusters, weights = _group(scope, rows)
    units = set(zip(tasks, clusters, strict=True))
    found = {**_UNMEASURED, "n": len(rows), "clusters": len(units), "interval": None, "seeds": len(seeds)}
    if lonely := find_lonely_tasks(tasks, clusters):
        reason = f"task {lonely[0]} has a single image set, so there is no interval"
        return found | {"verdict": "inconclusive", "reason": reason}
    hits, others = (np.array([[arm[key][1] for key in rows] for arm in arms]) for arms in (first, second))
    if len(seeds) == 1:
        interval = bootstrap_macro_delta(hits[0], others[0], tasks, clusters, weights=weights, resamples=resamples)
    else:
        interval = bootstrap_over_seeds(hits, others, tasks, clusters, weights=weights, resamples=resamples)
    # Judged on the rounded numbers, so that the verdict follows from what a reader sees.
    numbers = {key: round(getattr(interval, key), _DECIMALS) for key in ("delta", "low", "high", "standard_error")}
    verdict, reason = decide_verdict(numbers["low"], numbers["high"], expected)
    return found | numbers | {"verdict": verdict, "reason": reason, "interval": interval}


def _group(scope: Scope, rows: Mapping[tuple[str, str], Row]) -> tuple[list[str], list[str], dict[str, float] | None]:
    """Task and image set of each sample, and what each task counts (None: all alike)."""
    clusters = [f"{benchmark}/{row['cluster']}" for (benchmark, _), row in rows.items()]
    if scope.averaging == "micro":
        return ["all"] * len(rows), clusters, None
    pairs = [(benchmark, f"{benchmark}/{row['task']}") for (benchmark, _), row in rows.items()]
    tasks = [task for _, task in pairs]
    if scope.averaging == "macro":
        return tasks, clusters, None
    sizes = {name: len({task for benchmark, task in pairs if benchmark == name}) for name in scope.benchmarks}
    return tasks, clusters, {task: 1 / sizes[benchmark] for benchmark, task in pairs}


def _find_gap(scope: Scope, evidence: Evidence) -> str:
    """What keeps a scope from being judged, or an empty text."""
    for arm in (scope.minuend, scope.subtrahend):
        for benchmark in scope.benchmarks:
            seeds = evidence.rows.get((arm, benchmark))
            if not seeds:
                return f"no rows of arm {arm} on {benchmark}"
            if scope.rule == "official" and any("letter" in row["target"] for row in next(iter(seeds.values()))):
                return f"{benchmark} asks for letters; only boxes are scored by the official rule here"
            if scope.tasks and not any(row["task"] in scope.tasks for row in next(iter(seeds.values()))):
                return f"no rows of arm {arm} on any of the tasks in {benchmark}"
        for task in scope.tasks or ():
            places = [next(iter(evidence.rows[arm, benchmark].values())) for benchmark in scope.benchmarks]
            if not any(row["task"] == task for rows in places for row in rows):
                return f"no rows of arm {arm} on task {task}"
    if scope.rule == "official":
        for benchmark in scope.benchmarks:
            both = [(arm, seed) for arm in (scope.minuend, scope.subtrahend) for seed in evidence.rows[arm, benchmark]]
            if not any(read for arm, seed in both for read, _ in evidence.read_official(arm, benchmark, seed)):
                return f"the official rule of {benchmark} reads none of the answers: it asks for another form"
    trained = [evidence.list_seeds(arm, scope.benchmarks) - {None} for arm in (scope.minuend, scope.subtrahend)]
    if all(trained) and trained[0] != trained[1]:
        return f"arms {scope.minuend} and {scope.subtrahend} were trained with different seeds"
    return ""


def _weigh(interval: DeltaInterval, expected: float) -> dict[str, float]:
    """How far from the claimed delta: two one-sided tests at 5 % show that it is not farther than `within`."""
    low, high = interval.inner_low - expected, interval.inner_high - expected
    numbers = {"difference": interval.delta - expected, "low": low, "high": high, "within": max(abs(low), abs(high))}
    return {key: round(value, _DECIMALS) for key, value in numbers.items()}


def _find_power(
    claim: Claim, interval: DeltaInterval | None, seeds: int, designs: Mapping[str, Design]
) -> dict[str, Any] | None:
    """What these samples can show: from the measured error, or before a run from the benchmark's design."""
    if interval is not None and interval.standard_error > 0:
        # Over several training seeds the interval is wider than 1.96 errors, and it is what the verdict reads.
        error = interval.standard_error if seeds == 1 else (interval.high - interval.low) / (2 * Z)
        return {"basis": "measured", "design": None, **measure_power(error, claim.expected)}
    # Without a design of its own a claim takes that of another one on the same benchmarks, whose arms may differ.
    alike = (name for name, design in designs.items() if set(claim.benchmarks) == design.benchmarks)
    name = claim.id if claim.id in designs else next(alike, None)
    if name is None or claim.gap:
        return None
    return {"basis": "design", "design": name, **plan_power(designs[name], claim.expected)}


def judge_levels(levels: Sequence[Level], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The content of `levels.json`: what is stated of an arm, and what was measured, in percent; no verdict.

    Rows of several training seeds are averaged; the interval is over samples.
    """
    return [_measure_level(level, rows) for level in levels]


def _measure_level(level: Level, rows: Sequence[Row]) -> dict[str, Any]:
    chosen = [
        row
        for row in rows
        if row["arm"] == level.arm and row["benchmark"] == level.benchmark and level.task in (None, row["task"])
    ]
    entry: dict[str, Any] = {
        **level.model_dump(),
        "measured": None,
        "low": None,
        "high": None,
        "n": 0,
        "contains": None,
    }
    if not chosen:
        return entry
    tasks = ["all" if level.averaging == "micro" else row["task"] for row in chosen]
    clusters = [row["cluster"] for row in chosen]
    entry["n"] = len({row["uid"] for row in chosen})
    if find_lonely_tasks(tasks, clusters):
        return entry  # a single image set has no spread
    interval = bootstrap_macro([row["hit"] for row in chosen], tasks, clusters)
    low, high = round(interval.low, _DECIMALS), round(interval.high, _DECIMALS)
    contains = None if level.gap else low <= level.stated <= high
    return entry | {"measured": round(interval.macro, _DECIMALS), "low": low, "high": high, "contains": contains}
