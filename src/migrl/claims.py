"""Claims as data, and the rule that judges them.

A claim says that one arm beats another on some benchmarks, by a number (the paper's) or at least in
direction (the tiny recipe's, whose world is not the paper's). It is read from `reproduce/claims.yaml`
and judged from evaluation rows alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.special import stdtrit

from migrl.errors import UserError
from migrl.scores import Row, check_rows
from migrl.stats import bootstrap_macro_delta

CLAIMS_FILE = Path(__file__).resolve().parents[2] / "reproduce" / "claims.yaml"

Verdict = Literal["reproduced", "direction only", "not reproduced", "inconclusive", "not run"]
_Text = Annotated[str, Field(min_length=1)]
_DECIMALS = 4


class Claim(BaseModel):
    """One claimed difference: macro accuracy of `minuend` less that of `subtrahend`.

    `benchmarks` are pooled: the average runs over all their tasks, or over `tasks` alone where given.
    `expected` is the claimed difference in percentage points; without it only the direction is claimed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: _Text
    recipe: Literal["tiny", "paper"]
    statement: _Text
    paper_version: _Text
    place: _Text
    benchmarks: Annotated[tuple[_Text, ...], Field(min_length=1)]
    tasks: Annotated[tuple[_Text, ...], Field(min_length=1)] | None = None
    metric: Literal["hit"] = "hit"
    averaging: Literal["macro"] = "macro"
    minuend: _Text
    subtrahend: _Text
    expected: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    note: str = ""

    @model_validator(mode="after")
    def _check_arms(self) -> "Claim":
        if self.minuend == self.subtrahend:
            raise ValueError(f"minuend and subtrahend are both {self.minuend!r}; a claim compares two arms")
        return self


class _ClaimsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    claims: tuple[Claim, ...]


def load_claims(path: Path = CLAIMS_FILE) -> tuple[Claim, ...]:
    """Every claim of a claims file, in its order.

    Raises:
        UserError: the file is missing, is no YAML, breaks a claim's form, or names an id twice.
    """
    try:
        claims = _ClaimsFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8"))).claims
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run from a checkout that has it, or name another") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({error}); correct it") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path}: key {key!r}: {first['msg']}; correct it") from error
    ids = [claim.id for claim in claims]
    for claim_id in ids:
        if ids.count(claim_id) > 1:
            raise UserError(f"{path}: claim {claim_id!r} comes twice; rename one of them")
    return claims


def select_claims(claims: Sequence[Claim], recipe: str) -> tuple[Claim, ...]:
    """The claims that a recipe's results are judged by."""
    return tuple(claim for claim in claims if claim.recipe == recipe)


def decide_verdict(low: float, high: float, expected: float | None) -> tuple[Verdict, str]:
    """The verdict on a delta whose 95 % interval is `low` to `high`, and why, in words.

    With an expected delta (> 0):
        reproduced      low > 0 and high >= expected: there is an effect, and it is not smaller than claimed
        direction only  low > 0 and high < expected: there is an effect, but a smaller one
        not reproduced  high <= 0, or low <= 0 and high < expected: no effect shown, and not the claimed one
        inconclusive    low <= 0 and high >= expected: both no effect and the claimed one remain possible
    Without one, only the direction is claimed:
        reproduced if low > 0, not reproduced if high <= 0, else inconclusive.
    """
    if high <= 0:
        return "not reproduced", "the whole interval lies at or below 0"
    if expected is None:
        if low > 0:
            return "reproduced", "the whole interval lies above 0"
        return "inconclusive", "the interval contains 0"
    if low > 0:
        if high < expected:
            return "direction only", f"the interval lies above 0 but below {expected:+g}"
        if low > expected:
            return "reproduced", f"the whole interval lies above {expected:+g}"
        return "reproduced", f"the interval lies above 0 and contains {expected:+g}"
    if high < expected:
        return "not reproduced", f"the interval contains 0 and lies below {expected:+g}"
    return "inconclusive", f"the interval contains both 0 and {expected:+g}"


def judge_claims(
    claims: Sequence[Claim],
    rows: Sequence[Row],
    reference_deltas: Mapping[str, Sequence[float]] | None = None,
) -> list[dict[str, Any]]:
    """The content of `claims.json`: one entry a claim, numbers in percentage points.

    Args:
        rows: evaluation rows of all arms.
        reference_deltas: claim id -> deltas of earlier runs of the same recipe; information, no part of the verdict.

    Raises:
        UserError: rows whose arms cannot be compared (see `check_rows`).
    """
    check_rows(rows)
    return [_judge_claim(claim, rows, (reference_deltas or {}).get(claim.id, ())) for claim in claims]


def _judge_claim(claim: Claim, rows: Sequence[Row], reference: Sequence[float]) -> dict[str, Any]:
    arms = {
        arm: {row["uid"]: row for row in rows if row["arm"] == arm and _concerns(claim, row)}
        for arm in (claim.minuend, claim.subtrahend)
    }
    entry: dict[str, Any] = {
        "id": claim.id,
        "statement": claim.statement,
        "benchmarks": list(claim.benchmarks),
        "minuend": claim.minuend,
        "subtrahend": claim.subtrahend,
        "expected": claim.expected,
        "delta": None,
        "low": None,
        "high": None,
        "n": 0,
        "clusters": 0,
        "standard_error": None,
        "verdict": "not run",
        "reason": _find_gap(claim, arms),
        "reference": None,
    }
    if entry["reason"]:
        return entry
    first = arms[claim.minuend]
    second = [arms[claim.subtrahend][uid] for uid in first]
    tasks = [f"{row['benchmark']}/{row['task']}" for row in first.values()]
    clusters = [row["cluster"] for row in first.values()]
    units = set(zip(tasks, clusters, strict=True))
    entry |= {"n": len(tasks), "clusters": len(units)}
    lonely = [task for task in sorted(set(tasks)) if sum(unit[0] == task for unit in units) < 2]
    if lonely:
        return entry | {
            "verdict": "inconclusive",
            "reason": f"task {lonely[0]} has a single image set, so there is no interval",
        }
    interval = bootstrap_macro_delta(
        [row["hit"] for row in first.values()], [row["hit"] for row in second], tasks, clusters
    )
    # Judged on the rounded numbers, so that the verdict follows from what a reader sees.
    delta, low, high = (round(value, _DECIMALS) for value in (interval.delta, interval.low, interval.high))
    verdict, reason = decide_verdict(low, high, claim.expected)
    return entry | {
        "delta": delta,
        "low": low,
        "high": high,
        "standard_error": round(interval.standard_error, _DECIMALS),
        "verdict": verdict,
        "reason": reason,
        "reference": compare_with_reference(delta, reference) if reference else None,
    }


def _concerns(claim: Claim, row: Row) -> bool:
    return row["benchmark"] in claim.benchmarks and (claim.tasks is None or row["task"] in claim.tasks)


def _find_gap(claim: Claim, arms: Mapping[str, Mapping[str, Row]]) -> str:
    """What keeps the claim from being judged, or an empty text."""
    for arm, rows in arms.items():
        for benchmark in claim.benchmarks:
            if not any(row["benchmark"] == benchmark for row in rows.values()):
                return f"no rows of arm {arm} on {benchmark}"
        for task in claim.tasks or ():
            if not any(row["task"] == task for row in rows.values()):
                return f"no rows of arm {arm} on task {task}"
    return ""


def compare_with_reference(delta: float, reference: Sequence[float]) -> dict[str, Any]:
    """Whether a delta lies where a new run is expected, given the reference runs' deltas (all in points).

    The 95 % prediction interval of one new run: mean +- t(n - 1) * sd * sqrt(1 + 1/n). It needs two runs.
    """
    low, high, inside = None, None, None
    count = len(reference)
    if count > 1:
        spread = float(stdtrit(count - 1, 0.975)) * stdev(reference) * math.sqrt(1 + 1 / count)
        low, high = round(fmean(reference) - spread, _DECIMALS), round(fmean(reference) + spread, _DECIMALS)
        inside = low <= delta <= high
    return {"deltas": list(reference), "prediction_low": low, "prediction_high": high, "inside": inside}


def read_reference_deltas(folder: Path) -> dict[str, list[float]]:
    """Claim id -> deltas of the reference runs in `folder` (`seed_<n>/claims.json`), by seed; none if no folder.

    Raises:
        UserError: a run without a readable `claims.json`.
    """
    deltas: dict[str, list[float]] = {}
    for run in sorted(folder.glob("seed_*"), key=lambda run: (len(run.name), run.name)):
        path = run / "claims.json"
        try:
            for entry in json.loads(path.read_text(encoding="utf-8")):
                if entry["delta"] is not None:
                    deltas.setdefault(entry["id"], []).append(float(entry["delta"]))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; restore it or remove the run's folder") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a list of judged claims ({error!r}); restore it") from error
    return deltas
