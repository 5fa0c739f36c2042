"""The benchmarks behind the claims, one module each, and the dictionary of all of them."""

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item
from migrl.benchmarks.blink import BLINK
from migrl.benchmarks.mig_bench import MIG_BENCH
from migrl.benchmarks.mmiu import MMIU
from migrl.benchmarks.muirbench import MUIRBENCH
from migrl.benchmarks.reasoning_grounding import REASONING_GROUNDING

__all__ = ["BENCHMARKS", "Annotations", "Benchmark", "Item"]

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark for benchmark in (MIG_BENCH, *REASONING_GROUNDING, BLINK, MMIU, MUIRBENCH)
}
