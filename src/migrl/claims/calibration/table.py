"""The table of the calibration: error rates with their Monte-Carlo intervals, what is required of them, and in words
what each benchmark can show."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from migrl.claims.calibration.grid import Cell, Effort
from migrl.claims.calibration.simulate import Judged
from migrl.claims.calibration.write import render_table
from migrl.claims.claims import Verdict
from migrl.files import hash_json, write_json, write_text
from migrl.statistics.intervals import wilson_interval
from migrl.statistics.power import SHOWN, Design, measure_power, predict_reproduced

FORMAT = 1
MOST_FALSE_ALARMS = 2.5
COVERAGE = (93.0, 97.0)
LEAST_SHOWN = 100 * SHOWN
_DECIMALS = 4
_Z = 1.96
_VERDICTS = [verdict for verdict in get_args(Verdict) if verdict != "not run"]


def hash_designs(designs: Mapping[str, Design]) -> str:
    """What a table belongs to: SHA-256 of the designs' numbers and sources."""
    return hash_json({claim: design.model_dump(mode="json") for claim, design in designs.items()})


def build_table(
    designs: Mapping[str, Design], effort: Effort, outcomes: Mapping[Cell, Sequence[Judged]]
) -> dict[str, Any]:
    """The content of `table.json`; shares in percent, differences in points.

    Args:
        outcomes: judged runs as `run_grid` returns them.
    """
    rows = [_build_row(designs[cell.claim], cell, runs) for cell, runs in outcomes.items()]
    return {
        "format": FORMAT,
        "designs": hash_designs(designs),
        "effort": asdict(effort),
        "pooled": _pool(rows),
        "benchmarks": [_summarize(claim, design, rows) for claim, design in designs.items()],
        "rows": rows,
    }


def _build_row(design: Design, cell: Cell, runs: Sequence[Judged]) -> dict[str, Any]:
    delta = cell.build_scenario(design).delta
    error = design.predict_standard_error(delta, cell.alternative)
    correlation = design.correlations[cell.alternative]
    deltas, lows, highs, errors = np.array([run[:4] for run in runs]).T
    verdicts = [run.verdict for run in runs]
    widths = highs - lows
    spread = _Z * float(np.std(widths, ddof=1)) / len(runs) ** 0.5
    mean = float(np.mean(widths))
    row = {
        "claim": cell.claim,
        "expected": design.expected,
        "truth": cell.truth,
        "delta": _round(delta),
        "correlation": cell.alternative,
        "arms": correlation.arms,
        "samples": correlation.samples,
        "runs": len(runs),
        "verdicts": {verdict: _share(verdicts.count(verdict), len(runs)) for verdict in _VERDICTS},
        "coverage": _share(int(np.sum((lows <= delta) & (delta <= highs))), len(runs)),
        "width": {"mean": _round(mean), "low": _round(mean - spread), "high": _round(mean + spread)},
        "mean_delta": _round(float(np.mean(deltas))),
        "deviation": _round(float(np.std(deltas, ddof=1))),
        "mean_standard_error": _round(float(np.mean(errors))),
        "predicted_standard_error": _round(error),
        "predicted_reproduced": _round(100 * predict_reproduced(delta, error, design.expected)),
        "first_run": list(runs[0]),
    }
    return row | {"required": _require(row, verdicts)}


def _require(row: Mapping[str, Any], verdicts: Sequence[str]) -> list[dict[str, Any]]:
    """What is asked of a row. `kept` is whether the figure lies within the limits, `refuted` whether its whole
    Monte-Carlo interval lies outside."""
    figures: list[tuple[str, Mapping[str, float], float, float]] = [("coverage", row["coverage"], *COVERAGE)]
    if row["truth"] == "none":
        figures.append(("type-I error", row["verdicts"]["reproduced"], 0.0, MOST_FALSE_ALARMS))
    if row["truth"] == "full" and row["predicted_reproduced"] >= LEAST_SHOWN:
        figures.append(("reproduced", row["verdicts"]["reproduced"], LEAST_SHOWN, 100.0))
    elif row["truth"] == "full":
        either = sum(verdict in ("reproduced", "inconclusive") for verdict in verdicts)
        figures.append(("reproduced or inconclusive", _share(either, len(verdicts)), LEAST_SHOWN, 100.0))
    return [
        {
            "figure": name,
            **figure,
            "least": least,
            "most": most,
            "kept": least <= figure["share"] <= most,
            "refuted": figure["high"] < least or figure["low"] > most,
        }
        for name, figure, least, most in figures
    ]


def _pool(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Error rates over many cells, known better than those of one: coverage of all, and type-I errors where nothing but
    the interval's lower end keeps the rule from "reproduced" (2.5 % by construction; elsewhere the claim does too)."""
    bound = [row for row in rows if row["truth"] == "none" and row["predicted_reproduced"] > MOST_FALSE_ALARMS - 0.01]
    return {
        "type_1_error": _pool_shares([(row["verdicts"]["reproduced"], row["runs"]) for row in bound]),
        "coverage": _pool_shares([(row["coverage"], row["runs"]) for row in rows]),
    }


def _pool_shares(figures: Sequence[tuple[Mapping[str, float], int]]) -> dict[str, float]:
    runs = sum(count for _, count in figures)
    return {"runs": runs, **_share(sum(round(figure["share"] * count / 100) for figure, count in figures), runs)}


def _summarize(claim: str, design: Design, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Size, power and finding of one benchmark at its stated correlations."""
    stated = {row["truth"]: row for row in rows if row["claim"] == claim and row["correlation"] == "stated"}
    shown = stated["full"]["verdicts"]["reproduced"]
    power = measure_power(design.predict_standard_error(design.full_delta), design.expected)
    summary = {
        "claim": claim,
        "expected": design.expected,
        "supposed": design.supposed,
        "tasks": len(design.tasks),
        "n": design.n,
        "clusters": design.clusters,
        **{key: power[key] for key in ("standard_error", "detectable")},
        "predicted_reproduced": stated["full"]["predicted_reproduced"],
        "reproduced": shown,
        "type_1_error": stated["none"]["verdicts"]["reproduced"],
        "coverage": stated["full"]["coverage"],
    }
    return summary | {"finding": _state_finding(summary, stated["full"], stated["half"])}


def _state_finding(summary: Mapping[str, Any], full: Mapping[str, Any], half: Mapping[str, Any]) -> str:
    claimed = summary["expected"] is not None
    size = f"{'the claimed' if claimed else 'a true'} {full['delta']:+g}"
    share = f"{summary['reproduced']['share']:.1f} % of runs"
    # With a number claimed, too large a share of "reproduced" at half of it is what the benchmark cannot exclude.
    mistaken = (
        f"; half of it is called reproduced in {half['verdicts']['reproduced']['share']:.1f} %" if claimed else ""
    )
    if summary["predicted_reproduced"] >= LEAST_SHOWN:
        return f"can show {size}: reproduced in {share}{mistaken}"
    other = full["verdicts"]["inconclusive"]["share"]
    return (
        f"cannot show {size}: reproduced in {share}, inconclusive in {other:.1f} %; "
        f"it takes a true {summary['detectable']:+.1f} to be above 0 in 95 %{mistaken}"
    )


def _share(count: int, runs: int) -> dict[str, float]:
    """Percent of runs with its 95 % Wilson interval."""
    low, high = wilson_interval(count, runs)
    return {"share": _round(100 * count / runs), "low": _round(100 * low), "high": _round(100 * high)}


def _round(value: float) -> float:
    return round(value, _DECIMALS)


def list_misses(table: Mapping[str, Any]) -> list[str]:
    """Required figures that the simulation refutes: their whole Monte-Carlo interval lies outside the limits."""
    return [
        f"{row['claim']}, true {row['delta']:+g}, {row['correlation']} correlations: {check['figure']} "
        f"{check['share']:.2f} % ({check['low']:.2f} to {check['high']:.2f}), required {check['least']:g} to "
        f"{check['most']:g} %"
        for row in table["rows"]
        for check in row["required"]
        if check["refuted"]
    ]


def write_table(table: Mapping[str, Any], folder: Path) -> None:
    """Write `table.json` and `table.md`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", render_table(table))
    write_json(folder / "table.json", table)
