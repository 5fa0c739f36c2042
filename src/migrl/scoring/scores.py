"""From evaluation rows to `scores.json`: arm -> benchmark -> table."""

from typing import Any

from migrl.grounding.samples import BoxesTarget, BoxTarget
from migrl.scoring.comparable import ComparableRows
from migrl.scoring.detections import score_detections
from migrl.scoring.official import find_rule, has_rule
from migrl.scoring.tables import count_readings, measure_hits, summarize_rows


def compute_scores(rows: ComparableRows) -> dict[str, Any]:
    """The content of `scores.json`: arm -> benchmark -> accuracies in percent, intervals, parse ledger.

    Benchmarks of boxes also hold `compat`, the score by the official script's rule, and those of lists `detections`,
    MC-Bench's metrics.
    """
    scores: dict[str, Any] = {}
    for (arm, benchmark), own in sorted(rows.groups.items()):
        table = summarize_rows(own)
        if has_rule(benchmark) and all(isinstance(row.sample.target, BoxTarget) for row in own):
            table["compat"] = _score_officially(rows, arm, benchmark)
        if all(isinstance(row.sample.target, BoxesTarget) for row in own):
            table["detections"] = score_detections(own)
        scores.setdefault(arm, {})[benchmark] = table
    return scores


def _score_officially(rows: ComparableRows, arm: str, benchmark: str) -> dict[str, Any]:
    read = rows.read(arm, benchmark, "official")
    hits = measure_hits(read)
    return {
        "rule": find_rule(benchmark).name,
        **{key: hits[key] for key in ("macro", "low", "high", "micro")},
        **count_readings(read),
    }
