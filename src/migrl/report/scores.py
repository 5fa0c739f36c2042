"""Scores as the report lists them: one line per benchmark and arm, strict and official side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrl.report.text import is_number


@dataclass(frozen=True)
class ScoreLine:
    """One arm on one benchmark; `score` is its entry in scores.json, `n` the number of samples."""

    benchmark: str
    arm: str
    score: Mapping[str, Any]
    n: int

    @property
    def detections(self) -> Mapping[str, Any]:
        """AP50 and pair accuracy where any number of boxes may be right; empty elsewhere."""
        found = self.score.get("detections")
        return found if isinstance(found, Mapping) else {}

    @property
    def official(self) -> Mapping[str, Any]:
        """The score by the official script's rule; empty where there is none."""
        official = self.score.get("compat")
        return official if isinstance(official, Mapping) else {}

    @property
    def official_gain(self) -> float | None:
        """What the official rule gives beyond ours, in points."""
        pair = (self.official.get("macro"), self.score.get("macro"))
        return pair[0] - pair[1] if all(map(is_number, pair)) else None  # type: ignore[operator]


def order_benchmarks(claims: Iterable[Mapping[str, Any]], benchmarks: Iterable[str]) -> list[str]:
    """The benchmarks in the order in which the claims name them first, then the rest as they come."""
    known = dict.fromkeys(benchmarks)
    named = dict.fromkeys(name for claim in claims for name in claim.get("benchmarks") or () if name in known)
    return list(named | known)


def order_lines(claims: Iterable[Mapping[str, Any]], lines: Sequence[ScoreLine]) -> list[ScoreLine]:
    """The lines with their benchmarks in the order of the claims."""
    order = order_benchmarks(claims, (line.benchmark for line in lines))
    return sorted(lines, key=lambda line: order.index(line.benchmark))


def list_score_lines(scores: Mapping[str, Any], arms: Sequence[str]) -> list[ScoreLine]:
    """Scores by benchmark, then arm. `n` is the score's own, or the sum over its tasks."""
    benchmarks = dict.fromkeys(benchmark for arm in arms for benchmark in scores.get(arm, {}))
    lines = []
    for benchmark in benchmarks:
        for arm in arms:
            if (score := scores.get(arm, {}).get(benchmark)) is not None:
                tasks = score.get("tasks", {}).values()
                lines.append(ScoreLine(benchmark, arm, score, score.get("n") or sum(task["n"] for task in tasks)))
    return lines
