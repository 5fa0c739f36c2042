"""The command that checks the verdicts' error rates by simulation."""

import os
from pathlib import Path
from typing import Annotated

import typer

from migrl.cli.shared import Results, Runs, app, console
from migrl.errors import UserError


@app.command()
def calibrate(
    results: Results = Path("results"),
    runs: Runs = Path("runs"),
    processes: Annotated[
        int | None, typer.Option("--processes", min=1, help="How many at once; one a core unless given.")
    ] = None,
    simulations: Annotated[
        int, typer.Option("--simulations", min=2, help="Pairs of runs per cell that carries a required error rate.")
    ] = 2500,
    others: Annotated[int, typer.Option("--others", min=2, help="Pairs of runs per cell of the other kind.")] = 400,
) -> None:
    """Simulate pairs of runs at the benchmarks' sizes; write how often each verdict errs. Resumes where it ended."""
    from migrl.claims.calibration import Effort, build_table, list_misses, run_grid, write_table
    from migrl.statistics.power import load_designs

    designs, effort = load_designs(), Effort(simulations, others)
    outcomes = run_grid(designs, effort, runs / "calibration", processes=processes or len(os.sched_getaffinity(0)))
    table = build_table(designs, effort, outcomes)
    write_table(table, results / "calibration")
    for entry in table["benchmarks"]:
        console.print(f"{entry['claim']}: {entry['finding']}", markup=False, soft_wrap=True)
    console.print(f"table: {results / 'calibration' / 'table.md'}", markup=False, soft_wrap=True)
    if misses := list_misses(table):
        raise UserError("required error rates are refuted; see the statistics, not the table:\n" + "\n".join(misses))
