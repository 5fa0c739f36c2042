"""The official score of an evaluation: the same completions as the authors' scripts would read them.

Our own score reads the last answer and demands the right image. The official rules read the first box
anywhere and never look at the image, so that the two stand side by side in `scores.json` and in the report.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from migrl.benchmarks import OFFICIAL_RULES, OfficialRule
from migrl.benchmarks.measure import read_and_measure
from migrl.benchmarks.readings import BoxReading, ExactBox
from migrl.errors import UserError
from migrl.grounding.answers import READABLE
from migrl.grounding.samples import BoxTarget
from migrl.scoring.completions import is_hit
from migrl.scoring.tables import count_readings, has_box, measure_hits

Row = Mapping[str, Any]


def has_rule(benchmark: str) -> bool:
    """Whether a benchmark of boxes has an official rule here; where nobody has stated one, none is guessed."""
    return OFFICIAL_RULES.get(benchmark) is not None


def find_rule(benchmark: str) -> OfficialRule:
    """The rule of the official script for a benchmark of boxes.

    Raises:
        UserError: it has none.
    """
    rule = OFFICIAL_RULES.get(benchmark)
    if rule is None:
        raise UserError(f"benchmark {benchmark!r}: no official rule is known for it; read it by the strict rule")
    return rule


def score_officially(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Averages and parse ledger of one arm on one benchmark by the official rule.

    None for multiple choice, and for boxes without such a rule.
    """
    if not has_rule(rows[0]["benchmark"]) or not all(has_box(row) for row in rows):
        return None
    scored = [_score_row(row) for row in rows]
    hits = measure_hits(scored)
    return {
        "rule": find_rule(rows[0]["benchmark"]).name,
        **{key: hits[key] for key in ("macro", "low", "high", "micro")},
        **count_readings(scored),
    }


def read_officially(rows: Sequence[Row]) -> list[tuple[bool, bool]]:
    """Of each box of one benchmark by the official rule: whether it was read at all, and whether it is a hit.

    Raises:
        UserError: as `find_rule`.
    """
    scored = [_score_row(row) for row in rows]
    return [(row["status"] in READABLE, row["hit"]) for row in scored]


def _score_row(row: Row) -> dict[str, Any]:
    reading, iou = measure_officially(row)
    return {"task": row["task"], "cluster": row["cluster"], "status": reading.status, "hit": is_hit(iou)}


def measure_officially(row: Row) -> tuple[BoxReading, Fraction]:
    """What the official rule reads in a row's completion, and its IoU with the true box.

    Raises:
        UserError: as `find_rule`.
    """
    told = row["target"]
    target = BoxTarget(told["image"], tuple(told["box_unit"]), told.get("image_trusted", True))
    sizes = [(tuple(a), tuple(b)) for a, b in zip(row["sizes"], row["resized_sizes"], strict=True)]
    parse = find_rule(row["benchmark"]).parse
    return read_and_measure(row["completion"], parse, target, _make_exact(target), frame=row["frame"], sizes=sizes)


def _make_exact(target: BoxTarget) -> ExactBox:
    """The decimals of the target as fractions; a box of three decimals is exact again."""
    x1, y1, x2, y2 = (Fraction(str(v)) for v in target.box_unit)
    return (x1, y1, x2, y2)
