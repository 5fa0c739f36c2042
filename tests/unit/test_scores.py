"""Scoring of single completions, checks that arms compare, and the score table."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import change_row, make_row

from migrl.errors import UserError
from migrl.grounding.answers import STATUSES
from migrl.grounding.boxes import FRAMES, Frame
from migrl.grounding.samples import BoxTarget, ChoiceTarget, Target
from migrl.scoring.comparable import index_rows
from migrl.scoring.completions import Score, score_completion
from migrl.scoring.rows import EvaluationRow, load_rows, rescore_row
from migrl.scoring.scores import compute_scores
from migrl.statistics.intervals import wilson_interval

SIZES, RESIZED = ((200, 100), (50, 80)), ((112, 56), (56, 84))
TARGET = BoxTarget(2, (0.25, 0.25, 0.75, 0.75))


def write_answer(image: int, *numbers: float) -> str:
    return f'<answer>{{"image": {image}, "bbox_2d": {list(numbers)}}}</answer>'


def score(completion: str, target: Target = TARGET, frame: Frame = "resized_px") -> Score:
    return score_completion(completion, target, frame=frame, sizes=SIZES, resized_sizes=RESIZED, truncated=False)


def make_answer(arm: str = "rl", number: int = 0, **changes: Any) -> EvaluationRow:
    told = {
        "task": f"task {number % 2}",
        "cluster": f"set {number}",
        "sizes": [list(size) for size in SIZES],
        "resized_sizes": [list(size) for size in RESIZED],
        "target": TARGET.to_json(),
        "tokens": 10,
        "completion": write_answer(2, 14, 21, 42, 63),
    }
    return make_row(f"mini_mig:{number % 2}:{number}", arm, **(told | changes))


def tabulate(rows: Iterable[EvaluationRow]) -> dict[str, Any]:
    """The scores of the only arm on the only benchmark."""
    return compute_scores(index_rows(rows))["rl"]["mini_mig"]


@pytest.mark.parametrize(
    ("frame", "numbers"),
    [
        ("resized_px", (14, 21, 42, 63)),
        ("original_px", (12.5, 20, 37.5, 60)),
        ("permille", (250, 250, 750, 750)),
        ("unit", (0.25, 0.25, 0.75, 0.75)),
    ],
)
def test_the_true_box_is_a_hit_in_every_frame_and_stands_in_all_four(frame: Frame, numbers: tuple[float, ...]) -> None:
    result = score(write_answer(2, *numbers), frame=frame)
    assert (result.status, result.image, result.iou, result.hit) == ("ok", 2, 1.0, True)
    assert result.boxes is not None and set(result.boxes) == set(FRAMES)
    assert result.boxes["original_px"] == (12.5, 20.0, 37.5, 60.0)
    assert result.boxes["permille"] == (250.0, 250.0, 750.0, 750.0)


def test_the_size_used_is_that_of_the_image_the_answer_names() -> None:
    boxes = score(write_answer(1, 0, 0, 112, 56)).boxes
    assert boxes is not None
    assert boxes["unit"] == (0.0, 0.0, 1.0, 1.0)
    assert boxes["original_px"] == (0.0, 0.0, 200.0, 100.0)


def test_the_right_box_on_the_wrong_image_is_a_miss() -> None:
    result = score(write_answer(1, 28, 14, 84, 42))
    assert (result.status, result.iou, result.hit) == ("ok", 0.0, False)


def test_an_iou_of_exactly_one_half_is_a_hit_and_just_below_is_not() -> None:
    half = score(write_answer(2, 0.25, 0.25, 0.75, 0.5), frame="unit")
    below = score(write_answer(2, 0.25, 0.25, 0.75, 0.499999), frame="unit")
    assert (half.iou, half.hit) == (0.5, True)
    assert below.hit is False


def test_a_choice_is_its_letter() -> None:
    target = ChoiceTarget("B", 3)
    assert score("<answer>(B)</answer>", target).hit is True
    assert score("<answer>(C)</answer>", target).hit is False
    assert score("<answer>(D)</answer>", target).status == "out_of_range"
    assert score("<answer>(B)</answer>", target).iou is None


@settings(deadline=None)
@given(completion=st.text() | st.from_regex(r"<answer>\{\"image\": -?\d+, \"bbox_2d\": \[.*\]\}</answer>"))
def test_any_text_can_be_scored_and_stored(completion: str) -> None:
    for target in (TARGET, ChoiceTarget("A", 2)):
        result = score(completion, target)
        json.dumps(result.to_json(), allow_nan=False)
        assert result.hit <= result.readable


def test_rescoring_a_row_ignores_what_is_stored() -> None:
    row = make_answer()
    assert rescore_row(replace(row, score=Score("none", None, None, None, 0.1, False))) == row


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"prompt_hash": "ffff"}, "prompt_hash"),
        ({"frame": "permille"}, "frame"),
        ({"resized_sizes": [[56, 28], [28, 56]]}, "resized_sizes"),
        ({"target": {"image": 1, "box_unit": [0, 0, 1, 1]}}, "target"),
    ],
)
def test_arms_that_were_asked_differently_are_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=f"mini_mig:0:0.*{key}.*'rl'.*'sft'"):
        index_rows([make_answer("sft"), make_answer("rl", **changes)])


def test_a_row_that_comes_twice_and_a_row_one_arm_lacks_are_refused() -> None:
    with pytest.raises(UserError, match="twice"):
        index_rows([make_answer(), make_answer()])
    with pytest.raises(UserError, match="arm 'sft'.*missing.*mini_mig:1:1"):
        index_rows([make_answer("rl", 0), make_answer("rl", 1), make_answer("sft", 0)])


def test_the_table_holds_macro_micro_and_every_status() -> None:
    # Task 0: two of three hit; task 1: none of two, one cut short and one on the wrong image.
    rows = [
        make_answer(number=0),
        make_answer(number=2),
        make_answer(number=4, completion=write_answer(2, 0, 0, 14, 21)),
        make_answer(number=1, completion="<think>the sh", truncated=True, tokens=60),
        make_answer(number=3, completion=write_answer(1, 14, 21, 42, 50)),
    ]
    scores = tabulate(rows)
    assert (scores["macro"], scores["micro"], scores["n"]) == (33.3333, 40.0, 5)
    assert scores["low"] <= scores["macro"] <= scores["high"]
    counts = {"ok": 4, "truncated": 1}  # nothing is unanswered where no server was asked
    assert scores["ledger"] == {name: counts.get(name, 0) for name in STATUSES if name != "unanswered"}
    assert (scores["parse_rate"], scores["truncation_rate"], scores["mean_tokens"]) == (80.0, 20.0, 20.0)
    assert scores["tasks"]["task 0"]["accuracy"] == 66.6667
    assert scores["tasks"]["task 1"]["image_accuracy"] == 0.0
    assert scores == tabulate(rows[::-1])


def test_a_task_with_one_image_set_has_scores_but_no_macro_interval() -> None:
    scores = tabulate([make_answer()])
    assert (scores["macro"], scores["low"], scores["high"]) == (100.0, None, None)


def test_a_tasks_interval_is_over_image_sets_where_they_have_several_samples() -> None:
    alone = [make_answer(number=2 * n, **({} if n % 2 else {"completion": "no"})) for n in range(40)]
    ordered = enumerate(sorted(alone, key=lambda row: row.score.hit))
    shared = [change_row(row, cluster=f"set {k // 4}") for k, row in ordered]
    first, second = (tabulate(rows)["tasks"]["task 0"] for rows in (alone, shared))
    assert (first["accuracy"], second["accuracy"]) == (50.0, 50.0)
    assert (first["low"], first["high"]) == pytest.approx([100 * end for end in wilson_interval(20, 40)], abs=1e-4)
    assert second["low"] < first["low"] - 10 and second["high"] > first["high"] + 10


def test_rows_survive_the_way_to_disk_and_back(tmp_path: Path) -> None:
    rows = [make_answer(number=n) for n in range(3)]
    text = "".join(json.dumps(row.to_json()) + "\n" for row in rows)
    (tmp_path / "samples.jsonl").write_text(text)
    (tmp_path / "samples.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert load_rows(tmp_path / "samples.jsonl") == load_rows(tmp_path / "samples.jsonl.gz") == rows


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"hit": 1}, "hit"),
        ({"iou": float("nan")}, "iou"),
        ({"iou": None}, "iou"),
        ({"boxes": {"unit": [0, 0, 1, 1]}}, "boxes"),
        ({"sizes": [[200, 100]]}, "sizes"),
        ({"resized_sizes": [[112, 56]]}, "resized_sizes"),
        ({"target": {"image": 3, "box_unit": [0, 0, 1, 1]}}, "target"),
        ({"logprob": -1.5}, "logprob"),
    ],
)
def test_a_broken_row_is_named_by_file_line_and_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path, line = tmp_path / "samples.jsonl", make_answer().to_json()
    path.write_text("".join(json.dumps(one) + "\n" for one in (line, line | changes)))
    with pytest.raises(UserError, match=f"samples.jsonl, line 2: key '{key}'"):
        load_rows(path)
    for key in line:
        path.write_text(json.dumps({name: value for name, value in line.items() if name != key}) + "\n")
        with pytest.raises(UserError, match=f"samples.jsonl, line 1: key '{key}'"):
            load_rows(path)


@pytest.mark.parametrize(("line", "reason"), [("{", "not JSON"), ("[]", "a row is a JSON object")])
def test_a_line_that_is_no_row_at_all_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(make_answer().to_json()) + "\n" + line + "\n")
    with pytest.raises(UserError, match=f"samples.jsonl, line 2: {reason}"):
        load_rows(path)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(make_answer().to_json()).encode() + b"\n")[:-9])
    with pytest.raises(UserError, match="torn"):
        load_rows(path)
    (tmp_path / "samples.jsonl").write_text(json.dumps(make_answer().to_json()))
    with pytest.raises(UserError, match="line 1: torn"):
        load_rows(tmp_path / "samples.jsonl")
