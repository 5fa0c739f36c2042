"""The report in a real browser: its explorer works by mouse, link and keys, and nothing in it gets out or runs."""

from pathlib import Path
from urllib.parse import unquote

import pytest
from playwright.sync_api import expect
from report_rows import make_rollouts, make_rows, make_scores, write
from watched import HOSTILE, Opener

from migrl.report import explorer as explorer_module

COMMITTED = Path(__file__).parents[2] / "results/tiny/report.html"
CONTRAST = Path(__file__).with_name("contrast.js").read_text(encoding="utf-8")


def test_each_filter_and_their_combinations_show_the_samples_that_match(report: Path, open_page: Opener) -> None:
    seen = open_page(report)
    page = seen.page
    expect(page.locator("#shown")).to_have_text("48 shown of 48, here 1 to 20")
    page.locator("[data-turn='1']").first.click()
    page.locator("[data-turn='1']").last.click()
    expect(page.locator("#shown")).to_have_text("48 shown of 48, here 41 to 48")
    assert len(seen.shown()) == 8 and page.locator("[data-turn='1']").first.is_disabled()
    seen.set(benchmark="quiz")
    assert seen.shown() == ["quiz:counting:0"]
    seen.set(benchmark="mini", task="region")
    assert len(seen.shown()) == 11
    seen.set(outcome="fixed")
    assert seen.shown() == ["mini:region:0"]
    seen.set(outcome="both_miss", status="malformed")
    assert seen.shown() == ["mini:region:f4"]
    seen.set(outcome="", status="", arm="sft", result="hit")
    assert seen.shown() == ["mini:region:1", "mini:region:2"]
    page.fill("#filters [name=q]", "REGION:2")
    assert seen.shown() == ["mini:region:2"]
    assert page.url.endswith("#samples?benchmark=mini&task=region&arm=sft&result=hit&q=REGION%3A2")
    seen.set(result="miss")
    assert seen.shown() == []
    expect(page.locator("#no-match")).to_be_visible()
    page.click("button[type=reset]")
    expect(page.locator("#shown")).to_have_text("48 shown of 48, here 1 to 20")
    assert page.url.endswith("#samples") and page.locator("#no-match").is_hidden()
    seen.set(task="counting")  # a task brings its benchmark along, and another benchmark lets it go
    assert page.input_value("[name=benchmark]") == "quiz" and seen.shown() == ["quiz:counting:0"]
    seen.set(benchmark="mini")
    assert page.input_value("[name=task]") == ""


def test_a_link_opens_the_view_it_was_copied_from(report: Path, open_page: Opener) -> None:
    seen = open_page(report, "#samples?benchmark=mini&task=more&arm=rl&result=miss&page=2")
    values = {name: seen.page.input_value(f"[name={name}]") for name in ("benchmark", "task", "arm", "result")}
    assert values == {"benchmark": "mini", "task": "more", "arm": "rl", "result": "miss"}
    assert len(seen.shown()) == 10
    expect(seen.page.locator("#shown")).to_have_text("30 of the 48 samples in this file, here 21 to 30")
    expect(seen.page.locator("#samples-title")).to_be_in_viewport()
    seen.page.evaluate("location.hash = '#samples?benchmark=nowhere&status=ok&outcome=broken'")
    expect(seen.page.locator("#shown")).to_have_text("1 of the 48 samples in this file")
    anchor = seen.page.locator(".uid", has_text="quiz:counting:0").get_attribute("href")
    seen.page.evaluate(f"location.hash = '{anchor}'")  # filtered away: the link clears the filters
    expect(seen.page.locator(f"{anchor} .question")).to_be_in_viewport()
    assert open_page(report, anchor).page.evaluate("document.activeElement.id") == anchor[1:]


def test_a_claim_leads_to_its_cells_and_a_cell_to_its_samples_and_their_images(report: Path, open_page: Opener) -> None:
    seen = open_page(report)
    page = seen.page
    page.locator("#claim-claim_0 > summary").click()
    expect(page.locator("#claim-claim_0 .behind tbody th")).to_be_visible()
    page.locator("#claim-claim_0 a", has_text="mini").click()
    expect(page.locator("#tasks-mini")).to_be_in_viewport()
    page.get_by_label("region: 1 broken, to its samples").click()
    assert seen.shown() == ["mini:region:1"]
    sample = page.locator(".sample:not([hidden])")
    expect(sample).to_be_in_viewport()
    assert sample.locator(".shot .truth").count() == 4 and sample.locator(".reply .guess").count() == 3
    size = page.evaluate(
        "href => document.querySelector(href).getBBox().width", sample.locator("use").first.get_attribute("href")
    )
    assert size == 40
    page.go_back()
    page.get_by_label("region, RL: 61.5 percent, to its samples").click()
    assert len(seen.shown()) == 11 and page.input_value("[name=arm]") == "rl"
    sample.first.locator("summary").click()
    expect(sample.first.locator(".origin")).to_contain_text("feedfeedfeedfeed")
    expect(sample.first.locator(".origin")).to_contain_text("2fade2fade2fade2")


def test_the_count_is_of_all_samples_and_says_where_the_rest_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page: Opener
) -> None:
    monkeypatch.setattr(explorer_module, "EXACT_BUDGET", 60_000)
    write(tmp_path, make_rows(tmp_path / "images", more=30), scores=make_scores(("region", "more")))
    seen = open_page(tmp_path / "out/report.html", "#samples?benchmark=mini&task=more&outcome=both_miss")
    shown = len(seen.shown())
    assert 0 < shown < 20
    expect(seen.page.locator("#shown")).to_have_text(f"{shown} shown of 30; the rest are in samples.jsonl.gz")
    seen.set(outcome="fixed", task="region")
    expect(seen.page.locator("#shown")).to_have_text("1 shown of 1")


def test_links_open_the_claim_and_reach_the_revision(report: Path, open_page: Opener) -> None:
    page = open_page(report, "#claim-claim_3").page
    expect(page.locator("#claim-claim_3 .behind")).to_be_visible()
    page.locator(".forest-label", has_text="claim 1").click()
    expect(page.locator("#claim-claim_1 .behind")).to_be_visible()
    page.locator("#claim-claim_1 > summary").click()
    page.locator(".forest-label", has_text="claim 1").click()  # closed by hand, the address is the same
    expect(page.locator("#claim-claim_1 .behind")).to_be_visible()
    page.locator(".kicker a").click()
    expect(page.get_by_role("heading", name="Code and machine")).to_be_in_viewport()


@pytest.mark.parametrize("width", [820, 1024, 1280])
def test_the_filters_cover_no_sample_that_a_link_leads_to(report: Path, open_page: Opener, width: int) -> None:
    page = open_page(report, viewport={"width": width, "height": 800}).page
    anchor = page.locator(".sample .uid").nth(4).get_attribute("href")
    page.evaluate(f"location.hash = '{anchor}'")
    heading = page.locator(f"{anchor} h3")
    expect(heading).to_be_in_viewport(ratio=1)
    place = "const {x, y} = node.getBoundingClientRect();"
    assert heading.evaluate(f"node => {{ {place} return node.contains(document.elementFromPoint(x + 3, y + 3)); }}")


def test_everything_can_be_done_by_keys_and_the_focus_is_seen(report: Path, open_page: Opener) -> None:
    page = open_page(report).page
    reached: list[str] = []
    for _ in range(120):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "[document.activeElement.name || document.activeElement.className || document.activeElement.tagName,"
            " getComputedStyle(document.activeElement).outlineStyle]"
        )
        assert outline != "none", name
        reached.append(name)
        if name == "q":
            break
    for name in ("skip", "SUMMARY", "forest-label", "benchmark", "task", "outcome", "arm", "result", "status", "q"):
        assert name in reached
    page.keyboard.type("region")
    expect(page.locator("#shown")).to_have_text("11 of the 48 samples in this file")
    page.keyboard.press("Shift+Tab")  # back to the parse status
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#shown")).to_have_text("1 of the 48 samples in this file")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Show all
    expect(page.locator("#shown")).to_have_text("48 shown of 48, here 1 to 20")
    page.keyboard.press("j")  # on a button a letter does nothing
    assert page.evaluate("document.activeElement.type") == "reset"
    for _ in range(3):  # past the pager to the first sample
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "uid":
            break
    focused = "document.activeElement.closest('.sample').querySelector('.uid').textContent"
    walked = []
    for key in ("j", "ArrowRight", "j", "k", "ArrowLeft"):
        page.keyboard.press(key)
        walked.append(page.evaluate(focused))
    assert len(set(walked[:3])) == 3 and walked[3:] == [walked[1], walked[0]]
    for _ in range(20):
        page.keyboard.press("j")
    assert page.locator("#shown").inner_text().endswith("here 21 to 40")
    page.focus("[name=q]")
    page.keyboard.type("jk")  # letters in a field are letters
    assert page.input_value("[name=q]") == "jk"
    page.fill("[name=q]", "")
    page.locator("#claim-claim_1 > summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#claim-claim_1 .behind")).to_be_visible()


def test_hostile_names_questions_and_completions_are_inert_text(report: Path, open_page: Opener) -> None:
    seen = open_page(report)
    page = seen.page
    page.locator("#tasks a[href*='benchmark=bad']").first.click()
    assert len(seen.shown()) == len(HOSTILE)
    assert "alert(1)" in unquote(page.url)
    for name, text in HOSTILE.items():
        answer = page.locator(f".sample[aria-label='Sample bad:{name}:{list(HOSTILE).index(name)}'] .text").first
        shown = answer.text_content() or ""
        assert answer.locator(":not(span)").count() == 0, name
        if name == "long":
            assert "of 1,000,0" in shown and len(shown) < 3000
        elif name == "rtl":
            assert "\\u{202e}\\u{2066}" in shown and "\\u{200f}" in shown and not set(shown) & set("\u202e\u2066\u200f")
            assert answer.evaluate("node => getComputedStyle(node).direction") == "ltr"
        else:
            assert text in shown
        answer.click()
    assert page.locator("script").count() == 1 and page.locator("style").count() == 1
    page.get_by_role("heading", name="onclick").first.click()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_verdicts_come_first_nothing_overflows_and_text_is_readable(
    report: Path, open_page: Opener, scheme: str
) -> None:
    page = open_page(report, viewport={"width": 390, "height": 844}, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for claim in (0, 1):
        expect(page.locator(f"#claim-claim_{claim} > summary .badge")).to_be_in_viewport(ratio=1)
    for details in page.locator("#verdicts details > summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(CONTRAST, 4.5) == []


def test_the_first_screen_holds_the_verdicts_and_dark_differs_from_light(report: Path, open_page: Opener) -> None:
    light, dark = (open_page(report, color_scheme=scheme).page for scheme in ("light", "dark"))
    for claim in range(5):
        expect(light.locator(f"#claim-claim_{claim} > summary .badge")).to_be_in_viewport(ratio=1)
    colours = [page.evaluate("getComputedStyle(document.body).backgroundColor") for page in (light, dark)]
    stroke = "getComputedStyle(document.querySelector('#training polyline')).stroke"
    strokes = [page.evaluate(stroke) for page in (light, dark)]
    assert colours[0] != colours[1] and strokes[0] != strokes[1]
    assert dark.evaluate(CONTRAST, 4.5) == light.evaluate(CONTRAST, 4.5) == []


def test_a_slider_goes_through_the_steps_of_rl_by_key(report: Path, open_page: Opener) -> None:
    page = open_page(report, "#rollouts").page
    slider, steps = page.get_by_label("Step", exact=True), page.locator("#rollouts .step")
    expect(steps.nth(0).locator(".reply.hit")).to_be_visible()
    expect(steps.nth(2)).to_be_hidden()
    slider.focus()
    page.keyboard.press("End")
    expect(steps.nth(2).locator(".takes .reply")).to_have_count(2)
    expect(steps.nth(2).locator(".shot .guess")).to_have_count(2)
    expect(steps.nth(2).locator(".question")).to_be_visible()
    expect(steps.nth(0)).to_be_hidden()
    expect(page.locator("#steps output")).to_have_text("Step 3: 1 of 2 hit")
    still = open_page(report, java_script_enabled=False).page
    assert still.locator("#rollouts .step").count() == 3 and still.locator("#steps").is_hidden()


def test_a_run_that_still_trains_has_the_slider_without_any_samples(tmp_path: Path, open_page: Opener) -> None:
    nothing = {"scores": {}, "claims": [], "levels": [], "evaluations": []}
    write(tmp_path, [], **nothing, rollouts=make_rollouts(tmp_path))  # as `migrl view` does
    page = open_page(tmp_path / "out/report.html", "#rollouts").page
    steps = page.locator("#rollouts .step")
    expect(steps.nth(2)).to_be_hidden()
    page.get_by_label("Step", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(steps.nth(1).locator(".takes .reply").first).to_be_visible()
    expect(steps.nth(0)).to_be_hidden()
    expect(page.locator("#steps output")).to_have_text("Step 2: 1 of 2 hit")


def test_print_shows_verdicts_opened_and_no_controls(report: Path, open_page: Opener) -> None:
    page = open_page(report).page
    page.emulate_media(media="print")
    for claim in range(5):
        expect(page.locator(f"#claim-claim_{claim} > summary .badge")).to_be_visible()
    expect(page.locator("#claim-claim_0 .behind tbody th")).to_be_visible()
    for hidden in ("nav", "#filters", ".all-facts", ".pager >> nth=0"):
        expect(page.locator(hidden)).to_be_hidden()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_without_scripts_every_sample_stands_there_and_links_lead_to_them(report: Path, open_page: Opener) -> None:
    page = open_page(report, java_script_enabled=False).page
    assert page.locator(".sample").count() == 48 and page.locator("#filters").is_hidden()
    page.get_by_label("region: 1 broken, to its samples").click()
    expect(page.locator(".sample[aria-label='Sample mini:region:1'] .question")).to_be_in_viewport()


def test_the_committed_report_opens_without_a_complaint(open_page: Opener) -> None:
    page = open_page(COMMITTED).page
    expect(page.locator("#verdicts .badge").first).to_be_in_viewport()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
