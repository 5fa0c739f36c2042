"""The report shows what was measured, and model output stays inert text in it."""

import base64
import re
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from report_rows import (
    ARMS,
    FACTS,
    LOGS,
    make_claims,
    make_rollouts,
    make_row,
    make_rows,
    make_scores,
    write,
    write_images,
)

from migrl.errors import UserError
from migrl.grounding.answers import READABLE, STATUSES
from migrl.report import explorer as explorer_module
from migrl.report.answers_picture import choose_shown, draw_answers
from migrl.report.embed import embed_picture
from migrl.report.explorer import build_explorer, choose_samples, link_samples
from migrl.report.forest import lay_out_forest
from migrl.report.heat import build_heat, measure_task
from migrl.report.machine import list_code_facts
from migrl.report.outcomes import group_rows
from migrl.report.plots import draw_curves
from migrl.report.rollouts import build_rollouts
from migrl.report.shots import split_completion
from migrl.report.text import BADGES, escape_cell, show_claimed, show_p, show_points
from migrl.statistics.intervals import bootstrap_macro_delta


def test_the_report_shows_every_verdict_status_and_outcome_and_needs_nothing_outside_itself(tmp_path: Path) -> None:
    html = write(tmp_path, make_rows(tmp_path / "images"), logs=LOGS)
    markdown = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    for verdict in BADGES:
        assert verdict in html and verdict in markdown
    for k, status in enumerate(STATUSES):
        assert f">{status.replace('_', ' ')}</th>" in html
        assert re.search(rf'<td class="num (fail)?">{3 + k}</td>', html)
        assert status in READABLE or f'<dd class="wrong">{status.replace("_", " ")}</dd>' in html
    for words in (
        "fixed by RL",
        "broken by RL",
        "[+4.0, +14.0]",
        "61.5",
        "versions.torch",
        "(C), right is (B)",
        "the whole pool, 26 samples",
    ):
        assert words in html
    assert html.count('class="truth"') > 3 and html.count('class="guess"') > 3
    assert not re.search(r"https?://|@import|src=\"(?!data:)|href=\"(?!#|data:)", html)
    names = {path.name for path in (tmp_path / "out/figures").glob("*.svg")}
    assert names == {
        *("pass_rates.svg", "pass_rates_after.svg", "sft_loss.svg"),
        *("grpo_reward.svg", "grpo_hit_reward.svg", "grpo_zero_variance.svg"),
    }


def test_a_plot_is_the_same_in_the_page_and_as_a_file_that_stands_alone(tmp_path: Path) -> None:
    html = write(tmp_path, make_rows(tmp_path / "images"), logs=LOGS)
    for path in (tmp_path / "out/figures").glob("*.svg"):
        drawing = ElementTree.parse(path).getroot()
        style, *marks = [ElementTree.tostring(part, encoding="unicode") for part in drawing]
        assert "#0b5cad" in style and drawing.get("aria-label") in html
        lines = re.findall(r'points="[^"]+"', "".join(marks))
        assert all(line in html for line in lines) and ("grpo" in path.name) <= (len(lines) == 2)
    counts = re.findall(r">(\d+)</text>", (tmp_path / "out/figures/pass_rates_after.svg").read_text("utf-8"))
    assert counts[-10:] == ["12", "0", "8", "0", "0", "3", "0", "0", "0", "17"]


def test_a_curve_leaves_out_what_is_no_number_and_draws_a_single_step_and_a_constant() -> None:
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}, {"step": 3, "loss": float("nan")}]
    (dot,) = draw_curves({"sft": log})
    assert dot.alt.endswith("from 2 at step 1 to 2 at step 1.")
    assert dot.lines == (("mean", "215.0,126.0 215.0,126.0"),) and dot.y_ticks[0] == (193.2, "1.6")
    (flat,) = draw_curves({"grpo": [{"step": step, "kl": 0} for step in range(1, 9)]})
    assert [text for _, text in flat.x_ticks] == ["2", "4", "6", "8"] and (126.0, "0") in flat.y_ticks


def test_the_curve_of_another_arm_lies_before_that_of_the_main_one_on_one_scale() -> None:
    main = [{"step": step, "reward": step / 10} for step in range(1, 9)]
    alone, other = draw_curves({"grpo": main, "grpo_rl_kl0": [{"step": step, "reward": 2.0} for step in (1, 2)]})
    assert (other.name, other.title) == ("grpo_rl_kl0_reward", "grpo_rl_kl0 (grey: grpo): mean reward")
    assert [kind for kind, _ in other.lines] == ["raw", "mean"] and [kind for kind, _ in alone.lines] == ["mean"]
    assert [text for _, text in other.y_ticks] == ["0.5", "1", "1.5", "2"]


def test_an_arm_of_a_recipes_own_is_called_as_the_recipe_calls_it_and_told_what_it_is(tmp_path: Path) -> None:
    arms = {"rl_kl0": {"grpo.beta": 0}, "sft_r8": {"like": "sft", "sft.lora.rank": 8}}
    rows = [*make_rows(tmp_path / "images")]
    rows += [replace(row, arm="rl_kl0") for row in rows if row.arm == "rl"]
    scores = {**make_scores(), "rl_kl0": make_scores()["rl"]}
    html = write(tmp_path, rows, scores=scores, facts=FACTS | {"settings": {"arms": arms}})
    for page in (html, (tmp_path / "out/report.md").read_text(encoding="utf-8")):
        assert "Arms of this recipe&#39;s own: rl_kl0: like rl, grpo.beta=0." in page.replace("'", "&#39;")
        assert "sft_r8: like" not in page, "it was not evaluated"
    assert '<th scope="col" class="num">rl_kl0</th>' in html


def test_a_claim_opens_to_all_that_stands_behind_its_verdict(tmp_path: Path) -> None:
    html = write(tmp_path, make_rows(tmp_path / "images"))
    markdown = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    claim = re.search(r'<details class="claim" id="claim-claim_0">.*?</details>', html, re.DOTALL)
    assert claim is not None
    for words in (
        *("v1 abstract", "would show +9.04 in 99 % of runs", "reason 0", "equal to it within ±4.2 points"),
        *("0.002, 0.008 after Holm", "scored by the official rule", "[−1.0, +5.0]", "too small"),
        *(
            "1 of 1 other readings: inconclusive",
            "deltas +8.0, +10.0",
            "[+1.0, +17.0], this run lies inside it",
            "the number of steps",
            'href="#tasks-mini"',
            'href="#samples?benchmark=mini&amp;outcome=fixed">1 fixed',
            'href="#samples?benchmark=mini&amp;outcome=broken">1 broken',
        ),
    ):
        assert words in claim.group(), words
    for words in ("4 were judged together", "not of the training seed", "1 of 1 other readings: inconclusive"):
        assert words in html and words in markdown, words
    for words in (
        "would show +9.04 in 99 % of runs",
        "scored by the official rule",
        "too small",
        "59.44",
        "can show ≥ 9.0",
    ):
        assert words in markdown
    assert "git_revision: abc123" in markdown and f"weights {'2fade' * 12}" in markdown


def test_hostile_completions_stay_inert_text(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    asked = replace(rows[0].sample, question="</style><script>alert(3)</script>")
    text = "<script>alert(1)</script>\u202egnp.exe\u2066\ud800" + "x" * 1_000_000
    rows[0] = replace(rows[0], sample=asked, completion=text)
    rows[1] = replace(rows[1], completion='"><img src=x onerror=alert(2)>{{ 7 * 7 }}</span></div></article>')
    rows[2] = replace(rows[2], sample=asked)
    html = write(tmp_path, rows)
    assert "&lt;script&gt;alert(1)" in html and "&lt;img src=x" in html and "{{ 7 * 7 }}" in html
    assert len(re.findall(r"<script", html)) == 1 and html.count("</style>") == 1
    assert "\\u{202e}gnp.exe\\u{2066}\\u{d800}" in html and "\u202e" not in html and "\u2066" not in html
    assert re.search(r"\[… 998,8\d\d of 1,000,0\d\d characters not shown …\]", html)
    assert len(html) < 1_000_000
    assert escape_cell("![x](http://e.vil)|<b>\u202e") == "![x]\\(http://e.vil)\\|&lt;b&gt;\\u{202e}"


def test_a_missing_image_stops_the_report_and_is_named(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    picture = rows[0].sample.images[1]
    (tmp_path / "images" / picture).unlink()
    with pytest.raises(UserError, match=re.escape(picture)):
        write(tmp_path, rows)


def test_an_image_outside_the_folder_is_refused(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    astray = replace(rows[0].sample, images=("../secret.png", rows[0].sample.images[1]))
    with pytest.raises(UserError, match="leaves the folder"):
        build_explorer([replace(rows[0], sample=astray)], ["base"], tmp_path / "images")


def test_two_builds_are_byte_identical_and_the_order_of_arms_in_the_rows_is_irrelevant(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images")
    logs = replace(LOGS, training={"sft": LOGS.training["sft"]})
    first = write(tmp_path, rows, "first", logs=logs)
    assert first == write(tmp_path, list(rows), "second", logs=logs)
    for path in sorted((tmp_path / "first").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "second" / path.relative_to(tmp_path / "first")).read_bytes()
    by_arm = sorted(rows, key=lambda row: (row.sample.benchmark, row.arm))
    shown = [build_explorer(order, ARMS, tmp_path / "images").entries for order in (rows, by_arm)]
    assert [(entry.sample.uid, entry.replies) for entry in shown[0]] == [
        (entry.sample.uid, entry.replies) for entry in shown[1]
    ]


def test_a_large_picture_is_scaled_down_and_a_small_one_stays_exact(tmp_path: Path) -> None:
    for name, size in (("large", (600, 400)), ("small", (120, 90))):
        Image.effect_noise(size, 80).save(tmp_path / f"{name}.png")
        picture = embed_picture(tmp_path, f"{name}.png", size, "p0")
        kind, _, data = picture.data_uri.partition(";base64,")
        with Image.open(BytesIO(base64.b64decode(data))) as shown, Image.open(tmp_path / f"{name}.png") as stored:
            same = shown.size == stored.size and shown.tobytes() == stored.convert("RGB").tobytes()
            assert (kind, shown.size, same) == {
                "large": ("data:image/jpeg", (384, 256), False),
                "small": ("data:image/png", (120, 90), True),
            }[name]
        assert (picture.width, picture.height, picture.pixelated) == (*size, name == "small")


def test_an_image_shared_by_samples_is_embedded_once(tmp_path: Path) -> None:
    explorer = build_explorer(make_rows(tmp_path / "images"), ARMS, tmp_path / "images")
    keys = [picture.key for picture in explorer.pictures]
    assert len(set(keys)) == len(keys) == len({path for entry in explorer.entries for path in entry.sample.images})
    assert len({entry.shots[0].picture.key for entry in explorer.entries}) == 1
    fixed = next(entry for entry in explorer.entries if entry.sample.uid == "mini:region:0")
    assert fixed.shots[1].true_boxes_px == ((4.0, 4.0, 12.0, 12.0),)


def test_cells_take_turns_until_the_page_is_full_and_what_is_left_out_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make_rows(tmp_path / "images", more=30)
    order = [answers.sample.uid for answers in choose_samples(group_rows(rows, ARMS))]
    assert len(order) == len(set(order)) == 42
    # One of each cell first, then each kind of unreadable answer, then the second of each cell.
    assert order[:4] == ["mini:region:0", "mini:more:000", "mini:region:1", "quiz:counting:0"]
    assert order[4:6] == ["mini:region:f0", "mini:region:2"]
    assert order[6:10] == [f"mini:region:f{k}" for k in range(3, 7)]
    monkeypatch.setattr(explorer_module, "EXACT_BUDGET", 60_000)
    explorer = build_explorer(rows, ARMS, tmp_path / "images")
    assert {entry.sample.uid for entry in explorer.entries} == set(order[: len(explorer.entries)])
    assert 6 < len(explorer.entries) < explorer.total == 42
    assert explorer.counts["mini", "more"] == Counter(both_miss=30) and explorer.counts["mini", "region"]["fixed"] == 1
    html = write(tmp_path, rows)
    assert f"{len(explorer.entries)} of 42 samples, chosen by rule" in html
    assert f">{explorer.shown['mini', 'more']['both_miss']} of 30</td>" in html


def test_the_picture_shows_a_fixed_a_kept_and_a_broken_answer_each_of_another_task(tmp_path: Path) -> None:
    rows = make_rows(tmp_path / "images", more=3)
    samples = group_rows(rows, ARMS)
    chosen = choose_shown(samples)
    assert [one.outcome for one in chosen] == ["fixed"]  # the others are of the same task
    assert draw_answers(samples, ("sft", "rl"), tmp_path / "images", tmp_path / "answers.png")
    with Image.open(tmp_path / "answers.png") as picture:
        assert picture.width == 1200 and len(picture.convert("RGB").getcolors(100_000) or ()) > 5
    assert not draw_answers([], ("sft", "rl"), tmp_path, tmp_path / "none.png") and not (tmp_path / "none.png").exists()


def test_rollouts_stand_inert_and_of_too_many_steps_every_second_is_left_out(tmp_path: Path) -> None:
    made = make_rollouts(tmp_path, steps=40, text="<script>alert(1)</script>" + "x" * 20_000)
    html = write(tmp_path, make_rows(tmp_path / "images"), rollouts=made)
    assert made.kept == 40 and list(made.steps) == list(range(1, 41, 40 // len(made.steps))) and len(made.steps) < 40
    assert f"of {len(made.steps)} steps (of 40 that were kept)" in html and "Step 1: 1 of 2 hit" in html
    assert len(re.findall(r"<script", html)) == 1 and "&lt;script&gt;alert(1)" in html and len(html) < 1_500_000
    assert "Rollouts of reinforcement learning: not run." in write(tmp_path, make_rows(tmp_path / "images"))
    with pytest.raises(UserError, match="is not in the pool"):
        build_rollouts([{"step": 1, "sample": "gone", "completions": []}], [], tmp_path)


def test_every_link_of_the_heat_map_leads_to_a_sample_without_the_script(tmp_path: Path) -> None:
    html = write(tmp_path, make_rows(tmp_path / "images"))
    links = set(re.findall(r'href="#(samples\?[^"]*)"', html))
    assert f"{link_samples(benchmark='mini', task='region', outcome='fixed')[1:]}".replace("&", "&amp;") in links
    assert len(links) == 9 and links <= set(re.findall(r'id="(samples\?[^"]*)"', html))


def test_a_cell_of_the_heat_map_is_the_paired_delta_of_its_task() -> None:
    hits = {"sft": (0, 1, 1, 0, 0, 1), "rl": (1, 1, 0, 1, 1, 1)}
    rows = [
        make_row(f"mini:region:{k}", arm, hit=bool(flag)) for arm, flags in hits.items() for k, flag in enumerate(flags)
    ]
    samples = group_rows(rows, ("sft", "rl"))
    (line,) = build_heat(samples, {}, ("sft", "rl"), [("rl", "sft")])
    delta = line.deltas["rl", "sft"]
    expected = bootstrap_macro_delta(hits["rl"], hits["sft"], ["x"] * 6, [str(k) for k in range(6)], resamples=4000)
    assert delta is not None and line.n == 6
    assert (delta.delta, delta.low, delta.high) == (expected.delta, expected.low, expected.high)
    assert line.outcomes == {"fixed": 3, "broken": 1, "both_hit": 2}
    assert measure_task(samples[:1], "sft", "rl") is not None
    assert measure_task(samples[:1], "sft", "rl").low is None  # type: ignore[union-attr]


def test_claims_decide_the_order_of_benchmarks_and_which_arms_the_heat_map_compares(tmp_path: Path) -> None:
    claims = make_claims()
    claims[0] |= {"benchmarks": ["quiz"], "subtrahend": "base"}
    html = write(tmp_path, make_rows(tmp_path / "images"), claims=claims)
    assert html.index('id="tasks-quiz"') < html.index('id="tasks-mini"')
    assert re.findall(r'<optgroup label="(\w+)">', html) == ["quiz", "mini"]
    # No arm of `region` hits more than another, but each hits other samples; base hits one fewer.
    assert "region, gain of RL over SFT: 0.0 points" in html and "region, gain of RL over base: +9.1 points" in html
    assert re.search(r"claim_0</a>: RL − base \+9\.0 \[\+4\.0, \+14\.0\]", html)


def test_what_a_run_cannot_show_is_said_before_its_numbers(tmp_path: Path) -> None:
    scores = make_scores()
    scores["base"]["mini"] = scores["base"]["mini"] | {"macro": 0.0, "low": 0.0, "high": 0.0}
    facts = FACTS | {"settings": {"source": {"kind": "world"}}}
    rows = make_rows(tmp_path / "images")
    for page in (write(tmp_path, rows, facts=facts, scores=scores), (tmp_path / "out/report.md").read_text("utf-8")):
        assert 0 < page.index("this shows the direction only") < page.index("1 reproduced") < page.index("abstract")
        assert "An interval without width" in page
    several = [claim | {"seeds": 3} for claim in make_claims()]
    for page in (write(tmp_path, rows, claims=several), (tmp_path / "out/report.md").read_text("utf-8")):
        assert not any(words in page for words in ("direction only;", "without width", "One training run"))


def test_the_revision_leads_to_the_code_and_machine_that_are_recorded() -> None:
    gpus = {"names": ["H100", "H100"], "count": 2, "visible": 2, "driver": "550", "cuda": "12.8"}
    seeds = {"sft": 0, "grpo": 0, "select": 4, "further": [1, 2]}
    table = dict(list_code_facts(FACTS | {"machine": {"gpus": gpus}, "seeds": seeds, "seconds": 5400, "image": None}))
    assert (table["git revision"], table["uncommitted changes"], table["container image"]) == ("abc123", "no", "none")
    assert table["GPUs"] == "2 x H100, driver 550, cuda 12.8"
    assert table["seeds"] == "0 (sft, grpo); 4 (select); further training seeds 1, 2"
    assert (table["wall time of all stages"], table["Python"]) == ("5,400 s (1.50 h)", "not recorded")


def test_training_seeds_stand_side_by_side_and_the_delta_is_over_all_of_them(tmp_path: Path) -> None:
    rows = [make_row(f"mini:region:{k}", "base", hit=False) for k in range(4)]
    for seed in (0, 1):
        rows += [make_row(f"mini:region:{k}", "sft", hit=False, seed=seed) for k in range(4)]
        rows += [make_row(f"mini:region:{k}", "rl", hit=k < 2 + seed, seed=seed) for k in range(4)]
    write_images(rows, tmp_path / "images")
    samples = group_rows(rows, ARMS)
    delta = measure_task(samples, "sft", "rl")
    assert delta is not None and delta.delta == pytest.approx(62.5)
    assert [sample.outcome for sample in samples] == ["fixed", "fixed", "fixed", "both_miss"]
    html = write(tmp_path, rows)
    assert html.count("<h4>RL, seed 1</h4>") == html.count("<h4>RL, seed 0</h4>") == html.count("<h4>base</h4>") == 4


def test_stages_that_were_not_run_are_said_to_be_not_run(tmp_path: Path) -> None:
    nothing = {"scores": {}, "claims": [], "levels": [], "evaluations": [], "facts": {"recipe": "paper"}}
    assert write(tmp_path, [], **nothing).count('class="notrun"') == 10  # type: ignore[arg-type]


def test_one_arm_alone_has_hits_and_misses_but_no_comparison(tmp_path: Path) -> None:
    rows = [row for row in make_rows(tmp_path / "images") if row.arm == "rl"]
    html = write(tmp_path, rows, scores={}, claims=[], facts={})
    assert "fixed by" not in html and ">miss</span>" in html


def test_a_short_completion_is_shown_whole_and_a_long_one_says_how_much_is_missing() -> None:
    text = "<think>a</think><answer>(B)</answer>"
    assert "".join(part.text for part in split_completion(text)) == text
    parts = split_completion("y" * 5000 + "<answer>(B)</answer>")
    assert [part.kind for part in parts] == ["thought", "omitted", "thought", "answer"]
    assert parts[1].text == "3,800 of 5,000 characters not shown"


def test_the_forest_places_every_mark_on_one_scale() -> None:
    forest = lay_out_forest(make_claims())
    assert forest is not None and len(forest.rows) == 4
    first = forest.rows[0].mark
    assert 0 < forest.zero < first.low < first.at < first.expected < first.high < 100  # type: ignore[operator]
    assert forest.rows[0].readings[0].low < forest.zero and not forest.rows[0].readings[0].decided
    assert [value for value, _ in forest.ticks] == [0, 5, 10]
    assert lay_out_forest(make_claims()[-1:]) is None


def test_numbers_read_as_they_were_printed() -> None:
    assert [show_points(value) for value in (1.26, -0.04, 0.0, -3.0, None)] == ["+1.3", "0.0", "0.0", "−3.0", "–"]
    assert [show_claimed(value) for value in (9.04, 3.1, 2.0)] == ["+9.04", "+3.1", "+2.0"]
    assert [show_p(value) for value in (0.00099, 0.001, 0.0312, None)] == ["< 0.001", "0.001", "0.031", "–"]
