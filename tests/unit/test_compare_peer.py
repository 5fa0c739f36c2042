"""`migrl compare` with a peer's file, as `migrl score --details` writes it, or with raw completions."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import write_json
from compare_runs import HIT, MISS, Letters, Peer, Reader, count, refuse, show

from migrl.files import read_jsonl, write_jsonl


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path)


def test_a_peers_details_and_its_raw_completions_give_the_same_comparison(peer: Peer) -> None:
    raw = peer.predict([HIT, HIT, MISS, MISS, HIT, HIT], wrong_images=2)
    found = count(peer.run, raw, "--frame", "permille")
    cell = found["benchmarks"]["mig_bench"]
    assert list(found["benchmarks"]) == ["mig_bench"]  # the run's other benchmark is not the peer's
    assert (cell["n"], cell["losses"], cell["wins"], cell["images_changed"]) == (6, 4, 0, 2)
    assert cell["tasks"]["refer_grounding"]["delta"] == -100.0
    details = count(peer.run, peer.score(raw, "--parser", "strict"))
    assert details["benchmarks"] == found["benchmarks"] and details["lost"] == found["lost"]
    assert "it does not tell its prompt" in details["notes"][0]


@pytest.mark.parametrize(
    ("frame", "box"),
    [
        ("original_px", "(33.3123456789,27.272727272727),(33.4444444444,39.123456789123)"),
        ("resized_px", "(37.3123456789,28.272727272727),(37.4444444444,41.123456789123)"),
        ("permille", "(333.123456789,340.272727272727),(334.4444444444,490.123456789123)"),
        ("unit", "(0.333123456789,0.340272727272727),(0.3344444444444,0.490123456789123)"),
    ],
)
def test_details_follow_from_their_boxes_in_any_frame(peer: Peer, frame: str, box: str) -> None:
    write_json(peer.annotations, [{**record, "answer": [333, 333, 334, 500]} for record in peer.records])
    rows = read_jsonl(peer.run)
    for row in rows[:6]:
        row["target"]["box_unit"] = [0.333, 0.333, 0.334, 0.5]  # thin: a small slip in x is a large one in IoU
    write_jsonl(peer.run, rows)
    raw = peer.predict([box] * 6)
    details = peer.score(raw, "--parser", "strict", "--frame", frame, "--images", str(peer.folder))
    lines = [json.loads(line) for line in details.read_text().splitlines()]
    assert all(0 < line["iou"] < 1 for line in lines)
    found = count(peer.run, details)["benchmarks"]
    assert found == count(peer.run, raw, "--frame", frame)["benchmarks"]
    for line in lines:
        line["box"][0] *= 1.001
    write_jsonl(details, lines)
    assert "target (6 of 6 samples" in refuse(peer.run, details)


def test_a_rule_blind_to_the_image_is_compared_with_the_same_rule_only(peer: Peer) -> None:
    raw = peer.predict([HIT, HIT, MISS, MISS, HIT, HIT], wrong_images=2)
    details = peer.score(raw)
    assert "the rule for B does not look at the image" in refuse(peer.run, details)
    found = count(peer.run, details, "--official")
    assert (found["all"]["losses"], found["all"]["images_changed"]) == (2, None)
    assert found["all"] == count(peer.run, raw, "--frame", "permille", "--official")["all"]
    refused = count(peer.run, peer.score(raw, "--parser", "box_only"), "--official")  # two boxes on a wrong image
    assert refused["all"]["losses"] == 4
    strict = peer.score(raw, "--parser", "strict")
    assert "the rule for A does not look at the image" in refuse(peer.run, strict, "--official")


def test_letters_that_a_peer_read_by_another_rule_are_refused_unless_that_is_said(tmp_path: Path) -> None:
    peer = Letters(tmp_path)
    strict = count(peer.run, peer.score("--parser", "strict"))
    assert (strict["all"]["both_hit"], strict["all"]["delta"]) == (4, 0)
    assert "read and scored by the peer by the rule strict" in strict["notes"][0]
    other = peer.score("--parser", "compat")
    reason = refuse(peer.run, other)
    assert "rule (4 of 4 letters of B were read by the rule compat, all of A by strict" in reason
    assert "say --allow rule" in reason and "rule (4 of 4" in refuse(peer.run, other, "--official")
    assert "rule compat" in count(peer.run, other, "--allow", "rule")["allowed"]["rule"]
    lines = [json.loads(line) for line in other.read_text().splitlines()]
    write_jsonl(other, [{key: line[key] for key in line if key != "rule"} for line in lines])
    assert "record 1: key 'rule': Field required" in refuse(peer.run, other)
    write_jsonl(other, [{**line, "rule": "univg_script"} for line in lines])
    assert "key 'rule': 'univg_script' is none of blink's (compat, strict, lmms_eval" in refuse(peer.run, other)


def test_of_a_peer_with_several_benchmarks_only_the_named_one_is_compared(peer: Peer) -> None:
    raw = peer.predict([HIT] * 6)
    extra = {"uid": "mini_mig:1", "completion": "none"}
    write_jsonl(raw, [*map(json.loads, raw.read_text().splitlines()), extra])
    assert set(count(peer.run, raw, "--frame", "permille")["benchmarks"]) == {"mig_bench", "mini_mig"}
    found = count(peer.run, raw, "--frame", "permille", "--benchmark", "mig_bench")
    assert (list(found["benchmarks"]), found["all"]["n"]) == (["mig_bench"], 6)
    write_jsonl(peer.folder / "one.jsonl", [extra])
    reason = refuse(peer.run, peer.folder / "one.jsonl", "--frame", "permille", "--benchmark", "mig_bench")
    assert "its uids is A's of mig_bench; they are like 'mini_mig:1', A's of mig_bench like 'mig_bench:0'" in reason
    write_jsonl(raw, [*map(json.loads, raw.read_text().splitlines()), {**extra, "uid": "mini_mig:2"}])
    reason = refuse(peer.run, raw, "--frame", "permille", "--benchmark", "mig_bench")
    assert "samples (1 only in B, such as 'mini_mig:2')" in reason


def test_details_of_another_version_of_the_benchmark_or_other_pixel_limits_are_found_out(peer: Peer) -> None:
    raw = peer.predict([HIT] * 6)
    write_json(peer.annotations, [{**record, "answer": [100, 200, 300, 300]} for record in peer.records])
    details = peer.score(raw, "--parser", "strict")
    assert "target (6 of 6 samples, such as 'mig_bench:0': what the line of B holds" in refuse(peer.run, details)
    assert count(peer.run, details, "--allow", "target")["allowed"]["target"]
    write_json(peer.annotations, peer.records)
    pixels = peer.predict(["(11.2,16.8),(33.6,33.6)"] * 6)  # 100 by 80 becomes 112 by 84, as in the run
    options = ("--parser", "strict", "--frame", "resized_px", "--images", str(peer.folder))
    assert count(peer.run, peer.score(pixels, *options))["all"]["both_hit"] == 6
    other = peer.score(pixels, *options, "--min-pixels", "50176", "--max-pixels", "100000")
    assert "or other pixel limits" in refuse(peer.run, other)


def test_a_peers_uids_are_matched_with_the_runs(peer: Peer) -> None:
    details = peer.score(peer.predict([HIT] * 6), "--parser", "strict")
    lines = details.read_text().splitlines()
    details.write_text("\n".join(lines[:4]))
    assert "samples (2 only in A" in refuse(peer.run, details)
    details.write_text("\n".join([*lines, lines[0].replace("mig_bench:0", "mig_bench:99")]))
    assert "samples (1 only in B, such as 'mig_bench:99')" in refuse(peer.run, details)
    assert count(peer.run, details, "--allow", "samples")["all"]["n"] == 6
    details.write_text("\n".join(lines).replace("mig_bench:", "other:"))
    assert "none of its uids is A's; they are like 'other:0', A's like 'mig_bench:0'" in refuse(peer.run, details)
    assert "name the run first, then the peer's file" in refuse(details, peer.run)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"uid": 7}, "record 1: key 'uid'"),
        ({"uid": "mig_bench:1"}, "record 2: uid 'mig_bench:1' comes twice"),
        ({"task": "\x1b[31mred"}, r"key 'task': '\x1b[31mred', but the run's is 'refer_grounding'"),
        ({"status": "fine"}, "key 'status'"),
        ({"hit": 1}, "key 'hit'"),
        ({"hit": False}, "target (1 of 6 samples"),
        ({"iou": float("nan")}, "key 'iou'"),
        ({"iou": None, "letter": "A"}, "key 'iou'"),
        ({"box": [1, 2, 3]}, "key 'box'"),
        ({"box": [1, 2, 3, 10**400]}, "key 'box"),
        ({"frame": None}, "key 'frame'"),
        ({"image": "2"}, "key 'image'"),
        ({"image": None}, "target (1 of 6 samples"),
        ({"box": [0, 0, 1000, 1000]}, "target (1 of 6 samples"),
        ({"iou": 0.99}, "target (1 of 6 samples"),
        ({"rule": "lmms_eval"}, "key 'rule': 'lmms_eval' is none of mig_bench's (migician_script, "),
        ({"rule": "\x1b[31m"}, r"key 'rule': '\x1b[31m' is none of"),
        ({"rule": 7}, "key 'rule': Input should be a valid string"),
        ({"rule": "box_only"}, "some boxes are read by the rule strict and some by another"),
    ],
)
def test_a_peers_line_that_is_broken_or_contradicts_itself_is_named(
    peer: Peer, changes: dict[str, Any], reason: str
) -> None:
    details = peer.score(peer.predict([HIT] * 6), "--parser", "strict")
    first, *others = map(json.loads, details.read_text().splitlines())
    write_jsonl(details, [{**first, **changes}, *others])
    assert reason in refuse(peer.run, details)


def test_a_missing_frame_one_too_many_and_files_of_something_else_are_refused(peer: Peer) -> None:
    raw = peer.predict([HIT] * 6)
    assert "say with --frame what their numbers mean" in refuse(peer.run, raw)
    details = peer.score(raw, "--parser", "strict")
    assert "leave out --frame" in refuse(peer.run, details, "--frame", "permille")
    assert "leave out --arm-b" in refuse(peer.run, details, "--arm-b", "rl")
    for text, reason in (("", "an empty file"), ("[" * 100_000, "torn or not JSON"), ("\x00\xff", "not")):
        details.write_bytes(text.encode("latin-1"))
        assert reason in refuse(peer.run, details)


def test_a_peers_details_have_a_page_without_texts(peer: Peer) -> None:
    page = peer.folder / "page.html"
    details = peer.score(peer.predict([MISS] * 6), "--parser", "strict")
    show(peer.run, details, "--html", page, "--images", peer.folder)
    found = Reader(page)
    assert found.text.count("a peer's details hold no text") == 6 and "B, peer" in found.text
    assert len(found.find("rect", **{"class": "guess"})) == 12
