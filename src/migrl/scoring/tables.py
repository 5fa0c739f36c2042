"""From scored rows to one table: accuracies in percent with intervals, per task and over all, and the parse ledger.

Evaluation and rescoring share this table.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from migrl.grounding.answers import STATUSES
from migrl.grounding.samples import BoxesTarget, BoxTarget, list_boxes
from migrl.scoring.completions import THRESHOLDS
from migrl.scoring.rows import ScoredRow
from migrl.statistics.bootstrap import find_single_cluster_tasks
from migrl.statistics.intervals import bootstrap_macro, normal_macro, wilson_interval, wilson_over_clusters

PERCENT_DECIMALS = 4
MAX_TOKENS = 10**9  # no completion comes near it, and no mean of larger ones is sure to be a float


def summarize_rows(rows: Sequence[ScoredRow], *, reads_image: bool = True) -> dict[str, Any]:
    """The table of one arm on one benchmark.

    Args:
        reads_image: False for a rule that does not look at the image which an answer names.

    Returns:
        `macro` (mean over tasks) and `micro` (over samples) accuracy with the macro interval `low`, `high`;
        `metrics`: the same for each threshold and the mean IoU (boxes), or for the accuracy alone (choices);
        `tasks`, the parse `ledger`, `image_accuracy` over boxes whose image is trusted, rates, mean tokens.
        Percent throughout; None where a number does not exist.
    """
    tasks = group_by_task(rows)
    metrics = _measure_all(rows)
    main = metrics["acc_50" if "acc_50" in metrics else "accuracy"]
    readings = count_readings(rows)
    return {
        "macro": main["macro"],
        "micro": main["micro"],
        "low": main["low"],  # None where a task has a single image set: there is nothing to resample
        "high": main["high"],
        "n": count_samples(rows),
        "metrics": metrics,
        "tasks": {task: _summarize_task(tasks[task], reads_image) for task in sorted(tasks)},
        "ledger": readings["ledger"],
        "image_accuracy": _measure_images(rows) if reads_image else None,
        "parse_rate": readings["parse_rate"],
        "truncation_rate": _percent_known(row.truncated for row in rows),
        "mean_tokens": _mean_known(row.tokens for row in rows),
    }


def measure_hits(rows: Sequence[ScoredRow]) -> dict[str, float | None]:
    """Macro and micro accuracy of `hit` with their intervals, and nothing that takes longer."""
    return _measure(rows, [row.score.hit for row in rows], bootstrap_macro)


def count_readings(rows: Sequence[ScoredRow]) -> dict[str, Any]:
    """The parse `ledger`, and the `parse_rate` in percent."""
    statuses = Counter(row.score.status for row in rows)
    return {
        # Only a server leaves anything unanswered.
        "ledger": {name: statuses[name] for name in STATUSES if name != "unanswered" or statuses[name]},
        "parse_rate": _percent(row.score.readable for row in rows),
    }


def group_by_task(rows: Sequence[ScoredRow]) -> dict[str, list[ScoredRow]]:
    """Rows of each task, in the rows' order."""
    tasks: dict[str, list[ScoredRow]] = {}
    for row in rows:
        tasks.setdefault(row.sample.task, []).append(row)
    return tasks


def _measure_all(rows: Sequence[ScoredRow]) -> dict[str, dict[str, float | None]]:
    ious = [row.score.iou for row in rows if row.score.iou is not None]
    if len(ious) < len(rows):
        return {"accuracy": measure_hits(rows)}
    metrics = {
        # An answer on the wrong image has IoU 0, so at 0.5 this is `hit`.
        name: _measure(rows, [row.score.reaches(threshold) for row in rows], bootstrap_macro)
        for name, threshold in THRESHOLDS.items()
    }
    return metrics | {"mean_iou": _measure(rows, [float(iou) for iou in ious], normal_macro)}


def _measure(rows: Sequence[ScoredRow], values: list[Any], estimate: Callable[..., Any]) -> dict[str, float | None]:
    """Macro and micro mean of one value a row, in percent, each with its 95 % interval over image sets."""
    tasks, clusters = [row.sample.task for row in rows], [row.sample.cluster for row in rows]
    by_task: dict[str, list[Any]] = {}
    for task, value in zip(tasks, values, strict=True):
        by_task.setdefault(task, []).append(value)
    means = [math.fsum(by_task[task]) / len(by_task[task]) for task in sorted(by_task)]
    return {
        "macro": _round(math.fsum(means) / len(means)),
        **_bounds(values, tasks, clusters, estimate, "low", "high"),
        "micro": _round(math.fsum(values) / len(values)),
        **_bounds(values, ["all"] * len(values), clusters, estimate, "micro_low", "micro_high"),
    }


def _bounds(
    values: list[Any], tasks: list[str], clusters: list[str], estimate: Callable[..., Any], low: str, high: str
) -> dict[str, float | None]:
    if find_single_cluster_tasks(tasks, clusters):
        return {low: None, high: None}
    interval = estimate(values, tasks, clusters)
    return {low: round(interval.low, PERCENT_DECIMALS), high: round(interval.high, PERCENT_DECIMALS)}


def count_samples(rows: Iterable[ScoredRow]) -> int:
    """How many samples were answered; with several training seeds each has several rows."""
    return len({row.sample.uid for row in rows})


def _summarize_task(rows: list[ScoredRow], reads_image: bool) -> dict[str, Any]:
    low, high = _bound_task(rows)
    ious = [row.score.iou for row in rows if row.score.iou is not None]
    return {
        "accuracy": _percent(row.score.hit for row in rows),
        "n": count_samples(rows),
        "low": low,
        "high": high,
        "mean_iou": _round(math.fsum(ious) / len(ious)) if ious else None,
        "image_accuracy": _measure_images(rows) if reads_image else None,
        "acc_30": _percent(row.score.reaches(0.3) for row in rows) if ious else None,
        "acc_70": _percent(row.score.reaches(0.7) for row in rows) if ious else None,
    }


def _bound_task(rows: list[ScoredRow]) -> tuple[float, float]:
    """The 95 % interval of one task's accuracy, in percent, over its image sets like those of the averages.

    Wilson's, which holds at 0 and 100 % too: over samples where each is an image set of its own, else over image sets.
    Answers of several training seeds to one sample are correlated, so their mean counts as one answer to it.
    """
    clusters, n = [row.sample.cluster for row in rows], count_samples(rows)
    if len(set(clusters)) < n:
        low, high = wilson_over_clusters([row.score.hit for row in rows], clusters)
    else:
        low, high = wilson_interval(sum(row.score.hit for row in rows) * n / len(rows), n)
    return _round(low), _round(high)


def _measure_images(rows: Iterable[ScoredRow]) -> float | None:
    """How often the right image is named, over boxes whose image the benchmark says reliably; None without any.

    A list has to put its boxes into exactly the images that hold one.
    """
    asked = [(row.score, row.sample.target) for row in rows]
    return _percent_known(
        score.readable and score.images == {box.image for box in list_boxes(target)}
        for score, target in asked
        if isinstance(target, BoxesTarget) or (isinstance(target, BoxTarget) and target.image_trusted)
    )


def _round(share: float) -> float:
    return round(100 * share, PERCENT_DECIMALS)


def _percent(flags: Iterable[bool]) -> float:
    values = list(flags)
    return _round(sum(values) / len(values))


def _percent_known(flags: Iterable[bool | None]) -> float | None:
    known = [flag for flag in flags if flag is not None]
    return _percent(known) if known else None


def _mean_known(numbers: Iterable[int | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return round(sum(known) / len(known), PERCENT_DECIMALS) if known else None
