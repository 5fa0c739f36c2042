"""Rescoring: the command itself on files of the published formats, thresholds, frames, and bad predictions."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import make_mig_record, make_original, write_json, write_pictures
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from migrl.benchmarks import BENCHMARKS
from migrl.cli import app
from migrl.errors import UserError
from migrl.grounding.boxes import FRAMES, Frame, convert_box
from migrl.grounding.images import fit_size
from migrl.scoring.rescore import ScoreSettings, cut_answer, rescore_file

RECORDS = [make_mig_record("region"), make_mig_record("region"), make_mig_record("refer_grounding")]


def write_lines(path: Path, completions: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"uid": uid, "completion": text}) + "\n" for uid, text in completions.items()))
    return path


def rescore(folder: Path, records: list[Any], completions: list[str], **settings: Any) -> dict[str, Any]:
    annotations = write_json(folder / "a.json", records)
    predictions = write_lines(folder / "p.jsonl", {f"mig_bench:{i}": text for i, text in enumerate(completions)})
    return rescore_file("mig_bench", annotations, predictions, ScoreSettings(**settings), folder)


def test_the_command_prints_a_table_and_the_same_numbers_as_json(tmp_path: Path) -> None:
    annotations = write_json(tmp_path / "a.json", RECORDS)
    completions = {"mig_bench:0": "(100,200),(300,400)", "mig_bench:1": "none", "mig_bench:2": "it(100,200),(300,400)"}
    command = ["score", "mig_bench", "--annotations", str(annotations), "--predictions"]
    command.append(str(write_lines(tmp_path / "p.jsonl", completions)))
    table = CliRunner().invoke(app, command)
    assert table.exit_code == 0 and "revised: 3 items" in table.stdout and "75.00" in table.stdout
    assert "3 items, the published file has 4276: a part" in table.stdout
    details = tmp_path / "details.jsonl"
    report = json.loads(CliRunner().invoke(app, [*command, "--json", "--details", str(details)]).stdout)
    assert (report["macro"], report["micro"], report["n"]) == (75.0, 66.6667, 3)
    first, second, _ = map(json.loads, details.read_text().splitlines())
    assert (first["uid"], first["box"], first["iou"]) == ("mig_bench:0", [100.0, 200.0, 300.0, 400.0], 1.0)
    assert (second["status"], second["box"], second["hit"]) == ("none", None, False)
    assert first["rule"] == second["rule"] == report["rule"]
    assert report["tasks"]["region"]["accuracy"] == 50.0
    assert (report["ledger"]["ok"], report["ledger"]["none"]) == (2, 1)
    assert (report["version"], report["rule"], report["frame"]) == ("revised", "univg_script", "permille")
    assert report["image_accuracy"] is None and report["truncation_rate"] is None


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize(
    ("box", "threshold"),
    [("(100,200),(300,300)", "acc_50"), ("(100,200),(300,340)", "acc_70"), ("(100,200),(300,260)", "acc_30")],
)
def test_an_iou_of_exactly_the_threshold_counts_and_one_permille_less_does_not(
    tmp_path: Path, box: str, threshold: str, original: bool
) -> None:
    # The true box is 200 by 200: the first 100, 140 or 60 rows are IoUs of exactly 0.5, 0.7 and 0.3.
    record = make_original(RECORDS[0]) if original else RECORDS[0]
    below = box[: box.rindex(",") + 1] + str(int(box[box.rindex(",") + 1 : -1]) - 1) + ")"
    assert rescore(tmp_path, [record], [box])["metrics"][threshold]["macro"] == 100.0
    assert rescore(tmp_path, [record], [below])["metrics"][threshold]["macro"] == 0.0


def test_the_official_rule_follows_the_version_of_the_file(tmp_path: Path) -> None:
    assert rescore(tmp_path, RECORDS[:1], ["[0.1, 0.2, 0.3, 0.4]"])["macro"] == 0.0
    report = rescore(tmp_path, [make_original(RECORDS[0])], ["[0.1, 0.2, 0.3, 0.4]"])
    assert (report["macro"], report["rule"]) == (100.0, "migician_script")


def test_strict_demands_the_right_image_and_box_only_does_not(tmp_path: Path) -> None:
    right = '<answer>{"image": 2, "bbox_2d": [100, 200, 300, 400]}</answer>'
    wrong = right.replace('"image": 2', '"image": 1')
    bare = "<answer>(100,200),(300,400)</answer>"
    report = rescore(tmp_path, [RECORDS[2]] * 3, [right, wrong, bare], parser="strict")
    assert (report["micro"], report["image_accuracy"]) == (33.3333, 33.3333)
    assert rescore(tmp_path, [RECORDS[2]] * 3, [right, wrong, bare], parser="box_only")["micro"] == 66.6667


def test_an_image_that_the_file_does_not_say_reliably_is_not_demanded(tmp_path: Path) -> None:
    stale = make_mig_record("group_grounding", answer=[100, 200, 300, 401])
    text = '<answer>{"image": 1, "bbox_2d": [100, 200, 300, 401]}</answer>'
    report = rescore(tmp_path, [stale, make_mig_record("group_grounding")], [text, text], parser="strict")
    assert (report["micro"], report["image_accuracy"]) == (50.0, 0.0)
    assert report["defects"]["image_not_trusted"] == 1


@given(
    sizes=st.lists(st.tuples(st.integers(28, 3000), st.integers(28, 3000)), min_size=2, max_size=2),
    frame=st.sampled_from(FRAMES),
    max_pixels=st.sampled_from([3136, 401_408, 640_000, 12_845_056]),
)
def test_the_true_box_written_in_any_frame_is_a_hit_whatever_the_sizes_of_the_images(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[tuple[int, int]],
    frame: Frame,
    max_pixels: int,
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    for name, size in zip(RECORDS[2]["images"], sizes, strict=True):
        write_pictures(folder, [name], size)
    width, height = sizes[1]  # the target is image 2; the size of image 1 must not matter
    resized = fit_size((width, height), min_pixels=3136, max_pixels=max_pixels)
    both = {"original_size": (width, height), "resized_size": resized}
    box = convert_box((0.1, 0.2, 0.3, 0.4), "unit", frame, **both)
    text = "[" + ", ".join(f"{v:.4f}" for v in box) + "]"
    settings = {"frame": frame, "max_pixels": max_pixels}
    answer = f'<answer>{{"image": 2, "bbox_2d": {text}}}</answer>'
    assert rescore(folder, [RECORDS[2]], [answer], parser="strict", **settings)["metrics"]["acc_70"]["macro"] == 100.0
    script = rescore(folder, [RECORDS[2]], [text], parser="migician_script", **settings)
    assert script["metrics"]["acc_70"]["macro"] == 100.0


def test_a_missing_image_stops_a_frame_in_pixels_and_no_other(tmp_path: Path) -> None:
    assert rescore(tmp_path, RECORDS[:1], ["(100,200),(300,400)"])["macro"] == 100.0
    with pytest.raises(UserError, match="region/0.png: missing image"):
        rescore(tmp_path, RECORDS[:1], ["(100,200),(300,400)"], frame="resized_px")


def test_uids_that_are_missing_double_or_unknown_are_named(tmp_path: Path) -> None:
    annotations = write_json(tmp_path / "a.json", RECORDS)
    lines = [json.dumps({"uid": f"mig_bench:{i}", "completion": ""}) for i in range(3)]

    def run(text: str) -> None:
        path = tmp_path / "p.jsonl"
        path.write_text(text)
        rescore_file("mig_bench", annotations, path, ScoreSettings(), tmp_path)

    run("\n".join(lines))
    for text, reason in (
        ("\n".join(lines[:2]), r"1 uid \('mig_bench:2'\) without a prediction"),
        ("\n".join([*lines, lines[0]]), r"record 4: uid 'mig_bench:0' comes twice"),
        ("\n".join([*lines, lines[0].replace(":0", ":9")]), r"1 uid \('mig_bench:9'\) not in the annotations"),
        ("\n".join([*lines[:2], '{"uid": "mig_bench:2"}']), r"record 3: key 'completion'"),
        ("\n".join([*lines[:2], '{"completion": "x"}']), r"record 3: key 'uid'"),
        ("\n".join([*lines[:2], lines[2][:-1] + ', "truncated": 1}']), r"record 3: key 'truncated'"),
        ("\n".join([*lines[:2], lines[2][:-3]]), r"p\.jsonl, line 3: torn or not JSON"),
    ):
        with pytest.raises(UserError, match=reason):
            run(text)
    run("\ufeff" + "\r\n".join(lines))  # as some editors save it


def test_unknown_benchmarks_and_parsers_are_answered_with_the_legal_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="parser nothing: mig_bench is read by compat, migician_script"):
        rescore(tmp_path, RECORDS[:1], [""], parser="nothing")
    with pytest.raises(UserError, match=f"the benchmarks are {', '.join(BENCHMARKS)}"):
        rescore_file("mig", tmp_path, tmp_path, ScoreSettings(), tmp_path)


@pytest.mark.parametrize(("low", "high"), [(0, 401_408), (-5, 401_408), (500_000, 401_408), (1, 100), (3136, -1)])
def test_limits_that_no_model_runs_with_are_refused(low: int, high: int) -> None:
    with pytest.raises(UserError, match=f"--min-pixels {low}, --max-pixels {high}: need 0 < min <= max"):
        ScoreSettings(min_pixels=low, max_pixels=high)


def test_a_strip_that_the_model_cannot_read_and_a_place_that_is_none_are_one_line_errors(tmp_path: Path) -> None:
    write_pictures(tmp_path, RECORDS[0]["images"], (1, 300))
    with pytest.raises(UserError, match=r"region/0\.png: an image of 1x300 px is longer than 200:1"):
        rescore(tmp_path, RECORDS[:1], ["(1,2),(3,4)"], frame="resized_px")
    annotations, predictions = tmp_path / "a.json", tmp_path / "p.jsonl"
    for place in (tmp_path, tmp_path / "none" / "d.jsonl"):
        with pytest.raises(UserError, match="no place for a file"):
            rescore_file("mig_bench", annotations, predictions, ScoreSettings(), tmp_path, place)


def test_rules_that_look_for_the_answer_block_themselves_are_not_given_less(tmp_path: Path) -> None:
    text = '<answer>{"image": 1, "bbox_2d": [100, 200, 300, 400]}</answer>'
    assert rescore(tmp_path, RECORDS[:1], [text], parser="strict", cut_answer=True)["macro"] == 100.0


def test_truncation_and_tokens_are_counted_where_they_are_told(tmp_path: Path) -> None:
    annotations = write_json(tmp_path / "a.json", RECORDS[:2])
    rows = [
        {"uid": "mig_bench:0", "completion": "", "truncated": True, "tokens": 4},
        {"uid": "mig_bench:1", "completion": "", "truncated": False, "tokens": 8},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report = rescore_file("mig_bench", annotations, tmp_path / "p.jsonl", ScoreSettings(), tmp_path)
    assert (report["truncation_rate"], report["mean_tokens"]) == (50.0, 6.0)


@pytest.mark.parametrize("tokens", ["1" + "0" * 400, "1e999", "NaN", "-1", "true", '"4"', "4.0"])
def test_a_number_of_tokens_that_is_no_count_is_named_with_file_record_and_key(tokens: str, tmp_path: Path) -> None:
    annotations = write_json(tmp_path / "a.json", RECORDS[:1])
    path = tmp_path / "p.jsonl"
    path.write_text(f'{{"uid": "mig_bench:0", "completion": "", "tokens": {tokens}}}\n')
    with pytest.raises(UserError, match=f"^{path}, record 1: key 'tokens': must be a count"):
        rescore_file("mig_bench", annotations, path, ScoreSettings(), tmp_path)


def test_blink_stands_beside_its_subsets(tmp_path: Path) -> None:
    answers = {
        "val_Jigsaw_1": "(A)",
        "val_Jigsaw_2": "(A)",
        "val_Relative_Reflectance_1": "(C)",
        "val_Counting_1": "(D)",
    }
    annotations = write_json(tmp_path / "val.json", answers)
    replies = {"blink:val_Jigsaw_1": "(A)", "blink:val_Jigsaw_2": "<answer>(A)</answer>"}
    replies |= {"blink:val_Relative_Reflectance_1": "(C) ok", "blink:val_Counting_1": "(C)"}
    predictions = write_lines(tmp_path / "p.jsonl", replies)
    report = rescore_file("blink", annotations, predictions, ScoreSettings(), tmp_path)
    assert (report["macro"], report["micro"]) == (50.0, 50.0)
    assert report["subsets"]["multi_image"]["macro"] == 50.0
    assert report["subsets"]["without_relative_reflectance"]["macro"] == 25.0
    cut = rescore_file("blink", annotations, predictions, ScoreSettings(cut_answer=True), tmp_path)
    assert (cut["tasks"]["Jigsaw"]["accuracy"], cut["cut_answer"]) == (100.0, True)


def test_the_last_closed_answer_block_is_cut_out() -> None:
    assert cut_answer("<answer>(A)</answer> no <answer> (B) </answer>") == "(B)"
    assert cut_answer("</answer> text") == "</answer> text"
    assert cut_answer("<answer>open") == "<answer>open"
