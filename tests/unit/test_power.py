"""Power: the closed forms against simulation and known values, and the designs against what they are counted from."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import chi2, multivariate_normal

from migrl.benchmarks import BENCHMARKS
from migrl.claims.calibration.simulate import Scenario, simulate_hits
from migrl.claims.claims import decide_verdict, load_claims
from migrl.errors import UserError
from migrl.statistics.intervals import wilson_interval
from migrl.statistics.power import (
    DESIGNS_FILE,
    Alternative,
    Design,
    compute_hit_covariance,
    load_designs,
    measure_power,
    plan_power,
    predict_reproduced,
)

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = os.environ.get("MIGRL_GOLDEN")
TINY_ARMS = {"mig_bench": ("rl", "sft"), "out_of_domain": ("rl", "sft"), "cold_start": ("sft", "base")}


def make_design(sets: dict[int, int], accuracies: tuple[float, ...], arms: float, samples: float) -> Design:
    pair = {"arms": arms, "samples": samples}
    return Design.model_validate(
        {
            "expected": 5.0,
            "tasks": {f"b/t{i}": {"sets": sets, "accuracy": value} for i, value in enumerate(accuracies)},
            "correlations": dict.fromkeys(("low", "stated", "high"), pair),
            "sources": dict.fromkeys(("sizes", "sets", "accuracies", "correlations"), "made up"),
        }
    )


@pytest.mark.parametrize(("error", "expected"), [(1.0, 9.04), (1.2, 3.1), (2.0, 9.0), (1.0, 1.0)])
def test_the_closed_form_is_how_often_the_rule_says_reproduced(error: float, expected: float) -> None:
    power, runs, z = measure_power(error, expected), 20_000, 1.959964
    normal = np.random.default_rng(0).normal(0, error, runs)
    for delta in (expected, expected / 2, 0.0):
        verdicts = [decide_verdict(d - z * error, d + z * error, expected)[0] for d in (normal + delta).tolist()]
        low, high = wilson_interval(verdicts.count("reproduced"), runs, 0.9999)
        assert low <= predict_reproduced(delta, error, expected) <= high
    assert power["claimed"] == pytest.approx(predict_reproduced(expected, error, expected), abs=1e-4)
    low, high = wilson_interval(int(np.sum(normal + power["detectable"] > z * error)), runs, 0.9999)
    assert low <= 0.95 <= high


def test_power_is_at_most_the_share_of_intervals_that_contain_the_truth() -> None:
    assert measure_power(0.1, 9.04)["claimed"] == pytest.approx(0.975, abs=1e-4)
    assert measure_power(9.04 / 1.959964, 9.04)["claimed"] == pytest.approx(0.5, abs=1e-4)
    assert measure_power(2.0, None) == {"standard_error": 2.0, "detectable": 7.2096, "claimed": None}
    for broken in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="no standard error"):
            measure_power(broken, 3.0)


@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.3, 0.95])
def test_the_covariance_of_two_hits_is_that_of_the_bivariate_normal(correlation: float) -> None:
    first, second = np.array([-2.5, -0.3, 0.0, 1.2]), np.array([0.7, -0.3, 0.0, 2.0])
    known = [
        multivariate_normal.cdf([h, k], cov=[[1, correlation], [correlation, 1]])
        - multivariate_normal.cdf([h, k], cov=np.eye(2))
        for h, k in zip(first, second, strict=True)
    ]
    assert compute_hit_covariance(first, second, correlation) == pytest.approx(known, abs=1e-6)


def test_without_correlations_the_standard_error_is_the_textbooks() -> None:
    design = make_design({1: 50, 2: 25}, (0.5, 0.2), 0.0, 0.0)
    assert design.predict_standard_error(0) == pytest.approx(100 * np.sqrt(2 * (0.25 + 0.16) / 100) / 2)


@pytest.mark.parametrize("alternative", ["low", "stated", "high"])
@pytest.mark.parametrize("claim", ["paper_mig_bench", "paper_out_of_domain", "cold_start", "blink"])
def test_the_predicted_standard_error_is_the_spread_of_simulated_differences(
    claim: str, alternative: Alternative
) -> None:
    design, runs = load_designs()[claim], 250
    scenario, generator = Scenario(design, design.full_delta, alternative), np.random.default_rng(4)
    numbers = scenario.layout.task_numbers
    sizes = np.bincount(numbers)
    deltas = []
    for _ in range(runs):
        first, second = simulate_hits(scenario, generator)
        deltas.append(100 * np.mean(np.bincount(numbers, weights=first.astype(float) - second) / sizes))
    predicted = design.predict_standard_error(design.full_delta, alternative)
    low, high = chi2.ppf([0.0005, 0.9995], runs - 1)
    assert low <= (runs - 1) * np.var(deltas, ddof=1) / predicted**2 <= high
    assert abs(np.mean(deltas) - design.full_delta) < 4 * predicted / runs**0.5


def test_every_number_that_the_recipes_can_judge_has_a_design_of_its_benchmarks() -> None:
    designs, claims = load_designs(), {claim.id: claim for claim in load_claims()}
    # How MC-Bench's pictures are shared is not known before its data is there.
    for claim in (one for one in claims.values() if one.benchmarks != ("mc_bench",)):
        borrows = claim.recipe != "tiny" and claim.expected is None  # the power of a claim on the same benchmarks
        assert claim.id in designs or claim.gap or borrows, claim.id
    for claim_id, design in designs.items():
        claim = claims[claim_id]
        assert (design.expected, claim.averaging) == (claim.expected, "macro")
        assert {task.split("/")[0] for task in design.tasks} == set(claim.benchmarks)
        planned = plan_power(design, design.expected)
        assert (planned["claimed"] is None) == (claim.expected is None)
        if planned["claimed"] is not None and planned["claimed"] >= 0.95:
            assert planned["detectable"] <= design.full_delta


@pytest.mark.skipif(GOLDEN is None, reason="MIGRL_GOLDEN does not name the folder of stored outputs")
def test_the_paper_designs_have_the_sizes_of_the_released_files() -> None:
    designs, folder = load_designs(), Path(GOLDEN or ".")
    for claim, file in (
        ("paper_mig_bench", "mig_bench/revised_MIG_bench.json"),
        ("paper_blink", "blink/val_answers.json"),
    ):
        name = file.split("/")[0]
        samples = [item.sample for item in BENCHMARKS[name].load(folder / file, folder, name).items]
        for task, told in designs[claim].tasks.items():
            sets = Counter(sample.cluster for sample in samples if f"{name}/{sample.task}" == task)
            assert told.sets == Counter(sets.values()), task
        assert designs[claim].n == len(samples)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("seed", 1, "Extra inputs"),
        ("supposed", 3.0, "`expected`"),
        ("expected", 80.0, "leaves room"),
        ("tasks", {"b/t": {"sets": {4: 1}, "accuracy": 0.5}}, "at least 2 image sets"),
        ("tasks", {"b/t": {"sets": {1: 9}, "accuracy": 1.0}}, "less than 1"),
        ("correlations", {"stated": {"arms": 0.5, "samples": 0.1}}, "'low' is missing"),
        ("sources", {"sizes": "counted"}, "required"),
    ],
)
def test_a_broken_design_is_refused_and_its_key_named(key: str, value: Any, reason: str, tmp_path: Path) -> None:
    data = yaml.safe_load(DESIGNS_FILE.read_text(encoding="utf-8"))
    data["designs"]["paper_blink"][key] = value
    path = tmp_path / "designs.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(UserError, match=f"designs.yaml: key 'designs.paper_blink.*{reason}"):
        load_designs(path)


def test_designs_that_are_missing_or_no_yaml_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_designs(tmp_path / "none.yaml")
    path = tmp_path / "designs.yaml"
    path.write_text("designs: [", encoding="utf-8")
    with pytest.raises(UserError, match="not YAML"):
        load_designs(path)
