"""Time to judge every paper claim, with its other readings, at the benchmarks' real sizes with 10,000 resamples.

    python perf/verdicts.py

The rows are simulated from reproduce/designs.yaml in the form of samples.jsonl: four arms on eight sets, with
completions that the official rules read. Target: below 20 s on one core.
"""

import time

import numpy as np

from migrl.claims.calibration.simulate import Scenario, simulate_hits
from migrl.claims.claims import load_claims, select_claims
from migrl.claims.verdicts import judge_claims
from migrl.grounding.samples import BoxTarget, ChoiceTarget, Sample, Target
from migrl.scoring.comparable import index_rows
from migrl.scoring.completions import Score
from migrl.scoring.rows import EvaluationRow
from migrl.statistics.intervals import RESAMPLES
from migrl.statistics.power import load_designs

DESIGNS = ("paper_mig_bench", "paper_out_of_domain", "paper_blink", "paper_mmiu")
CHOICES = ("blink", "mmiu")
ARM_PAIRS = (("rl", "sft"), ("sft_direct", "base"))  # each pair is simulated together
RUNS = 3


def main() -> None:
    rows = simulate_rows()
    claims = select_claims(load_claims(), "paper")
    seconds, busy = [], []
    for _ in range(RUNS):
        start, used = time.perf_counter(), time.process_time()
        entries = judge_claims(claims, index_rows(rows), resamples=RESAMPLES)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - used)
    scopes = [scope for entry in entries for scope in (entry, *entry["readings"])]
    judged = sum(scope["n"] > 0 for scope in scopes)
    print(f"{len(rows):,} rows, {judged} of {len(scopes)} claims and readings judged, {RESAMPLES:,} resamples")
    print(f"best {min(seconds):.1f} s, worst {max(seconds):.1f} s of {RUNS} runs; processor time {min(busy):.1f} s")


def simulate_rows() -> list[EvaluationRow]:
    """Rows of four arms on all sets of the paper recipe; the file first published is as large as the revised one."""
    rows: list[EvaluationRow] = []
    for name in DESIGNS:
        design = load_designs()[name]
        scenario = Scenario(design, design.full_delta, "stated")
        for pair in ARM_PAIRS:
            for arm, hits in zip(pair, simulate_hits(scenario, np.random.default_rng(0)), strict=True):
                places = zip(scenario.layout.tasks, scenario.layout.clusters, hits.tolist(), strict=True)
                for number, (place, cluster, hit) in enumerate(places):
                    benchmark, task = place.split("/")
                    rows.append(make_row(arm, benchmark, task, cluster, number, hit))
                    if benchmark == "mig_bench":
                        rows.append(make_row(arm, "mig_bench_original", task, cluster, number, hit))
    return rows


def make_row(arm: str, benchmark: str, task: str, cluster: str, number: int, hit: bool) -> EvaluationRow:
    if benchmark in CHOICES:
        target: Target = ChoiceTarget("A", 4)
        completion = f"<think>I look at both images.</think><answer>({'A' if hit else 'B'})</answer>"
        score = Score("ok", None, None, "A" if hit else "B", None, hit)
    else:
        target = BoxTarget(2, (0.1, 0.1, 0.5, 0.5))
        box = [64, 48, 322, 238] if hit else [400, 300, 500, 400]
        completion = f'<think>It is in image 2.</think><answer>{{"image": 2, "bbox_2d": {box}}}</answer>'
        score = Score("ok", 2, {"unit": target.box_unit}, None, 0.99 if hit else 0.0, hit)
    images, sizes = ("a.jpg", "b.jpg"), ((640, 480), (640, 480))
    return EvaluationRow(
        sample=Sample(f"{benchmark}:{number}", benchmark, task, images, "Where is it?", target, cluster, sizes=sizes),
        score=score,
        truncated=False,
        tokens=60,
        arm=arm,
        seed=None,
        completion=completion,
        frame="resized_px",
        resized_sizes=((644, 476), (644, 476)),
        prompt_hash="0123456789abcdef",
    )


if __name__ == "__main__":
    main()
