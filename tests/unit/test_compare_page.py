"""The page of `migrl compare`: both answers with their boxes, chosen by rule, and hostile text inert everywhere."""

import re
from pathlib import Path

import pytest
from benchmark_files import write_pictures
from compare_runs import Reader, refuse, show, write_run
from hypothesis import given
from hypothesis import strategies as st
from rows import Line

from migrl.compare.flips import write_flips
from migrl.compare.pairs import compare_sides
from migrl.compare.show import escape_markdown
from migrl.compare.sides import pick_arm, read_run

HOSTILE = (
    "</style><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202egnp.exe\u0007\ud800"
    "![x](http://example.invalid/p.png)<answer>" + "y" * 1_000_000
)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Task 0: A hits 1, 1, 0, 0 and B 1, 0, 1, 1; task 1: both hit 0, 0, 1, 1."""
    return write_run(tmp_path / "a", "10100101"), write_run(tmp_path / "b", "10001111")


def test_what_models_and_peers_wrote_is_inert_text_in_the_page_the_table_and_the_markdown(tmp_path: Path) -> None:
    def poison(row: Line) -> None:
        named = HOSTILE[:150].replace("\ud800", "")  # half of a pair is refused in a sample's own texts
        row.update(uid=f"{row['uid']} {named}", task=named, question=named)
        row["completion"] = HOSTILE if row["arm"] == "sft" else HOSTILE[:150] + row["completion"]

    first = write_run(tmp_path / "a", "0" * 8, arm="sft", edit=poison)
    other = write_run(tmp_path / "b", "1" * 8, edit=poison)
    page = tmp_path / "page.html"
    arms = ("--arm", "sft", "--arm-b", "rl")
    text = show(first, other, *arms, "--html", page)
    assert "\x07" not in text and "\u202e" not in text
    markdown = show(first, other, *arms, "--markdown")
    assert "<script>" not in markdown and "![" not in markdown and "](" not in markdown
    found = Reader(page)
    assert len(found.find("article")) == 8 and page.stat().st_size < 300_000
    assert not {"script", "iframe", "object", "img", "base"} & {tag for tag, _ in found.tags}
    assert {(attrs.get("href") or "#")[:5] for _, attrs in found.tags} <= {"data:", "#numb", "#flip", "#"}
    assert not any(key.startswith("on") for _, attrs in found.tags for key in attrs)
    (policy,) = found.find("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:;")
    assert "script-src 'none'" in (policy["content"] or "")
    assert "{{ 7 * 7 }}" in found.text and "\u202e" not in found.text and "\\u{202e}" in found.text
    assert "characters not shown" in found.text


def point_into_image_1(row: Line) -> str:
    return str(row["completion"]).replace('"image": 2', '"image": 1')


def test_both_answers_stand_side_by_side_with_their_boxes_on_the_pictures(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    write_pictures(tmp_path, ["a.png"], (56, 56))
    write_pictures(tmp_path, ["b.png"], (60, 60))
    page = tmp_path / "page.html"
    show(*runs, "--html", page, "--images", tmp_path)
    found = Reader(page)
    assert len(found.find("article")) == 3 and len(found.find("image")) == 2  # embedded once each
    # Three samples: the true box over the target and over each answer's picture; one predicted box an answer.
    assert len(found.find("rect", **{"class": "truth"})) == 9 and len(found.find("rect", **{"class": "guess"})) == 6
    assert all(words in found.text for words in ("A, RL", "B, RL", "won by B", "lost by B"))
    before = page.read_bytes()
    show(*runs, "--html", page, "--images", tmp_path)
    assert page.read_bytes() == before and "not the target" not in found.text
    stray = write_run(tmp_path / "c", "10100101", edit=lambda row: row.update(completion=point_into_image_1(row)))
    show(runs[0], stray, "--html", page, "--images", tmp_path)
    assert Reader(page).text.count("points into image 1, not the target") == 4
    (tmp_path / "b.png").unlink()
    assert "b.png: no such image" in refuse(*runs, "--html", page, "--images", tmp_path)


def test_a_page_takes_the_first_flips_of_each_task_and_states_how_many_it_leaves_out(tmp_path: Path) -> None:
    first, other = write_run(tmp_path / "a", "01" + "0" * 18), write_run(tmp_path / "b", "1011" + "1" * 16)
    page = tmp_path / "page.html"
    comparison = compare_sides(pick_arm("A", read_run(first), "rl"), pick_arm("B", read_run(other), "rl"))
    write_flips(comparison, page, None, limit=4)
    # Task 0 was won ten times; task 1 lost once (sample 1) and won nine times: two rounds of each task's next.
    assert "19 won (B hits, A misses) and 1 lost; 4 are shown, 16 are left out" in Reader(page).text
    uids = re.findall(r'<code class="uid">(.*?)</code>', page.read_text())
    assert uids == ["mini:0", "mini:10", "mini:1", "mini:11"]


@given(st.text())
def test_any_text_in_markdown_is_one_line_without_links_pictures_or_cells(text: str) -> None:
    escaped = escape_markdown(text)
    assert "\n" not in escaped and "<" not in escaped
    for mark in "*_`[]|!~":
        assert escaped.replace("\\" + "\\", "").replace("\\" + mark, "").count(mark) == 0
