"""Arms are compared only if they were evaluated alike, and the rows show that they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rows import change_row
from run_files import DECODING, make_row, read_recipe

from migrl.errors import UserError
from migrl.evidence.evaluations import (
    OWN_KEYS,
    Evaluation,
    check_evaluations,
    describe_evaluation,
    note_device,
    read_devices,
    read_evaluations,
)
from migrl.evidence.rows_fit import check_rows_fit
from migrl.files import write_json
from migrl.scoring.rows import EvaluationRow

OTHERS: dict[str, Any] = {
    "engine": "vllm",
    "engine_version": "0.31.0",
    "attention": "flash_attention_2",
    "dtype": "bfloat16",
    "device": "NVIDIA H100 80GB HBM3",
    "frame": "permille",
    "style": "direct",
    "min_pixels": 784,
    "max_pixels": 12_845_056,
    "max_new_tokens": 95,
    "decoding": {**DECODING, "repetition_penalty": 1.05, "source": "checkpoint"},
    "prompts": "0" * 16,
}


def describe(arm: Any, seed: int | None = None, pixel_factor: int = 28, **changes: Any) -> Evaluation:
    known = {"weights": "a" * 64, "version": "5.17.0", "device": "cpu", "decoding": DECODING}
    return describe_evaluation(read_recipe("tiny"), arm, seed, **known, pixel_factor=pixel_factor) | changes


def make_rows(**changes: Any) -> list[EvaluationRow]:
    return [change_row(make_row(arm, "mini_mig", number), **changes) for arm in ("base", "rl") for number in range(2)]


def test_arms_of_one_recipe_are_evaluated_alike_whatever_their_weights_and_seeds() -> None:
    alike = [describe("base"), describe("rl", 0, weights="b" * 64), describe("rl", 1, weights="c" * 64)]
    check_evaluations(alike)
    check_evaluations([])
    assert set(alike[0]) == {*OTHERS, *OWN_KEYS}


@pytest.mark.parametrize("key", OTHERS)
def test_each_difference_is_refused_with_its_key_both_values_both_arms_and_the_remedy(key: str) -> None:
    one = describe("base")
    with pytest.raises(UserError) as caught:
        check_evaluations([one, describe("sft"), describe("rl", 2, **{key: OTHERS[key]})])
    said = str(caught.value)
    assert f"key {key!r} is {one[key]!r} for arm 'base' and {OTHERS[key]!r} for arm 'rl', seed 2" in said
    assert "no verdict follows" in said and "evaluate all arms again" in said


def test_every_difference_of_two_arms_is_named_at_once() -> None:
    with pytest.raises(UserError, match=r"key 'device'.*; key 'max_pixels' is 9600 for arm 'base' and 6400 for arm"):
        check_evaluations([describe("base"), describe("rl", max_pixels=6400, device="NVIDIA A100")])


def test_an_arm_that_is_there_twice_is_refused_and_two_seeds_of_it_are_not() -> None:
    check_evaluations([describe("rl", 0), describe("rl", 1)])
    with pytest.raises(UserError, match="arm 'rl', seed 1: evaluated twice"):
        check_evaluations([describe("rl", 1), describe("base"), describe("rl", 1)])


def test_the_file_is_read_back_and_a_missing_torn_or_incomplete_one_names_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.json"
    with pytest.raises(UserError, match=r"evaluations\.json: no such file, .*run `migrl reproduce` again"):
        read_evaluations(path)
    write_json(path, [describe("base"), describe("rl")])
    assert read_evaluations(path) == [describe("base"), describe("rl")]
    path.write_text(path.read_text()[:-9])
    with pytest.raises(UserError, match=r"evaluations\.json: torn or not JSON"):
        read_evaluations(path)
    write_json(path, [])
    with pytest.raises(UserError, match="names no arm, so nobody knows how any was evaluated"):
        read_evaluations(path)
    write_json(path, {"arm": "base"})
    with pytest.raises(UserError, match="must be a JSON list, not dict"):
        read_evaluations(path)
    write_json(path, [describe("base"), {key: value for key, value in describe("rl").items() if key != "attention"}])
    with pytest.raises(UserError, match=r"entry 2: key 'attention': Field required"):
        read_evaluations(path)
    write_json(path, [describe("base"), describe("rl", max_pixels=4096)])
    with pytest.raises(UserError, match="key 'max_pixels' is 9600 for arm 'base' and 4096 for arm 'rl'"):
        read_evaluations(path)


def test_rows_fit_the_evaluations_they_came_from() -> None:
    check_rows_fit([describe("base"), describe("rl")], make_rows())


def test_sizes_are_those_of_its_models_own_tokens_which_are_stated_where_they_are_not_28_px() -> None:
    with_32_px = [describe(arm, pixel_factor=32) for arm in ("base", "rl")]
    rows = make_rows(resized_sizes=[[64, 64], [64, 64]])
    check_rows_fit(with_32_px, rows)
    with pytest.raises(UserError, match=r"key 'resized_sizes' has \[64, 64\] for an image of \["):
        check_rows_fit([describe("base"), describe("rl")], rows)
    with pytest.raises(UserError, match="key 'pixel_factor' is 32 for arm 'base' and None for arm 'rl'"):
        check_evaluations([with_32_px[0], describe("rl")])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame": "permille"}, "key 'frame' is 'permille', but 'resized_px'"),
        (
            {"resized_sizes": [[56, 56], [84, 84]]},
            r"key 'resized_sizes' has \[84, 84\] for an image of \[60, 60\], but 3136 to 9600 pixels give \[56, 56\]",
        ),
        ({"sizes": [[56, 56], [1, 5000]]}, "key 'sizes': an image of 1x5000 px"),
        ({"tokens": 97}, "key 'tokens' is 97, but max_new_tokens 96"),
        ({"truncated": True}, "key 'tokens' is cut at 9, but max_new_tokens 96"),
        ({"prompt_hash": "f" * 16}, "key 'prompt_hash' is 'ffffffffffffffff', but "),
        ({"question": "Where else?"}, "key 'prompt_hash' is "),
    ],
)
def test_rows_that_other_settings_gave_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"arm 'base', sample 'mini_mig:0': {said}.*by evaluations.json"):
        check_rows_fit([describe("base"), describe("rl")], make_rows(**changes))


def test_prompts_are_not_compared_where_the_evaluation_used_other_texts() -> None:
    other = [describe("base", prompts="0" * 16), describe("rl", prompts="0" * 16)]
    check_rows_fit(other, make_rows(prompt_hash="f" * 16))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([describe("base")], "arm 'rl': is in the samples but not in evaluations.json"),
        ([describe("base"), describe("rl"), describe("sft")], "arm 'sft': is in the evaluations.json but has no"),
        ([describe("base"), describe("rl", 3)], "arm 'rl', seed 3: is in the evaluations.json but has no"),
    ],
)
def test_every_arm_and_seed_is_in_both(entries: list[Evaluation], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_rows_fit(entries, make_rows())


def note_all(folder: Path, notes: list[tuple[int, str, str]]) -> Callable[[str], str]:
    for rank, arm, device in notes:
        note_device(folder / f"devices.{rank}.jsonl", arm, device)
    return lambda arm: read_devices(sorted(folder.glob("devices.*.jsonl")), arm)


def test_devices_are_those_of_all_processes_that_answered_for_an_arm(tmp_path: Path) -> None:
    read = note_all(tmp_path, [(0, "base", "B200"), (1, "base", "A100"), (0, "base", "B200"), (0, "rl", "B200")])
    assert read("base") == "A100, B200" and read("rl") == "B200"
    with pytest.raises(UserError, match="arm 'sft': no process noted"):
        read("sft")


def test_an_evaluation_that_would_go_on_on_another_device_stops_before_it_answers(tmp_path: Path) -> None:
    note_all(tmp_path, [(0, "base", "NVIDIA A100")])
    for arm in ("base", "rl"):
        with pytest.raises(
            UserError, match=f"'NVIDIA A100' for arm 'base' and 'cpu' for arm '{arm}', which would go on"
        ):
            note_device(tmp_path / "devices.0.jsonl", arm, "cpu")
    assert len((tmp_path / "devices.0.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "devices.0.jsonl").read_text()) == {"uid": "base", "device": "NVIDIA A100"}
