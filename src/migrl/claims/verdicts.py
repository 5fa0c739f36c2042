"""Judging: from evaluation rows to the verdict on every claim, `claims.json`, and the table of levels, `levels.json`.

A claim is judged by the reading taken; its alternative readings are judged alike and stand beside it, so that nobody
has to wonder whether the choice made the verdict. All numbers are percentage points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from migrl.claims.claims import CLAIMS_FILE, Claim, Level, Reading, Scope, decide_verdict
from migrl.claims.paired import find_gap, pair_arms
from migrl.claims.references import REFERENCE_RUNS, compare_with_reference
from migrl.recipe import Recipe
from migrl.scoring.comparable import ComparableRows
from migrl.statistics.bootstrap import find_single_cluster_tasks
from migrl.statistics.intervals import (
    DeltaInterval,
    adjust_for_many,
    bootstrap_macro,
    bootstrap_macro_delta,
    bootstrap_over_seeds,
)
from migrl.statistics.power import DESIGNS_FILE, Design, Z, load_designs, measure_power, plan_power

_DECIMALS = 4
_P_DECIMALS = 6
_UNMEASURED: dict[str, Any] = dict.fromkeys(("delta", "low", "high")) | {"n": 0, "clusters": 0, "standard_error": None}


def list_judging_files(recipe: Recipe) -> list[Path]:
    """The files that decide, beside its rows, how a recipe's results are judged."""
    return [CLAIMS_FILE, DESIGNS_FILE, *sorted((REFERENCE_RUNS / recipe.name).rglob("*.json"))]


def judge_claims(
    claims: Sequence[Claim],
    rows: ComparableRows,
    reference_deltas: Mapping[str, Sequence[float]] | None = None,
    *,
    resamples: int = 10_000,
) -> list[dict[str, Any]]:
    """The content of `claims.json`: one entry a claim, numbers in percentage points.

    Args:
        reference_deltas: claim id -> deltas of earlier runs of the same recipe; information, no part of the verdict.
    """
    designs, references = load_designs(), reference_deltas or {}
    entries = [_judge_claim(claim, rows, designs, references.get(claim.id, ()), resamples) for claim in claims]
    judged = [entry for entry in entries if entry["p_value"] is not None]
    for entry, adjusted in zip(judged, adjust_for_many([entry["p_value"] for entry in judged]), strict=True):
        entry["p_adjusted"] = round(adjusted, _P_DECIMALS)
    return entries


def _judge_claim(
    claim: Claim, rows: ComparableRows, designs: Mapping[str, Design], reference: Sequence[float], resamples: int
) -> dict[str, Any]:
    found = _judge_scope(claim.scope, claim.expected, rows, resamples, gap=claim.gap)
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
        "readings": [_judge_reading(claim, reading, rows, resamples) for reading in claim.readings],
        "reference": compare_with_reference(delta, reference) if reference and delta is not None else None,
    }


def _judge_reading(claim: Claim, reading: Reading, rows: ComparableRows, resamples: int) -> dict[str, Any]:
    scope = claim.read(reading)
    found = _judge_scope(scope, claim.expected, rows, resamples)
    del found["interval"], found["seeds"]
    return {"id": reading.id, "differs": reading.differs, **_describe(scope), **found}


def _describe(scope: Scope) -> dict[str, Any]:
    """A scope as JSON."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(scope).items()}


def _judge_scope(
    scope: Scope, expected: float | None, rows: ComparableRows, resamples: int, gap: str = ""
) -> dict[str, Any]:
    """Numbers, verdict and reason of one scope; beside them its interval and the number of seeds."""
    unjudged = {**_UNMEASURED, "tasks_left_out": [], "interval": None, "seeds": 0}
    if gap := gap or find_gap(scope, rows):
        return unjudged | {"verdict": "not run", "reason": gap}
    pairs = pair_arms(scope, rows)
    if not pairs.n:
        reason = "in no task did both arms answer readably on more than one image set"
        return unjudged | {"verdict": "not run", "reason": reason}
    first, second, strata, clusters = pairs.first, pairs.second, pairs.strata, pairs.clusters
    found = unjudged | {"n": pairs.n, "clusters": len(set(zip(strata, clusters, strict=True))), "seeds": len(first)}
    if lonely := find_single_cluster_tasks(strata, clusters):
        reason = f"task {lonely[0]} has a single image set, so there is no interval"
        return found | {"verdict": "inconclusive", "reason": reason}
    if len(first) == 1:
        interval = bootstrap_macro_delta(
            first[0], second[0], strata, clusters, weights=pairs.weights, resamples=resamples
        )
    else:
        interval = bootstrap_over_seeds(first, second, strata, clusters, weights=pairs.weights, resamples=resamples)
    # Judged on the rounded numbers, so that the verdict follows from what a reader sees.
    numbers = {key: round(getattr(interval, key), _DECIMALS) for key in ("delta", "low", "high", "standard_error")}
    verdict, reason = decide_verdict(numbers["low"], numbers["high"], expected)
    if pairs.left_out:
        reason += f"; without {', '.join(pairs.left_out)}, too few readable pairs"
    judged = {"verdict": verdict, "reason": reason, "interval": interval, "tasks_left_out": pairs.left_out}
    return found | numbers | judged


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


def judge_levels(levels: Sequence[Level], rows: ComparableRows) -> list[dict[str, Any]]:
    """The content of `levels.json`: what is stated of an arm, and what was measured, in percent; no verdict.

    Rows of several training seeds are averaged; the interval is over samples.
    """
    return [_measure_level(level, rows) for level in levels]


def _measure_level(level: Level, rows: ComparableRows) -> dict[str, Any]:
    own = rows.groups.get((level.arm, level.benchmark), ())
    chosen = [row for row in own if level.task in (None, row.sample.task)]
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
    tasks = ["all" if level.averaging == "micro" else row.sample.task for row in chosen]
    clusters = [row.sample.cluster for row in chosen]
    entry["n"] = len({row.sample.uid for row in chosen})
    if find_single_cluster_tasks(tasks, clusters):
        return entry  # a single image set has no spread
    interval = bootstrap_macro([row.score.hit for row in chosen], tasks, clusters)
    low, high = round(interval.low, _DECIMALS), round(interval.high, _DECIMALS)
    contains = None if level.gap else low <= level.stated <= high
    return entry | {"measured": round(interval.macro, _DECIMALS), "low": low, "high": high, "contains": contains}
