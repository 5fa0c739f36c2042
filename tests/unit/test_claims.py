"""Claims as data: the file in the repository, the verdict rule, and judging from rows."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrl.claims import (
    Claim,
    compare_with_reference,
    decide_verdict,
    judge_claims,
    load_claims,
    read_reference_deltas,
    select_claims,
)
from migrl.errors import UserError
from migrl.scores import Row, compute_scores


def make_rows(arm: str, hits: dict[str, list[bool]]) -> list[Row]:
    """Choice rows; `hits` maps "benchmark/task" to one flag a sample, each sample its own image set."""
    return [
        {
            "uid": f"{place}:{number}",
            "arm": arm,
            "benchmark": place.split("/")[0],
            "task": place.split("/")[1],
            "cluster": str(number),
            "images": ["a.png"],
            "sizes": [[28, 28]],
            "resized_sizes": [[28, 28]],
            "question": "Which?",
            "prompt_hash": "0123",
            "frame": "unit",
            "target": {"letter": "A", "options": 2},
            "completion": f"<answer>({'A' if hit else 'B'})</answer>",
            "tokens": 5,
            "truncated": False,
            "status": "ok",
            "image": None,
            "boxes": None,
            "letter": "A" if hit else "B",
            "iou": None,
            "hit": hit,
        }
        for place, flags in hits.items()
        for number, hit in enumerate(flags)
    ]


def make_claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "id": "c",
        "recipe": "tiny",
        "statement": "Better.",
        "paper_version": "v1",
        "place": "abstract",
        "benchmarks": ["one"],
        "minuend": "rl",
        "subtrahend": "sft",
    }
    return Claim.model_validate(fields | changes)


def test_the_repository_claims_what_the_paper_claims() -> None:
    claims = load_claims()
    paper = {claim.id: (claim.subtrahend, claim.expected) for claim in select_claims(claims, "paper")}
    assert paper == {
        "paper_mig_bench": ("sft", 9.04),
        "paper_out_of_domain": ("sft", 4.98),
        "paper_blink": ("base", 3.1),
        "paper_mmiu": ("base", 2.4),
    }
    tiny = select_claims(claims, "tiny")
    assert [claim.id for claim in tiny] == ["mig_bench", "out_of_domain", "blink", "mmiu", "cold_start"]
    assert all(claim.expected is None for claim in tiny)


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (1.0, 5.0, None, "reproduced"),
        (-1.0, 5.0, None, "inconclusive"),
        (0.0, 5.0, None, "inconclusive"),
        (-5.0, 0.0, None, "not reproduced"),
        (0.0, 0.0, None, "not reproduced"),
        (1.0, 5.0, 3.0, "reproduced"),
        (4.0, 5.0, 3.0, "reproduced"),
        (1.0, 3.0, 3.0, "reproduced"),
        (1.0, 2.0, 3.0, "direction only"),
        (-1.0, 2.0, 3.0, "not reproduced"),
        (-3.0, -1.0, 3.0, "not reproduced"),
        (-1.0, 4.0, 3.0, "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_interval(low: float, high: float, expected: float | None, verdict: str) -> None:
    assert decide_verdict(low, high, expected)[0] == verdict


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0.1, 100))
def test_a_claim_with_a_number_is_never_easier_than_its_direction(a: float, b: float, expected: float) -> None:
    low, high = sorted((a, b))
    number, direction = decide_verdict(low, high, expected)[0], decide_verdict(low, high, None)[0]
    assert number != "reproduced" or direction == "reproduced"
    assert (direction == "reproduced") == (number in ("reproduced", "direction only"))


def test_a_delta_is_the_difference_of_the_macros_over_the_tasks_of_all_benchmarks() -> None:
    hits = {"one/a": [True, True, False, False], "one/b": [True] * 3, "two/a": [False, True]}
    worse = {"one/a": [False] * 4, "one/b": [True, False, True], "two/a": [False, False]}
    rows = make_rows("rl", hits) + make_rows("sft", worse)
    entry = judge_claims([make_claim(benchmarks=["one", "two"])], rows)[0]
    assert entry["delta"] == pytest.approx((50 + 100 / 3 + 50) / 3, abs=1e-4)
    assert (entry["n"], entry["clusters"]) == (9, 9)
    single = judge_claims([make_claim()], rows)[0]
    scores = compute_scores(rows)
    assert single["delta"] == pytest.approx(scores["rl"]["one"]["macro"] - scores["sft"]["one"]["macro"], abs=1e-4)
    subset = judge_claims([make_claim(tasks=["a"])], rows)[0]
    assert (subset["delta"], subset["n"]) == (50.0, 4)


def test_a_claim_whose_arm_or_benchmark_was_not_run_says_so() -> None:
    rows = make_rows("rl", {"one/a": [True, False]})
    no_arm, no_benchmark, no_task = judge_claims(
        [make_claim(), make_claim(minuend="base", subtrahend="rl"), make_claim(subtrahend="rl", minuend="x")], rows
    )
    assert (no_arm["verdict"], no_arm["delta"], no_arm["reason"]) == ("not run", None, "no rows of arm sft on one")
    assert no_benchmark["reason"] == "no rows of arm base on one"
    assert no_task["verdict"] == "not run"
    partly = judge_claims([make_claim(benchmarks=["one", "two"])], rows + make_rows("sft", {"one/a": [True, True]}))
    assert (partly[0]["verdict"], partly[0]["reason"]) == ("not run", "no rows of arm rl on two")


def test_a_run_too_small_for_an_interval_is_inconclusive() -> None:
    rows = make_rows("rl", {"one/a": [True]}) + make_rows("sft", {"one/a": [False]})
    entry = judge_claims([make_claim()], rows)[0]
    assert (entry["verdict"], entry["low"]) == ("inconclusive", None)


def test_a_new_run_is_compared_with_the_prediction_interval_of_the_reference_runs() -> None:
    inside = compare_with_reference(11.0, [10.0, 12.0])
    # mean 11, sd sqrt(2), t(1) = 12.7062: 11 +- 12.7062 * sqrt(2) * sqrt(1.5)
    assert (inside["prediction_low"], inside["prediction_high"]) == pytest.approx((-11.0078, 33.0078), abs=1e-3)
    assert inside["inside"] is True
    assert compare_with_reference(50.0, [10.0, 12.0])["inside"] is False
    assert compare_with_reference(11.0, [10.0])["inside"] is None


def test_reference_deltas_are_read_by_seed_and_stand_beside_the_verdict(tmp_path: Path) -> None:
    for seed, delta in ((10, 3.0), (9, 2.0), (11, None)):
        (tmp_path / f"seed_{seed}").mkdir()
        (tmp_path / f"seed_{seed}" / "claims.json").write_text(json.dumps([{"id": "c", "delta": delta}]))
    deltas = read_reference_deltas(tmp_path)
    assert deltas == {"c": [2.0, 3.0]}
    rows = make_rows("rl", {"one/a": [True] * 9 + [False]}) + make_rows("sft", {"one/a": [False] * 9 + [True]})
    entry = judge_claims([make_claim()], rows, deltas)[0]
    assert entry["reference"]["deltas"] == [2.0, 3.0]
    assert entry["verdict"] == judge_claims([make_claim()], rows)[0]["verdict"] == "reproduced"
    (tmp_path / "seed_12").mkdir()
    with pytest.raises(UserError, match=r"seed_12.*no such file"):
        read_reference_deltas(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("claims: [", "not YAML"),
        ("claims: [{id: a}]", "claims.0.recipe"),
        ("claims: []\nmore: 1", "more"),
    ],
)
def test_a_broken_claims_file_is_named_with_its_key(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"claims\.yaml.*{reason}"):
        load_claims(path)


def test_a_claim_compares_two_arms_and_has_its_own_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compares two arms"):
        make_claim(minuend="sft")
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"claims": [make_claim().model_dump(), make_claim().model_dump()]}))
    with pytest.raises(UserError, match="'c' comes twice"):
        load_claims(path)
