"""`migrl compare` with a peer's file, as `migrl score --details` writes it, or with raw completions."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import write_json
from compare_runs import HIT, MISS, Peer, Reader, count, refuse, show

from migrl.records import write_jsonl


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
        ({"hit": False}, "key 'hit': False with an IoU of 1.0"),
        ({"iou": float("nan")}, "key 'iou'"),
        ({"iou": None, "letter": "A"}, "key 'iou': the run's question asks for a box"),
        ({"box": [1, 2, 3]}, "key 'box'"),
        ({"box": [1, 2, 3, 10**400]}, "key 'box"),
        ({"frame": None}, "key 'frame': a box needs one"),
        ({"image": "2"}, "key 'image'"),
        ({"image": None}, "target (1 of 6 samples"),
        ({"box": [0, 0, 1000, 1000]}, "target (1 of 6 samples"),
    ],
)
def test_a_peers_line_that_is_broken_or_contradicts_itself_is_named(
    peer: Peer, changes: dict[str, Any], reason: str
) -> None:
    details = peer.score(peer.predict([HIT] * 6), "--parser", "strict")
    first, *others = map(json.loads, details.read_text().splitlines())
    write_jsonl(details, [{**first, **changes}, *others])
    assert reason in refuse(peer.run, details)


def test_lines_of_two_rules_a_missing_frame_and_files_of_something_else_are_refused(peer: Peer) -> None:
    raw = peer.predict([HIT] * 6)
    assert "say with --frame what their numbers mean" in refuse(peer.run, raw)
    details = peer.score(raw, "--parser", "strict")
    assert "leave out --frame" in refuse(peer.run, details, "--frame", "permille")
    assert "leave out --arm-b" in refuse(peer.run, details, "--arm-b", "rl")
    first, *others = map(json.loads, details.read_text().splitlines())
    del first["image"]
    write_jsonl(details, [first, *others])
    assert "some boxes come with the key 'image' and some do not" in refuse(peer.run, details)
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
