"""The committed designs and their calibration belong to the committed samples, and to the statistics as they are."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from correlations import measure_correlations

from migrl.claims.calibration import Effort, list_misses
from migrl.claims.calibration.grid import list_cells, run_cell
from migrl.claims.calibration.table import hash_designs
from migrl.statistics.power import load_designs

RESULTS = Path(__file__).resolve().parents[2] / "results"
TINY_ARMS = {"mig_bench": ("rl", "sft"), "out_of_domain": ("rl", "sft"), "cold_start": ("sft", "base")}


@pytest.fixture(scope="module")
def tiny_rows() -> list[dict[str, Any]]:
    with gzip.open(RESULTS / "tiny" / "samples.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("claim", ["mig_bench", "out_of_domain", "blink", "mmiu", "cold_start"])
def test_the_tiny_designs_have_the_sizes_and_correlations_of_the_committed_samples(
    claim: str, tiny_rows: list[dict[str, Any]]
) -> None:
    design = load_designs()[claim]
    arms = [
        {
            row["uid"]: row
            for row in tiny_rows
            if row["arm"] == arm and f"{row['benchmark']}/{row['task']}" in design.tasks
        }
        for arm in TINY_ARMS.get(claim, ("rl", "base"))
    ]
    rows = list(arms[1].values())
    places = [f"{row['benchmark']}/{row['task']}" for row in rows]
    assert set(places) == set(design.tasks)
    for task, told in design.tasks.items():
        sets = Counter(row["cluster"] for row, place in zip(rows, places, strict=True) if place == task)
        assert told.sets == Counter(sets.values())
    hits = [[arm[row["uid"]]["hit"] for row in rows] for arm in arms]
    found = measure_correlations(*hits, places, [row["cluster"] for row in rows])
    limits = design.correlations
    # A correlation of hits has a standard error of about 1.5 / sqrt(n); limits are those of the truth, not of one run.
    noise = 2 * 1.5 / len(rows) ** 0.5
    assert found.arms is not None and limits["low"].arms - noise < found.arms < limits["high"].arms + noise
    for samples in (found.first, found.second):
        assert samples is None or limits["high"].samples <= samples <= limits["low"].samples


def test_the_committed_table_belongs_to_the_committed_designs_and_statistics_and_meets_what_is_required() -> None:
    table = json.loads((RESULTS / "calibration" / "table.json").read_text(encoding="utf-8"))
    designs, effort = load_designs(), Effort(**table["effort"])
    assert table["designs"] == hash_designs(designs), "designs.yaml was changed; run: make calibrate"
    cells = list_cells(designs)
    assert [(row["claim"], row["truth"], row["correlation"]) for row in table["rows"]] == [
        (cell.claim, cell.truth, cell.alternative) for cell in cells
    ]
    for cell, row in zip(cells, table["rows"], strict=True):
        assert row["runs"] == cell.count_runs(effort)
        # One run of each cell again: statistics that changed would give other numbers.
        assert row["first_run"] == list(run_cell(designs[cell.claim], cell, effort, 0, 1)[0]), "run: make calibrate"
    assert effort.runs >= 2000
    assert table["pooled"]["type_1_error"]["low"] <= 2.5 and 93 <= table["pooled"]["coverage"]["share"] <= 97
    assert list_misses(table) == []
