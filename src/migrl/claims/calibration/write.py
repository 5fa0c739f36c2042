"""`table.md`: the calibration for people."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from migrl.markdown_table import make_table

_INTRODUCTION = """\
# Calibration of the verdicts

Simulated pairs of evaluations, judged by the statistics that judge real ones. Written by `make calibrate` from
`reproduce/designs.yaml`, which has the source of each size, accuracy and correlation. In brackets: the 95 % interval
of the simulation itself.

- {runs:,} runs a cell where the true difference is 0 or full and the correlations are as stated, {side_runs:,} in the
  others; {resamples:,} resamples a run (verdicts use 10,000; fewer add at most 0.05 points to an error rate).
- Full is the difference that the paper claims; where only the direction is claimed (the tiny recipe's five), it is
  what the reference runs showed on average.
- Required: "reproduced" at a true difference of 0 in at most 2.5 %; coverage of the 95 % interval 93 to 97 %; at the
  full difference "reproduced" in at least 95 % where the size permits (predicted by the closed form in
  `src/migrl/statistics/power.py`), elsewhere reproduced or inconclusive together.
- Over all cells the interval covers the true difference in {coverage}. Where nothing but the interval's lower
  end decides (a direction is claimed, or a difference below 3.9 standard errors), the type-I error is {type_1_error}.
- Of {checks} required figures, {kept} lie within their limits; {refuted} are refuted, that is, have their whole
  interval outside.
"""

_VERDICTS = ("reproduced", "direction only", "not reproduced", "inconclusive")
_BENCHMARKS = (
    "claim | samples: | image sets: | tasks: | standard error: | shown above 0 from: | type-I error: | finding"
)
_CELLS = (
    f"claim | true: | arms: | samples: | runs: | {': | '.join(_VERDICTS)}: | "
    "coverage: | width: | deviation: | predicted:"
)


def render_table(table: Mapping[str, Any]) -> str:
    """Markdown of a whole calibration table."""
    checks = [check for row in table["rows"] for check in row["required"]]
    parts = [
        _INTRODUCTION.format(
            **table["effort"],
            **{name: f"{_show(figure, 2)} % of {figure['runs']:,} runs" for name, figure in table["pooled"].items()},
            checks=len(checks),
            kept=sum(check["kept"] for check in checks),
            refuted=sum(check["refuted"] for check in checks),
        ),
        "## What each benchmark can show\n",
        *make_table(_BENCHMARKS, _list_benchmarks(table["benchmarks"])),
        "\n## Every cell\n\nShares in percent, differences and widths in points. `arms` and `samples` are the "
        "correlations of two arms on one sample and of two samples of one image set.\n",
        *make_table(_CELLS, _list_cells(table["rows"])),
    ]
    return "\n".join(parts) + "\n"


def _list_benchmarks(benchmarks: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    for entry in benchmarks:
        yield [
            f"`{entry['claim']}`",
            f"{entry['n']:,}",
            f"{entry['clusters']:,}",
            str(entry["tasks"]),
            f"{entry['standard_error']:.2f}",
            f"{entry['detectable']:+.1f}",
            _show(entry["type_1_error"]),
            entry["finding"],
        ]


def _list_cells(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        verdicts = row["verdicts"]
        width = row["width"]
        mark = " **refuted**" if any(check["refuted"] for check in row["required"]) else ""
        yield [
            f"`{row['claim']}`{mark}",
            f"{row['delta']:+.2f}" if row["delta"] else "0",
            f"{row['arms']:g}",
            f"{row['samples']:g}",
            f"{row['runs']:,}",
            *(_show(verdicts[name]) for name in _VERDICTS),
            _show(row["coverage"]),
            f"{width['mean']:.2f} ({width['low']:.2f} to {width['high']:.2f})",
            f"{row['deviation']:.2f}",
            f"{row['predicted_standard_error']:.2f}",
        ]


def _show(figure: Mapping[str, float], decimals: int = 1) -> str:
    share, low, high = (f"{figure[key]:.{decimals}f}" for key in ("share", "low", "high"))
    return f"{share} ({low} to {high})"
