"""The benchmarks behind the claims, one module each, and the dictionary of all of them.

ODinW is not among them: 13 or 35 detection sets, each with class names to find in one picture, scored by mean AP over
classes. That needs boxes with a class and a confidence each, which no answer form here has, and the 54.15 that others
state lies so far above the published scores of ODinW-13 that its protocol cannot be guessed.
"""

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item, OfficialRule
from migrl.benchmarks.blink import BLINK
from migrl.benchmarks.mc_bench import MC_BENCH
from migrl.benchmarks.mig_bench import MIG_BENCH, MIG_BENCH_ORIGINAL
from migrl.benchmarks.mmiu import MMIU
from migrl.benchmarks.muirbench import MUIRBENCH
from migrl.benchmarks.reasoning_grounding import REASONING_GROUNDING
from migrl.benchmarks.ref_l4 import REF_L4

__all__ = ["BENCHMARKS", "OFFICIAL_RULES", "Annotations", "Benchmark", "Item", "OfficialRule"]

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (MIG_BENCH, MIG_BENCH_ORIGINAL, *REASONING_GROUNDING, BLINK, MMIU, MUIRBENCH, MC_BENCH, REF_L4)
}

RENDERED = ("mini_mig", "mini_reason", "mini_frames", "mini_relate")
"""The tiny world's sets of boxes. Nobody has published a script for them: they stand in for MIG-Bench, and are read as
it is on purpose, so that a small run has what a large one has."""

OFFICIAL_RULES: dict[str, OfficialRule | None] = {
    **{name: benchmark.official for name, benchmark in BENCHMARKS.items()},
    **dict.fromkeys(RENDERED, MIG_BENCH.official),
}
"""The official rule of each set by the name in its rows; None or no entry: it has no official score."""
