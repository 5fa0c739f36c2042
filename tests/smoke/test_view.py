"""`migrl view`: the report of a run that is still going on shows what is there, and says what is not."""

import shutil
from pathlib import Path

from smoke_run import FinishedRun, call_migrl


def test_a_run_that_still_trains_shows_its_curves_and_rollouts(finished: FinishedRun, tmp_path: Path) -> None:
    run = tmp_path / "test"
    for name in ("fetch", "synthesize", "sft", "select"):
        shutil.copytree(finished.stage(name), run / name)
    shutil.copytree(finished.stage("grpo"), run / "grpo.partial")
    (run / "grpo.partial/rollouts.jsonl").unlink()  # written at the end
    with (run / "grpo.partial/log.jsonl").open("a") as log:
        log.write('{"step": 99, "los')  # being written
    viewed = call_migrl("view", run, "--no-open")
    assert viewed.returncode == 0, viewed.stderr
    page = Path(viewed.stdout.removeprefix("report: ").strip())
    html = page.read_text(encoding="utf-8")
    assert "test, not finished" in html and html.count("<polyline") >= 2
    assert 'data-step="1"' in html and 'class="guess' in html and "Samples: not run." in html
    assert html.count("<script>") == 1 and "filters" not in html.partition("<script>")[2], "of the slider alone"
    shown = call_migrl("view", finished.runs / "test", "--no-open")
    assert shown.stdout.strip().endswith("test/report/report.html")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    refused = call_migrl("view", tmp_path, "--no-open")
    assert refused.returncode == 1 and "no run there, or nothing fetched yet" in refused.stderr
