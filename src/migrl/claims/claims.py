"""Claims as data, and the rule that judges them.

A claim says that one arm beats another on some benchmarks, by a number (the paper's) or at least in
direction (the other recipes', whose world or model is not the paper's). Where the paper does not say what exactly
was measured, the claim holds the reading taken and the alternative ones; all are judged (verdicts.py).
A level is an absolute score that somebody states: something to compare with, and no claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from migrl.errors import UserError
from migrl.files import ROOT, Strict
from migrl.scoring.comparable import Rule
from migrl.yaml_file import load_model

CLAIMS_FILE = ROOT / "reproduce" / "claims.yaml"

Verdict = Literal["reproduced", "direction only", "not reproduced", "inconclusive", "not run"]
Version = Literal["v1", "v2", "v3"]
Averaging = Literal["macro", "micro", "benchmarks"]
Compared = Literal["all", "readable"]
_Text = Annotated[str, Field(min_length=1)]
_Names = Annotated[tuple[_Text, ...], Field(min_length=1)]
_Points = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Attested = Annotated[dict[Version, _Text], Field(min_length=1)]


@dataclass(frozen=True)
class Scope:
    """What a difference is taken of: which samples, how they are scored and averaged, and which two arms."""

    benchmarks: tuple[str, ...]
    tasks: tuple[str, ...] | None
    averaging: Averaging
    rule: Rule
    pairs: Compared
    minuend: str
    subtrahend: str


class Reading(Strict):
    """Another way to understand a claim: what it changes in the claim's own scope, and in words how it `differs`."""

    id: _Text
    differs: _Text
    benchmarks: _Names | None = None
    tasks: _Names | None = None
    averaging: Averaging | None = None
    rule: Rule | None = None
    pairs: Compared | None = None
    minuend: _Text | None = None
    subtrahend: _Text | None = None


class Claim(Strict):
    """One claimed difference: average accuracy of `minuend` less that of `subtrahend`.

    `benchmarks` are pooled; with `tasks`, these alone count. `averaging` is the mean over their tasks (macro), over
    samples (micro), or over benchmarks, each the mean of its tasks. `rule` is our strict reading of a completion, the
    official script's, or `untagged`: strict, but of the whole reply where no answer block holds an answer. `pairs` are
    all samples, or only those that both arms answered readably by that rule. `expected` is the claimed difference in
    percentage points; without it only the direction is claimed. `attested` says which versions of the paper state it,
    and where. `gap` says why it cannot be judged here.
    """

    id: _Text
    recipe: Literal["tiny", "paper", "paper_3b"]
    statement: _Text
    attested: _Attested
    benchmarks: _Names
    tasks: _Names | None = None
    metric: Literal["hit"] = "hit"
    averaging: Averaging = "macro"
    rule: Rule = "strict"
    pairs: Compared = "all"
    minuend: _Text
    subtrahend: _Text
    expected: _Points | None = None
    unknown: tuple[_Text, ...] = ()
    note: str = ""
    gap: str = ""
    readings: tuple[Reading, ...] = ()

    @model_validator(mode="after")
    def _check_number(self) -> "Claim":
        if self.recipe == "paper_3b" and self.expected is not None:
            raise ValueError(
                f"expected {self.expected:g} in a claim of recipe {self.recipe}: the paper's numbers are of its own "
                "model; leave it out, which claims the direction"
            )
        return self

    @model_validator(mode="after")
    def _check_arms(self) -> "Claim":
        for scope in (self.scope, *map(self.read, self.readings)):
            if scope.minuend == scope.subtrahend:
                raise ValueError(f"minuend and subtrahend are both {scope.minuend!r}; a claim compares two arms")
        return self

    @model_validator(mode="after")
    def _check_readings(self) -> "Claim":
        ids = [reading.id for reading in self.readings]
        for reading in self.readings:
            if ids.count(reading.id) > 1:
                raise ValueError(f"reading {reading.id!r} comes twice; rename one of them")
            if self.read(reading) == self.scope:
                raise ValueError(f"reading {reading.id!r} changes nothing; say what it changes, or remove it")
        return self

    @property
    def scope(self) -> Scope:
        """The reading taken."""
        return Scope(self.benchmarks, self.tasks, self.averaging, self.rule, self.pairs, self.minuend, self.subtrahend)

    def read(self, reading: Reading) -> Scope:
        """The scope of an alternative reading."""
        changed = {key: value for key, value in vars(reading).items() if key not in ("id", "differs") and value}
        return replace(self.scope, **changed)


class Level(Strict):
    """An absolute score, in percent, that `source` states of `arm`; `gap` says why it cannot be compared with."""

    id: _Text
    benchmark: _Text
    task: _Text | None = None
    averaging: Literal["macro", "micro"] = "macro"
    arm: _Text
    stated: _Points
    source: _Text
    note: str = ""
    gap: str = ""


class _ClaimsFile(Strict):
    claims: tuple[Claim, ...]
    levels: tuple[Level, ...] = ()


def load_claims(path: Path = CLAIMS_FILE) -> tuple[Claim, ...]:
    """Every claim of a claims file, in its order.

    Raises:
        UserError: the file is missing, is no YAML, breaks a claim's form, or names an id twice.
    """
    return _load_file(path).claims


def load_levels(path: Path = CLAIMS_FILE) -> tuple[Level, ...]:
    """Every level of a claims file, in its order.

    Raises:
        UserError: as `load_claims`.
    """
    return _load_file(path).levels


def _load_file(path: Path) -> _ClaimsFile:
    file = load_model(path, _ClaimsFile)
    for kind, entries in (("claim", file.claims), ("level", file.levels)):
        ids = [entry.id for entry in entries]
        for entry_id in ids:
            if ids.count(entry_id) > 1:
                raise UserError(f"{path}: {kind} {entry_id!r} comes twice; rename one of them")
    return file


def select_claims(claims: Sequence[Claim], recipe: str) -> tuple[Claim, ...]:
    """The claims that a recipe's results are judged by."""
    return tuple(claim for claim in claims if claim.recipe == recipe)


def select_levels(levels: Sequence[Level], recipe: str) -> tuple[Level, ...]:
    """The levels that a recipe's results are compared with: they are all of the paper's own benchmarks."""
    return tuple(levels) if recipe == "paper" else ()


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
