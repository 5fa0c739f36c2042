"""From two sides to numbers: paired deltas, wins and losses, and what changed in the answers.

B minus A throughout: a sample is won if B hits it and A does not, and lost if A hits it and B does not.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean, median
from typing import Any

from scipy.stats import binomtest

from migrl.compare.differences import Difference
from migrl.compare.sides import Reply, Side
from migrl.errors import UserError
from migrl.evidence.evaluations import EVALUATIONS
from migrl.grounding.samples import BoxTarget, Sample
from migrl.scoring.tables import PERCENT_DECIMALS
from migrl.statistics.bootstrap import find_single_cluster_tasks
from migrl.statistics.intervals import bootstrap_macro_delta

WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Pair:
    """One sample and both answers."""

    sample: Sample
    a: Reply
    b: Reply

    @property
    def won(self) -> bool:
        return self.b.score.hit and not self.a.score.hit

    @property
    def lost(self) -> bool:
        return self.a.score.hit and not self.b.score.hit

    @property
    def same_words(self) -> float:
        """How much of A's completion, in words and marks, comes before the first that differs in B's; 1 is all."""
        a, b = (WORD.findall(reply.completion or "") for reply in (self.a, self.b))
        same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(a, b, strict=False)))
        return same / len(a) if a else 1.0


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


@dataclass(frozen=True)
class Comparison:
    """All that was compared: the sides, what they do not share, the cells, and the pairs in a fixed order.

    `cells` maps (benchmark, task) to its cell, in the order of a table: each benchmark (task "") before its tasks, all
    (both "") at the end.
    """

    a: Side
    b: Side
    unlike: tuple[Difference, ...]
    cells: Mapping[tuple[str, str], Cell]
    pairs: tuple[Pair, ...]

    @property
    def overall(self) -> Cell:
        return self.cells["", ""]

    @property
    def texts(self) -> dict[str, Any] | None:
        """How many completions are the same text, and the share of A that the others begin with; None without texts."""
        if any(pair.a.completion is None or pair.b.completion is None for pair in self.pairs):
            return None
        begins = [pair.same_words for pair in self.pairs if pair.a.completion != pair.b.completion]
        equal = len(self.pairs) - len(begins)
        return {"n": len(self.pairs), "equal": equal, "others_share": round(median(begins), 3) if begins else None}

    @property
    def warning(self) -> str:
        """The first line of every output where a difference was let through; empty where there was none."""
        texts = "; ".join(f"{difference.key} ({difference.text})" for difference in self.unlike)
        return f"Not alike, and let through by name: {texts}" if texts else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the sides, in sentences."""
        unknown = self.a.evaluation is None and self.b.evaluation is None and not self.b.is_peer
        text = f"A and B: no {EVALUATIONS} beside the rows; engine, precision, device and limits are not known"
        return (*self.a.notes, *self.b.notes, *((text,) if unknown else ()))

    def to_json(self) -> dict[str, Any]:
        """As JSON; the differences that were let through come first."""
        benchmarks: dict[str, Any] = {}
        for (benchmark, task), cell in self.cells.items():
            if task:
                benchmarks[benchmark]["tasks"][task] = vars(cell)
            elif benchmark:
                benchmarks[benchmark] = {**vars(cell), "tasks": {}}
        return {
            "warning": self.warning,
            "allowed": {difference.key: difference.text for difference in self.unlike},
            "a": self.a.title,
            "b": self.b.title,
            "notes": list(self.notes),
            "all": vars(self.overall),
            "texts": self.texts,
            "benchmarks": benchmarks,
            "won": [pair.sample.uid for pair in self.pairs if pair.won],
            "lost": [pair.sample.uid for pair in self.pairs if pair.lost],
        }


def compare_sides(a: Side, b: Side, unlike: Sequence[Difference] = ()) -> Comparison:
    """Pair the samples that both sides answered, and count. The sides were checked by `find_differences`.

    Raises:
        UserError: no sample was answered by both.
    """
    pairs = [Pair(row.sample, a.replies[uid], b.replies[uid]) for uid, row in a.samples.items() if uid in b.replies]
    if not pairs:
        raise UserError(f"{a.title} and {b.title}: no sample was answered by both; compare runs on one benchmark")
    pairs.sort(key=lambda pair: (pair.sample.benchmark, pair.sample.task, pair.sample.uid))
    groups: dict[tuple[str, str], list[Pair]] = {}
    for pair in pairs:
        benchmark, task = pair.sample.benchmark, pair.sample.task
        groups.setdefault((benchmark, ""), []).append(pair)
        groups.setdefault((benchmark, task), []).append(pair)
    groups["", ""] = pairs
    names_image = a.names_image and b.names_image
    cells = {key: count_pairs(some, names_image) for key, some in groups.items()}
    return Comparison(a, b, tuple(unlike), cells, tuple(pairs))


def count_pairs(pairs: Sequence[Pair], names_image: bool) -> Cell:
    """What a table says of some pairs; `names_image`: both rules read the image of a box."""
    hits_a, hits_b = [pair.a.score.hit for pair in pairs], [pair.b.score.hit for pair in pairs]
    tasks = [f"{pair.sample.benchmark}/{pair.sample.task}" for pair in pairs]
    clusters = [pair.sample.cluster for pair in pairs]
    low = high = None
    if not find_single_cluster_tasks(tasks, clusters):
        interval = bootstrap_macro_delta(hits_b, hits_a, tasks, clusters)
        low, high = _round(interval.low), _round(interval.high)
    accuracy_a, accuracy_b = _average(hits_a, tasks), _average(hits_b, tasks)
    both = Counter(zip(hits_a, hits_b, strict=True))
    wins, losses = both[False, True], both[True, False]
    boxed = [(pair.a.score.image, pair.b.score.image) for pair in pairs if isinstance(pair.sample.target, BoxTarget)]
    statuses = [(pair.a.score.status, pair.b.score.status) for pair in pairs]
    changes = Counter(f"{first} -> {second}" for first, second in statuses if first != second)
    return Cell(
        n=len(pairs),
        clusters=len(set(zip(tasks, clusters, strict=True))),
        accuracy_a=_round(accuracy_a),
        accuracy_b=_round(accuracy_b),
        delta=_round(accuracy_b - accuracy_a),
        low=low,
        high=high,
        wins=wins,
        losses=losses,
        both_hit=both[True, True],
        both_miss=both[False, False],
        mcnemar_p=float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0,  # exact, two-sided
        images_changed=sum(first != second for first, second in boxed) if names_image and boxed else None,
        statuses=dict(sorted(changes.items(), key=lambda change: (-change[1], change[0]))),
    )


def _average(hits: Sequence[bool], tasks: Sequence[str]) -> float:
    """Mean over tasks of the accuracy, in percent."""
    by_task: dict[str, list[bool]] = {}
    for task, hit in zip(tasks, hits, strict=True):
        by_task.setdefault(task, []).append(hit)
    return 100 * fmean(fmean(by_task[task]) for task in sorted(by_task))


def _round(value: float) -> float:
    return round(value, PERCENT_DECIMALS) + 0.0  # no negative zero
