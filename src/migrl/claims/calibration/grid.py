"""The grid of simulations: every design, true difference and correlation; in several processes, and resumable.

A run's seed is made of its cell and its number, so the result does not depend on how many processes there are. A
finished cell is kept in the work folder and read again as long as its key is the same: design, effort and the code
that decides its numbers.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from migrl.claims import claims
from migrl.claims.calibration import simulate
from migrl.claims.calibration.simulate import Judged, Scenario, judge_simulated
from migrl.files import hash_file, hash_json, read_json, write_json
from migrl.progress import show_progress
from migrl.statistics import bootstrap, intervals, power
from migrl.statistics.power import Alternative, Design

Truth = Literal["none", "half", "full"]
TRUTHS: dict[Truth, float] = {"none": 0.0, "half": 0.5, "full": 1.0}
ALTERNATIVES: tuple[Alternative, ...] = ("low", "stated", "high")
_BATCH = 50
_DECIDING = (simulate, power, bootstrap, intervals, claims)


@dataclass(frozen=True)
class Effort:
    """How much is simulated: runs of the cells that carry the requirements (stated correlations, true difference none
    or full), runs of the other cells, and resamples of the bootstrap (verdicts use 10,000)."""

    runs: int
    side_runs: int
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Cell:
    """One design with one true difference and one correlation."""

    claim: str
    truth: Truth
    alternative: Alternative

    @property
    def name(self) -> str:
        return f"{self.claim}.{self.truth}.{self.alternative}"

    def count_runs(self, effort: Effort) -> int:
        return effort.runs if self.alternative == "stated" and self.truth != "half" else effort.side_runs

    def build_scenario(self, design: Design) -> Scenario:
        return Scenario(design, TRUTHS[self.truth] * design.full_delta, self.alternative)

    def seed_run(self, effort: Effort, run: int) -> tuple[int, int, int]:
        """The seed of one run: no two cells share theirs."""
        return effort.seed, int(hashlib.sha256(self.name.encode()).hexdigest()[:8], 16), run


def list_cells(designs: Mapping[str, Design]) -> list[Cell]:
    """All cells in the order of the table."""
    return [Cell(claim, truth, alternative) for claim in designs for truth in TRUTHS for alternative in ALTERNATIVES]


def run_cell(design: Design, cell: Cell, effort: Effort, first: int, stop: int) -> list[Judged]:
    """Judged runs `first` to `stop` (left out) of a cell."""
    scenario = cell.build_scenario(design)
    return [judge_simulated(scenario, cell.seed_run(effort, run), effort.resamples) for run in range(first, stop)]


def run_grid(
    designs: Mapping[str, Design], effort: Effort, work: Path, *, processes: int = 1
) -> dict[Cell, list[Judged]]:
    """Every cell's judged runs; `work` is the folder of finished cells."""
    work.mkdir(parents=True, exist_ok=True)
    cells = list_cells(designs)
    code = [hash_file(Path(str(module.__file__))) for module in _DECIDING]
    keys = {
        cell: hash_json([code, asdict(effort), cell.name, designs[cell.claim].model_dump(mode="json")])
        for cell in cells
    }
    found = {cell: _read_cell(work / f"{cell.name}.json", keys[cell]) for cell in cells}
    done, total = sum(map(len, found.values())), sum(cell.count_runs(effort) for cell in cells)
    progress = show_progress("simulated pairs of runs", total, done)
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"))
    try:
        waiting: dict[Cell, list[Future[list[Judged]]]] = {}
        for cell in (cell for cell in cells if not found[cell]):
            ends = [*range(0, cell.count_runs(effort), _BATCH), cell.count_runs(effort)]
            waiting[cell] = [pool.submit(run_cell, designs[cell.claim], cell, effort, *span) for span in pairwise(ends)]
        with progress:
            for cell, batches in waiting.items():
                for batch in batches:
                    found[cell] += batch.result()
                    progress.tell(sum(map(len, found.values())))
                write_json(work / f"{cell.name}.json", {"key": keys[cell], "runs": found[cell]})
    finally:
        pool.shutdown(cancel_futures=True)  # else an interrupted calibration would first finish what is waiting
    return found


def _read_cell(path: Path, key: str) -> list[Judged]:
    """The runs of a finished cell; none if there is no such, or it was made otherwise."""
    stored = read_json(path) if path.exists() else {}
    return [Judged(*run) for run in stored["runs"]] if stored.get("key") == key else []
