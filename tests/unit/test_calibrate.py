"""Calibration: the simulation is what it says, the statistics keep their error rates, and wrong ones are found out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claim_rows import judge, make_claim, make_rows
from correlations import measure_correlations
from rows import change_row

from migrl.claims.calibration import Effort, build_table, list_misses, run_grid, write_table
from migrl.claims.calibration.grid import Cell, list_cells, run_cell
from migrl.claims.calibration.simulate import Scenario, judge_simulated, simulate_hits
from migrl.claims.claims import Verdict
from migrl.statistics.intervals import bootstrap_macro_delta
from migrl.statistics.power import Design

EFFORT = Effort(runs=300, side_runs=60, resamples=300)


def make_design(expected: float | None = None, **changes: Any) -> Design:
    """Two tasks of 60 image sets of 1 or 2 samples; the standard error is about 3 points."""
    tasks = {f"b/t{number}": {"sets": {1: 30, 2: 30}, "accuracy": 0.3 + 0.2 * number} for number in range(2)}
    fields: dict[str, Any] = {
        "expected": expected,
        "supposed": 12.0 if expected is None else None,
        "tasks": tasks,
        "correlations": {
            "low": {"arms": 0.4, "samples": 0.5},
            "stated": {"arms": 0.7, "samples": 0.3},
            "high": {"arms": 0.9, "samples": 0.0},
        },
        "sources": dict.fromkeys(("sizes", "sets", "accuracies", "correlations"), "made up"),
    }
    return Design.model_validate(fields | changes)


def calibrate(designs: dict[str, Design], cells: list[Cell]) -> dict[str, Any]:
    """A table of some cells, in this process, so that a test can put other statistics in place."""
    outcomes = {
        cell: run_cell(designs[cell.claim], cell, EFFORT, 0, cell.count_runs(EFFORT))
        for cell in list_cells(designs)
        if cell in cells
    }
    return build_table(designs, EFFORT, outcomes)


def list_stated(claim: str) -> list[Cell]:
    return [cell for cell in list_cells({claim: make_design()}) if cell.alternative == "stated"]


def test_the_simulated_answers_hang_together_as_the_design_says() -> None:
    design, generator = make_design(12.0, tasks={"b/t": {"sets": {3: 4000}, "accuracy": 0.4}}), np.random.default_rng(0)
    scenario = Scenario(design, 12.0, "stated")
    first, second = simulate_hits(scenario, generator)
    found = measure_correlations(first, second, scenario.layout.tasks, scenario.layout.clusters)
    # 12,000 samples, 12,000 pairs within sets: a correlation is known to about 0.02.
    assert (found.arms, found.first, found.second, found.across) == pytest.approx((0.7, 0.3, 0.3, 0.21), abs=0.06)
    assert 100 * (first.mean() - second.mean()) == pytest.approx(12.0, abs=2.5)


def test_correlations_need_hits_and_misses_and_sets_of_two() -> None:
    found = measure_correlations([True, False, True], [True, True, True], ["t"] * 3, ["a", "a", "b"])
    assert found.arms is None
    found = measure_correlations([True, False] * 50, [True, False] * 50, ["t"] * 100, list(map(str, range(100))))
    assert (found.first, found.across) == (None, None)


def test_the_simulation_is_judged_as_rows_are() -> None:
    for expected in (None, 8.0):
        scenario = Scenario(make_design(expected), 9.0, "stated")
        hits = simulate_hits(scenario, np.random.default_rng((3, 0)))
        layout, rows = scenario.layout, []
        for arm, flags in zip(("rl", "sft"), hits, strict=True):
            by_task: dict[str, list[bool]] = {}
            for task, hit in zip(layout.tasks, flags.tolist(), strict=True):
                by_task.setdefault(task, []).append(hit)
            named = zip(make_rows(arm, by_task), layout.clusters, strict=True)
            rows += [change_row(row, cluster=cluster) for row, cluster in named]
        (entry,) = judge([make_claim(benchmarks=["b"], expected=expected)], rows, resamples=500)
        judged = judge_simulated(scenario, (3, 0), resamples=500)
        assert [entry[key] for key in ("delta", "low", "high", "standard_error", "verdict")] == list(judged)


def test_the_statistics_keep_the_required_error_rates() -> None:
    designs = {"strong": make_design(14.0), "weak": make_design(6.0), "direction": make_design()}
    table = calibrate(designs, [cell for claim in designs for cell in list_stated(claim)])
    assert list_misses(table) == []
    figures = {(row["claim"], check["figure"]) for row in table["rows"] for check in row["required"]}
    assert {("strong", "reproduced"), ("weak", "reproduced or inconclusive"), ("weak", "type-I error")} <= figures
    assert "cannot show the claimed +6" in table["benchmarks"][1]["finding"]


def _ignore_zero(low: float, high: float, expected: float | None) -> tuple[Verdict, str]:
    return ("reproduced", "") if high >= (expected or 0) else ("not reproduced", "")


def _ask_for_more(low: float, high: float, expected: float | None) -> tuple[Verdict, str]:
    return ("reproduced", "") if low > (expected or 0) else ("direction only", "")


@pytest.mark.parametrize(
    ("name", "wrong", "figure"),
    [
        ("decide_verdict", _ignore_zero, "type-I error"),
        ("decide_verdict", _ask_for_more, "reproduced"),
        ("bootstrap_macro_delta", partial(bootstrap_macro_delta, level=0.85), "coverage"),
    ],
)
def test_a_lenient_or_strict_rule_and_a_narrow_interval_are_found_out(
    name: str, wrong: Callable[..., Any], figure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"migrl.claims.calibration.simulate.{name}", wrong)
    design = make_design(14.0 if figure == "reproduced" else 6.0)
    misses = list_misses(calibrate({"c": design}, list_stated("c")))
    assert any(f": {figure} " in miss for miss in misses), misses


def test_intervals_that_take_samples_of_a_set_for_independent_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_sets(first: Any, second: Any, tasks: Any, clusters: Any, **settings: Any) -> Any:
        return bootstrap_macro_delta(first, second, tasks, list(map(str, range(len(tasks)))), **settings)

    monkeypatch.setattr("migrl.claims.calibration.simulate.bootstrap_macro_delta", forget_sets)
    tasks = {"b/t": {"sets": {4: 60}, "accuracy": 0.5}}
    pair = dict.fromkeys(("low", "stated", "high"), {"arms": 0.0, "samples": 0.6})
    design = make_design(6.0, tasks=tasks, correlations=pair)
    assert any(": coverage " in miss for miss in list_misses(calibrate({"sets": design}, list_stated("sets"))))


def test_the_result_does_not_depend_on_processes_and_finished_cells_are_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    designs, effort = {"c": make_design(6.0)}, Effort(runs=60, side_runs=3, resamples=50)
    found = run_grid(designs, effort, tmp_path, processes=2)
    alone = {cell: run_cell(designs["c"], cell, effort, 0, cell.count_runs(effort)) for cell in list_cells(designs)}
    assert found == alone
    assert "simulated pairs of runs: 141 of 141, took" in capsys.readouterr().err
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert run_grid(designs, effort, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    for out in ("a", "b"):
        write_table(build_table(designs, effort, found), tmp_path / out)
    assert (tmp_path / "a" / "table.json").read_bytes() == (tmp_path / "b" / "table.json").read_bytes()
    assert "| `c` | 180 | 120 | 2 |" in (tmp_path / "a" / "table.md").read_text(encoding="utf-8")
