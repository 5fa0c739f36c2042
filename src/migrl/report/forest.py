"""The forest plot as a page shows it: rows of marks on one scale, in percent of the plot's width.

It is laid out here and drawn by verdicts.html with the page's own elements, so that it fits a phone, follows the colour
scheme, and its numbers are text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrl.report.text import is_number

MARGIN = 0.04  # of the span, free on either side
TICKS = 6  # about as many, at round numbers


@dataclass(frozen=True)
class Mark:
    """One interval. Positions are percent of the width; `record` is the claim or the reading it comes from."""

    record: Mapping[str, Any]
    at: float
    low: float
    high: float
    decided: bool
    expected: float | None


@dataclass(frozen=True)
class ForestRow:
    """A claim and the readings of it that were measured."""

    mark: Mark
    readings: tuple[Mark, ...]


@dataclass(frozen=True)
class Forest:
    """Rows in the order of the claims, where zero lies, and the ticks as (value, position)."""

    rows: tuple[ForestRow, ...]
    zero: float
    ticks: tuple[tuple[float, float], ...]


def lay_out_forest(claims: Sequence[Mapping[str, Any]]) -> Forest | None:
    """Place the claims that were run on one scale, in percentage points; None if none was."""
    run = [claim for claim in claims if is_number(claim.get("delta"))]
    if not run:
        return None
    records = [*run, *(reading for claim in run for reading in claim.get("readings") or ())]
    keys = ("delta", "low", "high", "expected")
    values = [float(record[key]) for record in records for key in keys if is_number(record.get(key))]
    least, most = min(0.0, *values), max(0.0, *values)
    span = (most - least) or 1.0
    start, width = least - MARGIN * span, (1 + 2 * MARGIN) * span

    def place(value: Any) -> float:
        return round(100 * (float(value) - start) / width, 2)

    def mark(record: Mapping[str, Any], expected: Any) -> Mark:
        low, high = (record[key] if is_number(record.get(key)) else record["delta"] for key in ("low", "high"))
        target = place(expected) if is_number(expected) else None
        return Mark(record, place(record["delta"]), place(low), place(high), low > 0 or high < 0, target)

    rows = []
    for claim in run:
        readings = [mark(one, None) for one in claim.get("readings") or () if is_number(one.get("delta"))]
        rows.append(ForestRow(mark(claim, claim.get("expected")), tuple(readings)))
    ticks = list_ticks(start, start + width)
    return Forest(tuple(rows), place(0), tuple((tick, place(tick)) for tick in ticks))


def list_ticks(low: float, high: float, least_step: float = 0.0) -> list[float]:
    """About `TICKS` values within a range, a step of 1, 2, 5, 10, 20 ... (or 0.1, 0.2 ...) apart, 0 among them."""
    rough = max((high - low) / TICKS, least_step)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
