"""What became of each sample between two arms: fixed, broken, hit by both or missed by both."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from migrl.errors import UserError
from migrl.grounding.samples import Sample
from migrl.scoring.rows import EvaluationRow

Outcome = Literal["fixed", "broken", "both_hit", "both_miss"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass(frozen=True)
class Answers:
    """Every answer to one sample, in the order of the arms, then of the training seeds."""

    rows: tuple[EvaluationRow, ...]
    outcome: Outcome

    @property
    def sample(self) -> Sample:
        return self.rows[0].sample

    @property
    def key(self) -> tuple[str, str]:
        """Benchmark and task."""
        return (self.sample.benchmark, self.sample.task)


def pick_compared(arms: Sequence[str]) -> tuple[str, str]:
    """The two arms that outcomes compare: sft and rl where both are there, else the first and the last.

    `arms` are those that compare: an arm that someone serves is none.
    """
    if {"sft", "rl"} <= set(arms):
        return "sft", "rl"
    return (arms[0], arms[-1]) if arms else ("", "")


def group_rows(rows: Iterable[EvaluationRow], arms: Sequence[str], served: Collection[str] = ()) -> list[Answers]:
    """Samples: benchmarks and tasks in the order of the rows, uids sorted within a task.

    Args:
        rows: evaluation rows; (arm, seed, uid) is unique.
        arms: the order of a sample's answers; `pick_compared` says which two of them its outcome compares.
        served: those that a server answers for, which no outcome compares.

    Raises:
        UserError: a row comes twice.
    """
    order: dict[tuple[str, str], int] = {}
    answers: dict[str, dict[tuple[int, int], EvaluationRow]] = {}
    for row in rows:
        uid = row.sample.uid
        order.setdefault((row.sample.benchmark, row.sample.task), len(order))
        place = (arms.index(row.arm), row.seed or 0)
        if place in answers.setdefault(uid, {}):
            raise UserError(f"samples.jsonl: sample {uid} of arm {row.arm} comes twice; evaluate again")
        answers[uid][place] = row
    compared = pick_compared([arm for arm in arms if arm not in served])
    samples = []
    for given in answers.values():
        told = tuple(given[place] for place in sorted(given))
        samples.append(Answers(told, judge_outcome(told, *compared)))
    return sorted(samples, key=lambda one: (order[one.key], one.sample.uid))


def judge_outcome(rows: Iterable[EvaluationRow], before: str, after: str) -> Outcome:
    """`fixed` if `after` hits where `before` missed; with several training seeds, if it hits in more of them."""
    hits: dict[str, list[bool]] = {before: [], after: []}
    for row in rows:
        if row.arm in hits:
            hits[row.arm].append(row.score.hit)
    first, second = (Fraction(sum(flags), len(flags) or 1) for flags in (hits[before], hits[after]))
    if first == second:
        return "both_hit" if 2 * second >= 1 else "both_miss"
    return "fixed" if second > first else "broken"


def count_outcomes(samples: Iterable[Answers]) -> dict[tuple[str, str], Counter[Outcome]]:
    """(benchmark, task) -> how many samples of each outcome, in the samples' order."""
    counts: dict[tuple[str, str], Counter[Outcome]] = {}
    for sample in samples:
        counts.setdefault(sample.key, Counter())[sample.outcome] += 1
    return counts
