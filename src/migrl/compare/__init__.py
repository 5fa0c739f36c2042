"""Comparing two runs, two arms of a run, or a run and a peer's outputs, sample by sample.

read_run, pick_arm, read_peer -> find_differences, refuse_differences -> compare_sides -> print_comparison, write_flips
"""

from migrl.compare.differences import find_differences, narrow_sides, refuse_differences
from migrl.compare.flips import write_flips
from migrl.compare.pairs import Comparison, compare_sides
from migrl.compare.peer import is_peer_file, read_peer
from migrl.compare.show import print_comparison, render_markdown
from migrl.compare.sides import Rule, Side, pick_arm, read_run

__all__ = [
    "Comparison",
    "Rule",
    "Side",
    "compare_sides",
    "find_differences",
    "is_peer_file",
    "narrow_sides",
    "print_comparison",
    "read_peer",
    "pick_arm",
    "read_run",
    "refuse_differences",
    "render_markdown",
    "write_flips",
]
