"""From two sides to numbers: paired deltas, wins and losses, and what changed in the answers.

B minus A throughout: a sample is won if B hits it and A does not, and lost if A hits it and B does not.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from scipy.stats import binomtest

from migrl.compare.differences import Difference
from migrl.compare.sides import Reply, Side
from migrl.errors import UserError
from migrl.evidence.evaluations import EVALUATIONS
from migrl.scoring.scores import Row
from migrl.scoring.tables import PERCENT_DECIMALS, has_box
from migrl.statistics.intervals import bootstrap_macro_delta


@dataclass(frozen=True)
class Pair:
    """One sample and both answers; `sample` is A's row."""

    sample: Row
    a: Reply
    b: Reply

    @property
    def won(self) -> bool:
        return self.b.hit and not self.a.hit

    @property
    def lost(self) -> bool:
        return self.a.hit and not self.b.hit


@dataclass(frozen=True)
class Cell:
    """Pairs of one task, one benchmark or all, counted. Accuracies, delta and interval in percent.

    Over several tasks accuracies and delta are means over the tasks (of each benchmark). `low` and `high` are None
    where a task has a single image set; `mcnemar_p` takes samples as independent, which the interval does not.
    `images_changed` counts boxes on another image than A's, None where a rule does not read the image or none is
    asked for; `statuses` counts the changed readings, such as "ok -> none".
    """

    n: int
    clusters: int
    accuracy_a: float
    accuracy_b: float
    delta: float
    low: float | None
    high: float | None
    wins: int
    losses: int
    both_hit: int
    both_miss: int
    mcnemar_p: float
    images_changed: int | None
    statuses: Mapping[str, int]

    @property
    def statuses_changed(self) -> int:
        return sum(self.statuses.values())

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "statuses": dict(self.statuses)}


@dataclass(frozen=True)
class Comparison:
    """All that was compared: the sides, what they do not share, the cells, and the pairs in a fixed order.

    `tasks` holds the cells of each benchmark's tasks.
    """

    a: Side
    b: Side
    unlike: tuple[Difference, ...]
    overall: Cell
    benchmarks: Mapping[str, Cell]
    tasks: Mapping[str, Mapping[str, Cell]]
    pairs: tuple[Pair, ...]

    @property
    def warning(self) -> str:
        """The first line of every output where a difference was let through; empty where there was none."""
        texts = "; ".join(f"{difference.key} ({difference.text})" for difference in self.unlike)
        return f"Not alike, and let through by name: {texts}" if texts else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the sides, in sentences."""
        unknown = self.a.evaluation is None and self.b.evaluation is None and bool(self.b.samples)
        text = f"A and B: no {EVALUATIONS} beside the rows; engine, precision, device and limits are not known"
        return (*self.a.notes, *self.b.notes, *((text,) if unknown else ()))

    def to_json(self) -> dict[str, Any]:
        """As JSON; the differences that were let through come first."""
        return {
            "warning": self.warning,
            "allowed": {difference.key: difference.text for difference in self.unlike},
            "a": self.a.title,
            "b": self.b.title,
            "notes": list(self.notes),
            "all": self.overall.to_json(),
            "benchmarks": {
                name: {**cell.to_json(), "tasks": {task: one.to_json() for task, one in self.tasks[name].items()}}
                for name, cell in self.benchmarks.items()
            },
            "won": [pair.sample["uid"] for pair in self.pairs if pair.won],
            "lost": [pair.sample["uid"] for pair in self.pairs if pair.lost],
        }


def compare_sides(a: Side, b: Side, unlike: Sequence[Difference] = ()) -> Comparison:
    """Pair the samples that both sides answered, and count. The sides were checked by `find_differences`.

    Raises:
        UserError: no sample was answered by both.
    """
    uids = sorted(uid for uid in a.samples if uid in b.replies)
    if not uids:
        raise UserError(f"{a.title} and {b.title}: no sample was answered by both; compare runs on one benchmark")
    pairs = [Pair(a.samples[uid], a.replies[uid], b.replies[uid]) for uid in uids]
    pairs.sort(key=lambda pair: (pair.sample["benchmark"], pair.sample["task"]))  # and by uid, for the sort is stable
    groups: dict[str, dict[str, list[Pair]]] = {}
    for pair in pairs:
        groups.setdefault(pair.sample["benchmark"], {}).setdefault(pair.sample["task"], []).append(pair)
    names_image = a.names_image and b.names_image
    return Comparison(
        a=a,
        b=b,
        unlike=tuple(unlike),
        overall=_count(pairs, names_image),
        benchmarks={name: _count(list(chain(*tasks.values())), names_image) for name, tasks in groups.items()},
        tasks={
            name: {task: _count(some, names_image) for task, some in tasks.items()} for name, tasks in groups.items()
        },
        pairs=tuple(pairs),
    )


def _count(pairs: Sequence[Pair], names_image: bool) -> Cell:
    hits_a, hits_b = [pair.a.hit for pair in pairs], [pair.b.hit for pair in pairs]
    tasks = [f"{pair.sample['benchmark']}/{pair.sample['task']}" for pair in pairs]
    clusters = [pair.sample["cluster"] for pair in pairs]
    sets: dict[str, set[str]] = {}
    for task, cluster in zip(tasks, clusters, strict=True):
        sets.setdefault(task, set()).add(cluster)
    accuracy_a, accuracy_b = _average(hits_a, tasks), _average(hits_b, tasks)
    low = high = None
    if all(len(members) >= 2 for members in sets.values()):
        interval = bootstrap_macro_delta(hits_b, hits_a, tasks, clusters)
        low, high = _round(interval.low), _round(interval.high)
    wins, losses = sum(pair.won for pair in pairs), sum(pair.lost for pair in pairs)
    boxed = [pair for pair in pairs if has_box(pair.sample)]
    return Cell(
        n=len(pairs),
        clusters=sum(map(len, sets.values())),
        accuracy_a=_round(accuracy_a),
        accuracy_b=_round(accuracy_b),
        delta=_round(accuracy_b - accuracy_a),
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        both_hit=sum(a and b for a, b in zip(hits_a, hits_b, strict=True)),
        both_miss=sum(not (a or b) for a, b in zip(hits_a, hits_b, strict=True)),
        mcnemar_p=compute_mcnemar_p(wins, losses),
        images_changed=sum(pair.a.image != pair.b.image for pair in boxed) if names_image and boxed else None,
        statuses=_count_statuses(pairs),
    )


def _average(hits: Sequence[bool], tasks: Sequence[str]) -> float:
    """Mean over tasks of the accuracy, in percent."""
    total, count = Counter(tasks), Counter(task for task, hit in zip(tasks, hits, strict=True) if hit)
    return 100 * sum(count[task] / total[task] for task in sorted(total)) / len(total)


def _round(value: float) -> float:
    return round(value, PERCENT_DECIMALS) + 0.0  # no negative zero


def compute_mcnemar_p(wins: int, losses: int) -> float:
    """McNemar's exact two-sided p: how likely a split at least as uneven is if either side wins alike."""
    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def _count_statuses(pairs: Sequence[Pair]) -> dict[str, int]:
    changes = Counter(f"{pair.a.status} -> {pair.b.status}" for pair in pairs if pair.a.status != pair.b.status)
    return dict(sorted(changes.items(), key=lambda change: (-change[1], change[0])))
