"""The report shows what was measured, and model output stays inert text in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from migrl.answers import READABLE, STATUSES
from migrl.errors import UserError
from migrl.report.build import BADGES, ReportLogs, write_report
from migrl.report.gallery import build_gallery, split_completion

ARMS = ("base", "sft", "rl")
NO_LOGS = ReportLogs(grpo=[], sft=[], pass_rates=None, filters=None)
LOGS = ReportLogs(
    grpo=[{"step": k, "reward": 1 + k / 50, "hit_reward": 0.5, "kl": None, "zero_variance": 0.2} for k in range(1, 50)],
    sft=[{"step": k, "loss": 2 / k} for k in range(1, 9)],
    pass_rates={"k": 4, "counts": {"0": 12, "2": 8, "4": 6}, "kept": 8, "tasks": {"region": {"0": 3}}},
    filters={"candidates": 90, "kept": 40, "rejected": {"parse": 30, "leak": 20}, "planted": {"leak": 20}},
)


def make_row(uid: str, arm: str, *, hit: bool, status: str = "ok", **changes: Any) -> dict[str, Any]:
    box_px = [4.0, 4.0, 12.0, 12.0] if hit else [20.0, 2.0, 30.0, 9.0]
    read = status in ("ok", "repaired", "several")
    row = {
        "uid": uid,
        "arm": arm,
        "benchmark": uid.split(":")[0],
        "task": uid.split(":")[1],
        "images": ["eval/shared_1.png", f"eval/{uid.replace(':', '_')}_2.png"],
        "sizes": [[40, 30], [32, 32]],
        "question": "Locate the difference of these two images in image 2.",
        "target": {"image": 2, "box_unit": [0.125, 0.125, 0.375, 0.375]},
        "completion": "<think>Image 2 is new.</think><answer>…</answer>",
        "tokens": 61,
        "truncated": status == "truncated",
        "status": status,
        "image": 2 if read else None,
        "boxes": {"original_px": box_px} if read else None,
        "letter": None,
        "iou": float(hit),
        "hit": hit and read,
    }
    return row | changes


def make_rows(images_root: Path) -> list[dict[str, Any]]:
    """One grounding task whose samples were fixed, broken, kept and failed in every way, and one of choices."""
    rows = []
    hits = {"mini:region:0": (0, 0, 1), "mini:region:1": (0, 1, 0), "mini:region:2": (1, 1, 1)}
    for uid, per_arm in hits.items():
        rows += [make_row(uid, arm, hit=bool(hit)) for arm, hit in zip(ARMS, per_arm, strict=True)]
    for k, status in enumerate(STATUSES):
        rows += [make_row(f"mini:region:f{k}", arm, hit=False, status=status) for arm in ARMS]
    choice: dict[str, Any] = {
        "target": {"letter": "B", "options": 3},
        "image": None,
        "boxes": None,
        "letter": "C",
        "iou": None,
    }
    rows += [make_row("quiz:counting:0", arm, hit=False, **choice) for arm in ARMS]
    for row in rows:
        for path, size in zip(row["images"], row["sizes"], strict=True):
            (images_root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", tuple(size), (30, len(path), 90)).save(images_root / path)
    return rows


def make_scores() -> dict[str, Any]:
    score = {
        "macro": 61.5,
        "micro": 60.0,
        "low": 55.0,
        "high": 68.0,
        "tasks": {"region": {"accuracy": 61.5, "n": 10, "low": 55.0, "high": 68.0}},
        "ledger": {status: 3 + k for k, status in enumerate(STATUSES)},
        "truncation_rate": 0.1,
    }
    return {arm: {"mini": score} for arm in ARMS}


def make_claims() -> list[dict[str, Any]]:
    claims: list[dict[str, Any]] = [
        {
            "id": f"claim_{k}",
            "statement": f"Claim {k}",
            "delta": 9.0,
            "low": 4.0,
            "high": 14.0,
            "n": 100,
            "verdict": name,
        }
        for k, name in enumerate(BADGES)
    ]
    claims[0]["expected"] = 9.04
    claims[-1] |= {"delta": None, "low": None, "high": None}
    return claims


def write(tmp_path: Path, rows: list[dict[str, Any]], out: str = "out", logs: ReportLogs = NO_LOGS) -> str:
    write_report(
        rows=rows,
        scores=make_scores(),
        claims=make_claims(),
        logs=logs,
        images_root=tmp_path / "images",
        facts={"recipe": "tiny", "git_revision": "abc123", "dirty": False, "versions": {"torch": "2.13.0"}},
        out=tmp_path / out,
    )
    return (tmp_path / out / "report.html").read_text(encoding="utf-8")


def test_the_report_shows_every_verdict_status_and_outcome_and_needs_nothing_outside_itself(tmp_path: Path) -> None:
    html = write(tmp_path, make_rows(tmp_path / "images"), logs=LOGS)
    markdown = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    for verdict in BADGES:
        assert verdict in html and verdict in markdown
    for k, status in enumerate(STATUSES):
        assert f">{status.replace('_', ' ')}</th>" in html
        assert re.search(rf'<td class="num (fail)?">{3 + k}</td>', html)
        assert status in READABLE or f'<dd class="wrong">{status.replace("_", " ")}</dd>' in html
    for words in ("fixed by RL", "broken by RL", "[+4.0, +14.0]", "61.5", "versions.torch", "(C), right is (B)"):
        assert words in html
    assert html.count('class="truth"') > 3 and html.count('class="guess"') > 3
    assert not re.search(r"https?://|<link|@import|src=\"(?!data:)|href=\"(?!#|data:)", html)
    names = {path.name for path in (tmp_path / "out/figures").iterdir()}
    assert names == {
        *("forest.png", "tasks_mini.png", "pass_rates.png", "sft_loss.png"),
        *("grpo_reward.png", "grpo_hit_reward.png", "grpo_zero_variance.png"),
    }


def test_hostile_completions_stay_inert_text(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    rows[0]["completion"] = "<script>alert(1)</script>\u202egnp.exe\u2066\ud800" + "x" * 1_000_000
    rows[1]["completion"] = '"><img src=x onerror=alert(2)>{{ 7 * 7 }}</span></div></article>'
    rows[2]["question"] = rows[0]["question"] = "</style><script>alert(3)</script>"
    html = write(tmp_path, rows)
    assert "&lt;script&gt;alert(1)" in html and "&lt;img src=x" in html and "{{ 7 * 7 }}" in html
    assert len(re.findall(r"<script", html)) == 1 and html.count("</style>") == 1
    assert "\\u{202e}gnp.exe\\u{2066}\\u{d800}" in html and "\u202e" not in html and "\u2066" not in html
    assert re.search(r"\[… 998,8\d\d of 1,000,0\d\d characters not shown …\]", html)
    assert len(html) < 1_000_000


def test_a_missing_image_stops_the_report_and_is_named(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    (tmp_path / "images" / rows[0]["images"][1]).unlink()
    with pytest.raises(UserError, match=re.escape(rows[0]["images"][1])):
        write(tmp_path, rows)


def test_an_image_outside_the_folder_is_refused(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    with pytest.raises(UserError, match="leaves the folder"):
        build_gallery([rows[0] | {"images": ["../secret.png", rows[0]["images"][1]]}], ["base"], tmp_path / "images")


def test_two_builds_are_byte_identical_and_the_order_of_arms_in_the_rows_is_irrelevant(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    first = write(tmp_path, rows, "first", LOGS)
    assert first == write(tmp_path, json.loads(json.dumps(rows)), "second", LOGS)
    for path in sorted((tmp_path / "first").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()
    by_arm = sorted(rows, key=lambda row: (row["benchmark"], row["arm"]))
    galleries = [build_gallery(order, ARMS, tmp_path / "images") for order in (rows, by_arm)]
    shown = [[(entry.row["uid"], entry.replies) for entry in gallery.entries] for gallery in galleries]
    assert shown[0] == shown[1]


def test_an_image_shared_by_samples_is_embedded_once(tmp_path: Path) -> None:
    gallery = build_gallery(make_rows(tmp_path / "images"), ARMS, tmp_path / "images")
    keys = [picture.key for picture in gallery.pictures]
    assert len(set(keys)) == len(keys) == len({path for entry in gallery.entries for path in entry.row["images"]})
    assert len({entry.shots[0].picture.key for entry in gallery.entries}) == 1
    assert gallery.entries[0].shots[1].true_box_px == (4.0, 4.0, 12.0, 12.0)


def test_stages_that_were_not_run_are_said_to_be_not_run(tmp_path: Path) -> None:
    write_report(
        rows=[], scores={}, claims=[], logs=NO_LOGS, images_root=tmp_path, facts={"recipe": "paper"}, out=tmp_path
    )
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count('class="notrun"') == 8


def test_one_arm_alone_has_hits_and_misses_but_no_comparison(tmp_path: Path) -> None:
    rows = [row for row in make_rows(tmp_path / "images") if row["arm"] == "rl"]
    write_report(
        rows=rows, scores={}, claims=[], logs=NO_LOGS, images_root=tmp_path / "images", facts={}, out=tmp_path / "out"
    )
    html = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "fixed by" not in html and ">miss</span>" in html


def test_a_short_completion_is_shown_whole_and_a_long_one_says_how_much_is_missing() -> None:
    text = "<think>a</think><answer>(B)</answer>"
    assert "".join(part.text for part in split_completion(text)) == text
    parts = split_completion("y" * 5000 + "<answer>(B)</answer>")
    assert [part.kind for part in parts] == ["thought", "omitted", "thought", "answer"]
    assert parts[1].text == "3,800 of 5,000 characters not shown"
