"""Calibration: do the verdicts err as rarely as they say? Simulated pairs of runs go through the real statistics.

    designs (power.py) -> simulate -> bootstrap_macro_delta, decide_verdict -> grid -> table

The table is evidence (`results/calibration`); `migrl calibrate` makes it again.
"""

from migrl.claims.calibration.grid import Effort, run_grid
from migrl.claims.calibration.table import build_table, list_misses, write_table

__all__ = ["Effort", "build_table", "list_misses", "run_grid", "write_table"]
