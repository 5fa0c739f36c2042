"""`migrl compare` on runs: its numbers, and what it refuses. All through the command itself."""

from pathlib import Path
from typing import Any

import pytest
from benchmark_files import write_json
from compare_runs import count, refuse, show, write_run
from rows import Line
from run_files import DECODING

from migrl.compare.show import escape_markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Task 0: A hits 1, 1, 0, 0 and B 1, 0, 1, 1; task 1: both hit 0, 0, 1, 1."""
    return write_run(tmp_path / "a", "10100101"), write_run(tmp_path / "b", "10001111")


def test_a_run_against_a_copy_of_itself_has_no_delta_and_no_flip(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    copy = write_run(tmp_path / "c", "10100101")
    found = count(runs[0], copy / "samples.jsonl", "--html", tmp_path / "page.html")
    for cell in (found["all"], *found["benchmarks"].values()):
        assert (cell["delta"], cell["low"], cell["high"]) == (0, 0, 0)
        assert (cell["wins"], cell["losses"], cell["mcnemar_p"], cell["statuses"]) == (0, 0, 1, {})
    assert found["won"] == found["lost"] == []
    assert "both sides hit the same samples" in (tmp_path / "page.html").read_text()


def test_wins_losses_and_ties_are_counted_by_task_and_b_is_set_against_a(runs: tuple[Path, Path]) -> None:
    found = count(*runs)
    cell, tasks = found["benchmarks"]["mini"], found["benchmarks"]["mini"]["tasks"]
    keys = ("n", "wins", "losses", "both_hit", "both_miss", "accuracy_a", "accuracy_b", "delta")
    assert [tasks["task 0"][key] for key in keys] == [4, 2, 1, 1, 0, 50.0, 75.0, 25.0]
    assert [tasks["task 1"][key] for key in keys] == [4, 0, 0, 2, 2, 50.0, 50.0, 0.0]
    assert [cell[key] for key in keys] == [8, 2, 1, 3, 2, 50.0, 62.5, 12.5]
    assert cell["mcnemar_p"] == 1.0 and cell["low"] <= 12.5 <= cell["high"]
    assert (found["won"], found["lost"]) == (["mini:4", "mini:6"], ["mini:2"])
    assert count(*reversed(runs))["won"] == ["mini:2"]


def test_mcnemar_is_the_exact_binomial_of_the_flips(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a", "0" * 24), write_run(tmp_path / "b", "1" * 10 + "0" * 14)
    assert count(first, second)["all"]["mcnemar_p"] == pytest.approx(2 / 2**10)


def test_a_task_with_a_single_image_set_has_no_interval(tmp_path: Path) -> None:
    found = count(write_run(tmp_path / "a", "0000"), write_run(tmp_path / "b", "1000"))
    assert (found["all"]["delta"], found["all"]["low"]) == (25.0, None)
    assert "–" in show(tmp_path / "a", tmp_path / "b")


def test_the_official_rule_is_refused_for_boxes_that_have_none(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a", "0000"), write_run(tmp_path / "b", "1000")
    assert "benchmark 'mini': no official rule is known for it" in refuse(first, second, "--official")


def test_other_images_and_other_readings_are_counted(tmp_path: Path) -> None:
    def stray(row: Line) -> None:
        texts = {"mini:0": row["completion"].replace('"image": 2', '"image": 1'), "mini:1": "no idea"}
        row["completion"] = texts.get(row["uid"], row["completion"])

    found = count(write_run(tmp_path / "a", "1" * 8), write_run(tmp_path / "b", "1" * 8, edit=stray))["all"]
    assert (found["images_changed"], found["statuses"], found["losses"]) == (2, {"ok -> none": 1}, 2)


def test_the_table_and_the_markdown_hold_the_same_numbers(runs: tuple[Path, Path]) -> None:
    table, text = show(*runs), show(*runs, "--markdown")
    for number in ("50.0", "62.5", "+12.5"):
        assert number in table and number in text
    assert "| task 0 | 4 | 50.0 | 75.0 | +25.0 |" in text
    assert text.startswith(f"A: {escape_markdown(str(runs[0]))}, arm rl")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("question", "Who?"),
        ("target", {"image": 1, "box_unit": [0.0, 0.0, 0.5, 0.5]}),
        ("images", ["a.png", "c.png"]),
        ("sizes", [[56, 56], [61, 60]]),
        ("prompt_hash", "4567"),
        ("frame", "permille"),
        ("resized_sizes", [[56, 56], [84, 84]]),
    ],
)
def test_another_sample_or_setting_is_refused_by_its_name_and_let_through_by_it(
    tmp_path: Path, key: str, value: Any
) -> None:
    first = write_run(tmp_path / "a", "1" * 16)
    other = write_run(tmp_path / "b", "1" * 16, edit=lambda row: row.update({key: value}))
    reason = refuse(first, other)
    assert f"they differ in {key} (16 of 16 samples, such as 'mini:0': " in reason and f"--allow {key}" in reason
    warning = f"Not alike, and let through by name: {key} (16 of 16 samples"
    page = tmp_path / "page.html"
    allowed = (first, other, "--allow", key, "--html", page)
    assert show(*allowed).startswith(warning)
    assert show(*allowed, "--markdown").startswith(escape_markdown(warning))
    found = count(*allowed)
    assert next(iter(found)) == "warning" and found["warning"].startswith(warning) and list(found["allowed"]) == [key]
    assert page.read_text().split("<header>")[1].split("</p>")[0].split("<strong>")[1].startswith(warning)


def test_every_difference_is_named_in_one_error(tmp_path: Path) -> None:
    changes = {"prompt_hash": "4567", "frame": "permille", "task": "another"}
    other = write_run(tmp_path / "b", "1" * 16, edit=lambda row: row.update(changes))
    reason = refuse(write_run(tmp_path / "a", "1" * 16), other, "--allow", "frame")
    assert "task (" in reason and "prompt_hash (" in reason and "frame (" not in reason
    assert "--allow prompt_hash" in reason and "--allow task" not in reason
    assert "--allow task: not a difference that can be let through" in refuse(other, tmp_path / "a", "--allow", "task")


def test_missing_samples_are_named_and_left_out_only_if_that_is_said(tmp_path: Path) -> None:
    first, other = write_run(tmp_path / "a", "1" * 16), write_run(tmp_path / "b", "1" * 14)
    assert "samples (2 only in A, such as 'mini:14')" in refuse(first, other)
    found = count(first, other, "--allow", "samples")
    assert found["all"]["n"] == 14 and "2 only in A" in found["allowed"]["samples"]


def test_a_sample_that_comes_twice_is_refused(tmp_path: Path) -> None:
    other = write_run(tmp_path / "b", "1" * 16, edit=lambda row: row.update(uid="mini:3"))
    assert "sample 'mini:3': comes twice" in refuse(write_run(tmp_path / "a", "1" * 16), other)


def test_runs_evaluated_with_other_settings_are_refused_with_the_setting_named(runs: tuple[Path, Path]) -> None:
    entry = {
        **{"arm": "rl", "seed": None, "weights": "0" * 64, "engine": "transformers", "attention": "sdpa"},
        **{"engine_version": "5.17.0"},
        **{"dtype": "float32", "device": "cpu", "frame": "resized_px", "style": "think", "min_pixels": 3136},
        **{"max_pixels": 12544, "max_new_tokens": 96, "decoding": {**DECODING, "source": "recipe"}, "prompts": "ab"},
    }
    write_json(runs[0] / "evaluations.json", [entry])
    reason = refuse(*runs)
    assert "evaluations (A has an evaluations.json beside its rows, B has none" in reason
    assert "say --allow evaluations" in reason and "(B has an evaluations.json" in refuse(*reversed(runs))
    for options in ((), ("--markdown",)):
        first = show(*runs, "--allow", "evaluations", *options).splitlines()[0]
        assert first.startswith("Not alike, and let through by name: evaluations (A has an")
    write_json(runs[1] / "evaluations.json", [{**entry, "weights": "1" * 64, "max_pixels": 50176, "device": "H100"}])
    reason = refuse(*runs)
    assert "device ('cpu' in A, 'H100' in B)" in reason and "max_pixels (12544 in A, 50176 in B)" in reason
    assert "Not alike" in show(*runs, "--allow", "device", "--allow", "max_pixels")
    write_json(runs[1] / "evaluations.json", [{**entry, "arm": "sft"}])
    assert "does not say how arm 'rl'" in refuse(*runs)


def test_of_several_training_seeds_one_is_named(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", "1" * 16, edit=lambda row: row.update(seed=0))
    text = (first / "samples.jsonl").read_text()
    other = write_run(tmp_path / "b", "0" * 16, edit=lambda row: row.update(seed=7))
    base = write_run(tmp_path / "c", "1" * 16, arm="base")
    both = text + (other / "samples.jsonl").read_text() + (base / "samples.jsonl").read_text()
    (first / "samples.jsonl").write_text(both)
    assert "several training seeds of this arm; name one with --seed: 0, 7" in refuse(first, "--arm-b", "base")
    assert "no training seed 1 of this arm; name one with --seed-b" in refuse(first, "--seed", 0, "--seed-b", 1)
    assert count(first, "--seed", 0, "--seed-b", 7)["all"]["delta"] == -100
    found = count(first, "--seed", 7, "--arm-b", "base")
    assert (found["all"]["delta"], found["a"]) == (100, f"{first}, arm rl, training seed 7")


def test_a_seed_is_asked_of_the_second_run_only_if_that_has_seeds(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", "1" * 16, edit=lambda row: row.update(seed=0))
    other = write_run(tmp_path / "b", "0" * 16, edit=lambda row: row.update(seed=7))
    (first / "samples.jsonl").write_text((first / "samples.jsonl").read_text() + (other / "samples.jsonl").read_text())
    plain = write_run(tmp_path / "c", "0" * 16)
    found = count(first, plain, "--seed", 0)
    assert (found["all"]["delta"], found["b"]) == (-100, f"{plain}, arm rl")
    assert count(plain, first, "--seed-b", 0)["all"]["delta"] == 100
    assert "no training seed 0 of this arm; name one with --seed-b: 7" in refuse(first, other, "--seed", 0)
    assert "no training seed 0 of this arm; name one with --seed-b: none is stated" in refuse(
        first, plain, "--seed", 7, "--seed-b", 0
    )


def test_two_runs_that_do_not_say_how_they_were_evaluated_are_compared_with_a_note(runs: tuple[Path, Path]) -> None:
    assert count(*runs)["notes"] == [
        "A and B: no evaluations.json beside the rows; engine, precision, device and limits are not known"
    ]


def test_stored_hits_do_not_count_but_completions(runs: tuple[Path, Path], tmp_path: Path) -> None:
    forged = write_run(tmp_path / "c", "10100101", edit=lambda row: row.update(hit=True))
    found = count(runs[0], forged)
    assert found["all"]["delta"] == 0 and found["notes"][0].startswith("B: 4 stored hits are not what this code reads")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["{a}"], "one run and one arm; add RUN_B, --arm-b or --seed-b"),
        (["{a}", "{tmp}"], "holds no samples.jsonl; name a results folder"),
        (["{a}", "{b}", "--arm", "sft"], "no arm 'sft'; name one with --arm: 'rl'"),
        (["{a}", "{b}", "--arm-b", "sft"], "no arm 'sft'; name one with --arm-b: 'rl'"),
        (["{a}", "{b}", "--benchmark", "blink"], "--benchmark blink: A has no such samples; it has mini"),
        (["{a}", "{b}", "--json", "--markdown"], "one output at a time"),
        (["{a}", "{b}", "--images", "{tmp}"], "add --html FILE"),
        (["{a}", "{b}", "--html", "{tmp}"], "no place for a file"),
        (["{a}", "{b}", "--frame", "permille"], "is a run, whose rows say their frame"),
        (["{a}", "{b}", "--allow", "everything"], "--allow everything: not a difference that can be let through"),
    ],
)
def test_calls_that_mean_nothing_are_answered_with_what_would(
    runs: tuple[Path, Path], tmp_path: Path, arguments: list[str], reason: str
) -> None:
    places = {"a": runs[0], "b": runs[1], "tmp": tmp_path}
    assert reason in refuse(*(argument.format(**places) for argument in arguments))
