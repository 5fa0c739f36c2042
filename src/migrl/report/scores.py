"""Scores as the report lists them: one line a benchmark and arm, strict and official side by side."""

from collections.abc import Mapping, Sequence
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
    def official(self) -> Mapping[str, Any]:
        """The score by the official script's rule; empty where there is none."""
        official = self.score.get("compat")
        return official if isinstance(official, Mapping) else {}

    @property
    def official_gain(self) -> float | None:
        """What the official rule gives beyond ours, in points."""
        pair = (self.official.get("macro"), self.score.get("macro"))
        return pair[0] - pair[1] if all(map(is_number, pair)) else None  # type: ignore[operator]


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
