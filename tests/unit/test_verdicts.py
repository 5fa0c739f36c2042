"""Judging: from rows to verdicts, by every reading, over samples and over training seeds."""

from typing import Any

import numpy as np
import pytest
from claim_rows import judge, make_box_rows, make_claim, make_rows
from rows import change_row

from migrl.claims.claims import Level, load_claims, select_claims
from migrl.claims.verdicts import judge_levels
from migrl.errors import UserError
from migrl.scoring.comparable import index_rows
from migrl.scoring.rows import EvaluationRow
from migrl.scoring.scores import compute_scores


def test_a_delta_is_the_difference_of_the_macros_over_the_tasks_of_all_benchmarks() -> None:
    hits = {"one/a": [True, True, False, False], "one/b": [True] * 3, "two/a": [False, True]}
    worse = {"one/a": [False] * 4, "one/b": [True, False, True], "two/a": [False, False]}
    rows = make_rows("rl", hits) + make_rows("sft", worse)
    entry = judge([make_claim(benchmarks=["one", "two"])], rows)[0]
    assert entry["delta"] == pytest.approx((50 + 100 / 3 + 50) / 3, abs=1e-4)
    assert (entry["n"], entry["clusters"]) == (9, 9)
    single = judge([make_claim()], rows)[0]
    scores = compute_scores(index_rows(rows))
    assert single["delta"] == pytest.approx(scores["rl"]["one"]["macro"] - scores["sft"]["one"]["macro"], abs=1e-4)
    subset = judge([make_claim(tasks=["a"])], rows)[0]
    assert (subset["delta"], subset["n"]) == (50.0, 4)


def test_a_claim_whose_arm_or_benchmark_was_not_run_says_so() -> None:
    rows = make_rows("rl", {"one/a": [True, False]})
    no_arm, no_benchmark, no_task = judge(
        [make_claim(), make_claim(minuend="base", subtrahend="rl"), make_claim(subtrahend="rl", minuend="x")], rows
    )
    assert (no_arm["verdict"], no_arm["delta"], no_arm["reason"]) == ("not run", None, "no rows of arm sft on one")
    assert no_benchmark["reason"] == "no rows of arm base on one"
    assert no_task["verdict"] == "not run"
    partly = judge([make_claim(benchmarks=["one", "two"])], rows + make_rows("sft", {"one/a": [True, True]}))
    assert (partly[0]["verdict"], partly[0]["reason"]) == ("not run", "no rows of arm rl on two")


def test_a_run_too_small_for_an_interval_is_inconclusive() -> None:
    rows = make_rows("rl", {"one/a": [True]}) + make_rows("sft", {"one/a": [False]})
    entry = judge([make_claim()], rows)[0]
    assert (entry["verdict"], entry["low"]) == ("inconclusive", None)


def test_readings_are_judged_beside_the_claim() -> None:
    claim = make_claim(
        benchmarks=["one", "two"],
        readings=[
            {"id": "micro", "differs": "over samples", "averaging": "micro"},
            {"id": "sets", "differs": "over benchmarks", "averaging": "benchmarks"},
            {"id": "part", "differs": "one task", "benchmarks": ["one"], "tasks": ["a"]},
            {"id": "direct", "differs": "another arm", "subtrahend": "sft_direct"},
        ],
    )
    rl = {"one/a": [True] * 4, "one/b": [True, True], "two/c": [True, False, True, False]}
    sft = {"one/a": [True, False] * 2, "one/b": [False, False], "two/c": [False] * 4}
    entry = judge([claim], make_rows("rl", rl) + make_rows("sft", sft))[0]
    assert entry["delta"] == pytest.approx((50 + 100 + 50) / 3, abs=1e-4)
    micro, sets, part, direct = entry["readings"]
    assert micro["delta"] == 60 and sets["delta"] == pytest.approx(((50 + 100) / 2 + 50) / 2) and part["delta"] == 50
    assert (micro["n"], part["n"], part["benchmarks"], part["tasks"]) == (10, 4, ["one"], ["a"])
    assert (direct["verdict"], direct["reason"]) == ("not run", "no rows of arm sft_direct on one")


def test_the_official_rule_does_not_look_at_the_image() -> None:
    claim = make_claim(benchmarks=["mini_mig"], readings=[{"id": "o", "differs": "official", "rule": "official"}])
    right, wrong_image, wrong_box = (2, 28), (1, 28), (2, 12)
    rows = make_box_rows("rl", [right] * 10) + make_box_rows("sft", [right] * 2 + [wrong_image] * 6 + [wrong_box] * 2)
    entry = judge([claim], rows)[0]
    assert (entry["delta"], entry["readings"][0]["delta"]) == (80, 20)
    letters = judge(
        [make_claim(rule="official")], make_rows("rl", {"one/a": [True]}) + make_rows("sft", {"one/a": [False]})
    )
    assert letters[0]["verdict"] == "not run" and "asks for letters" in letters[0]["reason"]


def test_boxes_without_an_official_rule_have_no_official_score_and_no_such_reading() -> None:
    official = {"id": "o", "differs": "official", "rule": "official"}
    claim = make_claim(benchmarks=["boxes"], readings=[official])
    rows = make_box_rows("rl", [(2, 28)] * 4, "boxes") + make_box_rows("sft", [(2, 12)] * 4, "boxes")
    entry, alone = judge([claim, make_claim(benchmarks=["boxes"], rule="official")], rows)
    assert (entry["verdict"], entry["delta"]) == ("reproduced", 100)
    for judged in (entry["readings"][0], alone):
        assert (judged["verdict"], judged["delta"]) == ("not run", None)
        assert judged["reason"] == "boxes has no official rule: nobody has stated how its authors read a box"
    assert "compat" not in compute_scores(index_rows(rows))["rl"]["boxes"]
    stand_in = compute_scores(index_rows(make_box_rows("rl", [(2, 28)] * 4)))["rl"]["mini_mig"]
    assert stand_in["compat"]["rule"] == "univg_script"


def answer(rows: list[EvaluationRow], completions: dict[int, str]) -> list[EvaluationRow]:
    """The rows, some of them answered by another text."""
    return [change_row(row, completion=completions.get(k, row.completion)) for k, row in enumerate(rows)]


def test_answers_without_tags_count_where_they_are_read_without_tags() -> None:
    claim = make_claim(subtrahend="base", readings=[{"id": "u", "differs": "no tags", "rule": "untagged"}])
    rows = make_rows("rl", {"one/a": [True] * 10})
    bare = answer(make_rows("base", {"one/a": [True] * 10}), dict.fromkeys(range(8), "The correct answer is (A)."))
    entry = judge([claim], rows + bare)[0]
    untagged = entry["readings"][0]
    assert (entry["delta"], untagged["delta"], untagged["n"], untagged["rule"]) == (80, 0, 10, "untagged")
    right = (2, 28)
    box = "The object is in image 2: [0, 0, 28, 28]."
    boxes = make_box_rows("rl", [right] * 10) + answer(
        make_box_rows("base", [right] * 10), dict.fromkeys(range(7), box)
    )
    entry = judge([claim.model_copy(update={"benchmarks": ("mini_mig",)})], boxes)[0]
    assert (entry["delta"], entry["readings"][0]["delta"]) == (70, 0)


READABLE = {"pairs": "readable", "differs": "readable pairs"}


@pytest.mark.parametrize("averaging", ["macro", "micro", "benchmarks"])
@pytest.mark.parametrize("seeds", [(None,), (1, 2, 3)])
def test_readable_pairs_are_judged_as_a_run_on_these_samples_alone(
    averaging: str, seeds: tuple[int | None, ...]
) -> None:
    generator = np.random.default_rng(0)
    shape = {"one/a": 60, "one/b": 40, "two/a": 50}
    runs = []
    for arm, seed in [("base", None), *(("rl", seed) for seed in seeds)]:
        hits = {place: [bool(flag) for flag in generator.random(n) < 0.5] for place, n in shape.items()}
        rows = make_rows(arm, hits, **({} if seed is None else {"seed": seed}))
        rows = [change_row(row, cluster=str(k // 3)) for k, row in enumerate(rows)]
        runs.append(answer(rows, dict.fromkeys(generator.choice(len(rows), 30, replace=False).tolist(), "No idea.")))
    lost = {row.sample.uid for rows in runs for row in rows if row.score.status == "none"}
    assert len(lost) > 40
    kept = [[row for row in rows if row.sample.uid not in lost] for rows in runs]
    claim = make_claim(
        benchmarks=["one", "two"], averaging=averaging, subtrahend="base", readings=[READABLE | {"id": "r"}]
    )
    reading = judge([claim], [row for rows in runs for row in rows])[0]["readings"][0]
    alone = judge([claim], [row for rows in kept for row in rows])[0]
    assert reading["n"] == 150 - len(lost) and reading["tasks_left_out"] == []
    for key in ("delta", "low", "high", "standard_error", "n", "clusters", "verdict", "reason"):
        assert reading[key] == alone[key], key


def test_a_task_without_readable_pairs_is_named_and_the_average_is_of_the_others() -> None:
    averages = [READABLE | {"id": name, "averaging": name} for name in ("micro", "benchmarks")]
    claim = make_claim(benchmarks=["one", "two"], subtrahend="base", readings=[READABLE | {"id": "r"}, *averages])
    hits = {"one/a": [True] * 4, "one/b": [True] * 8, "one/c": [True] * 2, "two/a": [True, False]}
    worse = {place: [False] * len(flags) for place, flags in hits.items()}
    silent = dict.fromkeys([*range(1, 4), 12, 13], "No idea.")  # all but one sample of one/a, and all of one/c
    rows = make_rows("rl", hits) + answer(make_rows("base", worse), silent)
    entry = judge([claim], rows)[0]
    assert entry["tasks_left_out"] == [] and entry["delta"] == pytest.approx((100 * 3 + 50) / 4)
    macro, micro, sets = entry["readings"]
    assert macro["tasks_left_out"] == sets["tasks_left_out"] == ["one/a", "one/c"] and micro["tasks_left_out"] == [
        "one/c"
    ]
    assert (macro["delta"], macro["n"], sets["delta"]) == (75, 10, 75)
    assert (micro["delta"], micro["n"]) == (pytest.approx(1000 / 11, abs=1e-4), 11)
    assert "without one/a, one/c, too few readable pairs" in macro["reason"]


def test_arms_that_share_no_readable_answer_get_no_verdict() -> None:
    claim = make_claim(
        subtrahend="base", readings=[READABLE | {"id": "r"}, READABLE | {"id": "m", "averaging": "micro"}]
    )
    silent = answer(make_rows("base", {"one/a": [False] * 4}), dict.fromkeys(range(4), "No idea."))
    entry = judge([claim], make_rows("rl", {"one/a": [True] * 4}) + silent)[0]
    for reading in entry["readings"]:
        assert (reading["verdict"], reading["delta"], reading["n"]) == ("not run", None, 0)
        assert "both arms" in reading["reason"]


def test_a_rule_that_reads_none_of_the_answers_gives_no_verdict() -> None:
    rows = [row for arm in ("rl", "sft") for row in make_box_rows(arm, [(2, 28)] * 10, benchmark="lisa_val")]
    claim = make_claim(benchmarks=["lisa_val"], rule="official")
    entry = judge([claim], rows)[0]
    assert entry["verdict"] == "not run" and "reads none of the answers" in entry["reason"]


def test_a_benchmark_without_the_claimed_tasks_is_a_gap() -> None:
    hits = {"one/a": [True, False], "two/b": [True, False]}
    claim = make_claim(benchmarks=["one", "two"], tasks=["a"])
    entry = judge([claim], make_rows("rl", hits) + make_rows("sft", hits))[0]
    assert entry["reason"] == "no rows of arm rl on any of the tasks in two"


def test_a_claim_with_a_gap_is_not_judged_but_its_readings_are() -> None:
    claim = make_claim(gap="no data", readings=[{"id": "m", "differs": "over samples", "averaging": "micro"}])
    rows = make_rows("rl", {"one/a": [True] * 9 + [False]}) + make_rows("sft", {"one/a": [False] * 10})
    entry = judge([claim], rows)[0]
    assert (entry["verdict"], entry["reason"], entry["delta"], entry["power"]) == ("not run", "no data", None, None)
    assert entry["readings"][0]["verdict"] == "reproduced"


def test_how_far_from_the_claimed_delta_is_said_by_two_one_sided_tests() -> None:
    flags = [True] * 60 + [False] * 40
    rows = make_rows("rl", {"one/a": flags}) + make_rows("sft", {"one/a": [False] * 100})
    entry = judge([make_claim(expected=50.0)], rows)[0]
    weighed = entry["equivalence"]
    # 90 % interval of 60 +- 1.645 * 4.9, seen from the claimed 50.
    assert weighed["difference"] == 10 and weighed["low"] == pytest.approx(10 - 8.06, abs=0.5)
    assert weighed["within"] == weighed["high"] == pytest.approx(10 + 8.06, abs=0.5)
    assert entry["verdict"] == "reproduced" and "above" in entry["reason"]
    assert judge([make_claim()], rows)[0]["equivalence"] is None


def test_p_values_are_adjusted_for_the_claims_judged_together() -> None:
    rows = make_rows("rl", {"one/a": [True] * 60 + [False] * 40, "two/a": [True] * 56 + [False] * 44})
    rows += make_rows("sft", {"one/a": [False] * 50 + [True] * 50, "two/a": [True, False] * 50})
    claims = [make_claim(id="a"), make_claim(id="b", benchmarks=["two"]), make_claim(id="c", benchmarks=["three"])]
    first, second, missing = judge(claims, rows)
    assert missing["p_value"] is None and missing["p_adjusted"] is None
    small, large = sorted((first, second), key=lambda entry: entry["p_value"])
    assert small["p_adjusted"] == pytest.approx(min(1, 2 * small["p_value"]), abs=1e-5)
    assert large["p_adjusted"] == pytest.approx(max(small["p_adjusted"], large["p_value"]), abs=1e-5)


def test_every_claim_says_what_its_samples_can_show() -> None:
    rows = make_rows("rl", {"one/a": [True] * 60 + [False] * 40}) + make_rows("sft", {"one/a": [True, False] * 50})
    power = judge([make_claim(expected=5.0)], rows)[0]["power"]
    assert (
        power["basis"] == "measured" and 0 < power["claimed"] < 1 and power["detectable"] > 3 * power["standard_error"]
    )
    before = {entry["id"]: entry["power"] for entry in judge(select_claims(load_claims(), "paper"), [])}
    assert all(before[name]["basis"] == "design" for name in ("paper_mig_bench", "paper_blink", "paper_mmiu"))
    assert before["paper_mig_bench"]["claimed"] > before["paper_blink"]["claimed"] and before["paper_mc_bench"] is None


def make_seeded_rows(arm: str, rates: dict[int | None, float], n: int = 400) -> list[EvaluationRow]:
    """One task; each seed hits its rate of the samples, drawn anew."""
    rows = []
    for seed, rate in rates.items():
        flags = [bool(flag) for flag in np.random.default_rng(seed).random(n) < rate]
        rows += make_rows(arm, {"one/a": flags}, **({} if seed is None else {"seed": seed}))
    return rows


def test_several_training_seeds_widen_the_interval_by_their_spread() -> None:
    base = make_seeded_rows("base", {None: 0.3})
    claim = make_claim(subtrahend="base")
    alike = judge([claim], base + make_seeded_rows("rl", {1: 0.5, 2: 0.5, 3: 0.5, 4: 0.5}))[0]
    apart = judge([claim], base + make_seeded_rows("rl", {1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8}))[0]
    assert alike["seeds"] == apart["seeds"] == 4 and alike["n"] == 400
    assert alike["verdict"] == "reproduced" and apart["verdict"] == "inconclusive"
    assert apart["high"] - apart["low"] > 3 * (alike["high"] - alike["low"])
    # What can be shown follows from the interval that the verdict reads: 3.60 of its 1.96 errors.
    assert apart["power"]["detectable"] == pytest.approx(3.605 / 1.96 * (apart["high"] - apart["low"]) / 2, rel=1e-3)
    assert judge([claim], base + make_seeded_rows("rl", {None: 0.5}))[0]["seeds"] == 1


def test_arms_of_different_seeds_are_not_paired() -> None:
    rows = make_seeded_rows("rl", {1: 0.5, 2: 0.5}) + make_seeded_rows("sft", {1: 0.3, 3: 0.3})
    with pytest.raises(UserError, match="seed"):
        judge([make_claim()], rows)


def test_levels_are_measured_and_not_judged() -> None:
    rows = make_rows("rl", {"one/a": [True] * 30 + [False] * 10, "one/b": [True, False] * 10})
    stated: dict[str, Any] = {"id": "l", "benchmark": "one", "arm": "rl", "stated": 70.0, "source": "index"}
    macro, micro, part, other, gap = judge_levels(
        [
            Level.model_validate(stated | changes)
            for changes in ({}, {"averaging": "micro"}, {"task": "a"}, {"arm": "base"}, {"gap": "another protocol"})
        ],
        index_rows(rows),
    )
    assert (macro["measured"], micro["measured"], part["measured"]) == (62.5, pytest.approx(200 / 3, abs=1e-4), 75)
    assert macro["contains"] and macro["low"] < 62.5 < macro["high"] and macro["n"] == 60
    assert (other["measured"], other["contains"], other["n"]) == (None, None, 0) and gap["contains"] is None
