"""From completions to the verdict on a published level: one path for a run here and for outputs that others stored.

    completions -> score_items, the authors' rule -> accuracy with its interval -> agrees, differs

The tolerance is nobody's choice. The stated level has to lie in the 95 % interval of the measured one, which resamples
image sets as those of the claims do; where there is nothing to resample it is Wilson's over samples. Before a run it
is that of binomial samples of the benchmark's size at the stated level. Both runs ask the same questions, so a true
repetition comes nearer than that, and a level outside it was not repeated.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from migrl.benchmarks import BENCHMARKS, Annotations, Item
from migrl.peers.load import Peer
from migrl.scoring.rescore import Prediction, ScoreSettings, read_predictions, score_items
from migrl.scoring.rows import ScoredRow
from migrl.scoring.tables import count_readings, group_by_task, measure_hits
from migrl.statistics.intervals import wilson_interval
from migrl.statistics.power import Z, load_designs

Verdict = Literal["agrees", "differs", "not run"]
ROUNDING = 0.005
"""Points that a published level, of two decimals, may have been rounded by."""
_DECIMALS = 4


@dataclass(frozen=True)
class Judged:
    """What became of one record: percent and points; None where nothing was measured.

    `tolerance` is half the width of the interval; `device` says what answered, `commit` with which weights of the Hub.
    """

    peer: Peer
    verdict: Verdict
    reason: str
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float | None = None
    n: int = 0
    tasks: Mapping[str, float] = field(default_factory=dict)
    ledger: Mapping[str, int] = field(default_factory=dict)
    device: str | None = None
    commit: str | None = None


def judge(
    peer: Peer,
    items: Sequence[Item],
    completions: Mapping[str, Prediction],
    images: Path,
    device: str,
    commit: str | None = None,
) -> Judged:
    """The verdict on one record.

    Args:
        items: the benchmark's records; each needs its completion, by uid.
        images: folder that the records' pictures start from; read for frames in pixels only.

    Raises:
        UserError: as `score_items`.
    """
    asked, factor = peer.asked, peer.family.pixel_factor
    settings = ScoreSettings(peer.rule, peer.frame, asked.min_pixels, asked.max_pixels, pixel_factor=factor)
    annotations = Annotations("as asked", tuple(items))
    rows = score_items(BENCHMARKS[peer.benchmark], annotations, completions, settings, images)
    measured, low, high = _measure(rows, peer.averaging)
    inside = low - ROUNDING <= peer.stated <= high + ROUNDING
    place = "in" if inside else "outside"
    tasks = {task: _percent(own) for task, own in sorted(group_by_task(rows).items())}
    return Judged(
        peer,
        "agrees" if inside else "differs",
        f"{peer.stated:.2f} lies {place} the interval",
        measured,
        low,
        high,
        round((high - low) / 2, _DECIMALS),
        len(rows),
        tasks,
        count_readings(rows)["ledger"],
        device,
        commit,
    )


def read_stored(peer: Peer, annotations: Path, predictions: Path, images: Path) -> Judged:
    """The verdict on outputs that somebody stored, lines of `{"uid": ..., "completion": ...}`.

    Raises:
        UserError: as the benchmark's loader, `read_predictions` and `judge`.
    """
    loaded = BENCHMARKS[peer.benchmark].load(annotations, images, peer.benchmark)
    return judge(peer, loaded.items, read_predictions(predictions, loaded), images, "stored outputs")


def leave_out(peer: Peer, reason: str) -> Judged:
    """The record that was not run, with the tolerance that its size gives."""
    return Judged(peer, "not run", reason, tolerance=plan_tolerance(peer))


def plan_tolerance(peer: Peer) -> float | None:
    """Half of a 95 % interval, in points, of binomial samples at the stated level; None where the sizes are unknown.

    Sizes of tasks are those of designs.yaml. Every task is taken to have the stated level.
    """
    sizes = [
        sum(size * count for size, count in task.sets.items())
        for design in load_designs().values()
        for name, task in design.tasks.items()
        if name.split("/")[0] == peer.benchmark
    ]
    if not sizes:
        return None
    if peer.averaging == "micro":
        sizes = [sum(sizes)]
    share = peer.stated / 100
    variance = sum(share * (1 - share) / n for n in sizes) / len(sizes) ** 2
    return round(100 * Z * math.sqrt(variance), _DECIMALS)


def _measure(rows: Sequence[ScoredRow], averaging: str) -> tuple[float, float, float]:
    """Accuracy in percent and its interval."""
    hits: Mapping[str, Any] = measure_hits(rows)
    low, high = (hits[key] for key in (("low", "high") if averaging == "macro" else ("micro_low", "micro_high")))
    if low is None or low == high:  # a task with a single image set, or the same outcome everywhere
        bounds = wilson_interval(sum(row.score.hit for row in rows), len(rows))
        low, high = (round(100 * bound, _DECIMALS) for bound in bounds)
    return hits[averaging], low, high


def _percent(rows: Sequence[ScoredRow]) -> float:
    return round(100 * sum(row.score.hit for row in rows) / len(rows), _DECIMALS)
