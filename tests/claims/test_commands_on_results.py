"""Commands that read the committed results give the numbers that stand there."""

import json
import shutil
from pathlib import Path

import pytest
from compare_runs import count, write_raw
from huggingface_hub import ModelCard
from rows import read_lines
from run_files import ROOT, change_manifest, prepare, read_recipe

from migrl.evidence.seal import list_files
from migrl.files import read_json
from migrl.plan.build import StagePlan, build_plan
from migrl.plan.machine import GpuOptions

TINY = ROOT / "results" / "tiny"


def test_two_arms_of_the_committed_run_give_its_own_accuracies_by_either_rule() -> None:
    scores = json.loads((TINY / "scores.json").read_text())
    for options, pick in (((), lambda cell: cell), (("--official",), lambda cell: cell.get("compat", cell))):
        found = count(TINY, "--arm", "sft", "--arm-b", "rl", *options)
        assert set(found["benchmarks"]) == set(scores["rl"]) and found["notes"] == []
        for name, cell in found["benchmarks"].items():
            first, second = (pick(scores[arm][name])["macro"] for arm in ("sft", "rl"))
            assert (cell["accuracy_a"], cell["accuracy_b"]) == pytest.approx((first, second), abs=1e-3)
            assert cell["delta"] == pytest.approx(second - first, abs=1e-3)
            assert cell["low"] < cell["delta"] < cell["high"]
        overall = found["all"]
        assert overall["n"] == sum(cell["n"] for cell in found["benchmarks"].values())
        assert overall["wins"] + overall["losses"] + overall["both_hit"] + overall["both_miss"] == overall["n"]


ENGINE_KEYS = ("--allow", "engine", "--allow", "engine_version", "--allow", "attention")


@pytest.mark.parametrize(
    ("name", "a", "b", "options"),
    [
        *((dtype, f"{dtype}_transformers", f"{dtype}_vllm", ENGINE_KEYS) for dtype in ("float32", "bfloat16")),
        *((name, f"float32_{name}", f"bfloat16_{name}", ("--allow", "dtype")) for name in ("transformers", "vllm")),
    ],
)
def test_the_comparison_of_engines_follows_from_the_kept_answers(
    name: str, a: str, b: str, options: tuple[str, ...]
) -> None:
    engines = ROOT / "results" / "engines"
    stored = json.loads((engines / f"{name}.json").read_text())
    found = count(engines / a, engines / b, *options)
    assert {key: found[key] for key in stored if key not in ("a", "b")} == {
        key: value for key, value in stored.items() if key not in ("a", "b")
    }


def test_a_runs_own_completions_as_a_peers_raw_file_have_no_delta_in_any_benchmark(tmp_path: Path) -> None:
    rows = [row for row in read_lines(TINY / "samples.jsonl.gz") if row["arm"] == "rl"]
    raw = write_raw(tmp_path / "raw.jsonl", rows)
    found = count(TINY, raw, "--frame", "resized_px")
    assert set(found["benchmarks"]) == {row["benchmark"] for row in rows}
    for cell in found["benchmarks"].values():
        assert (cell["delta"], cell["low"], cell["high"], cell["wins"], cell["losses"]) == (0, 0, 0, 0, 0)
        assert not cell["images_changed"]
        assert all(change.startswith("truncated -> ") for change in cell["statuses"])  # it tells no cuts
    assert "does not say that a reply was cut" in found["notes"][0]


def test_the_committed_evidence_is_published_with_its_scores_and_verdicts(home: Path, tmp_path: Path) -> None:
    results, stages = home / "results" / "tiny", json.loads((home / "results/tiny/manifest.json").read_text())["stages"]
    evaluations = (results / "evaluations.json").read_text()
    shutil.rmtree(results)
    shutil.copytree(TINY, results)
    (results / "evaluations.json").write_text(evaluations)
    committed = json.loads((results / "manifest.json").read_text())["stages"]
    stages["evaluate"]["facts"]["samples"] = committed["evaluate"]["facts"]["samples"]
    change_manifest(results, stages=stages)  # as if it had been made from this run
    prepare(home, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "model" / "README.md")
    scores = json.loads((results / "scores.json").read_text())
    found = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    assert found == {benchmark: score["macro"] for benchmark, score in scores["rl"].items()}
    title, *report = (results / "report.md").read_text().splitlines()
    assert f"#{title}" in card.text
    tables = [line for line in report if line.startswith("|")]
    assert len(tables) > 30 and [line for line in card.text.splitlines() if line in tables] == tables
    sent, ours = ({*list_files(folder)} for folder in (tmp_path / "out" / "dataset" / "evidence", results))
    assert sent == ours


def test_the_plan_shows_the_times_of_the_committed_run(tmp_path: Path) -> None:
    def plan_grpo(*overrides: str) -> StagePlan:
        plan = build_plan(read_recipe("tiny", *overrides), tmp_path, ROOT / "results", GpuOptions(gpus=0))
        assert plan.refusals == ()
        return next(stage for stage in plan.stages if stage.name == "grpo")

    seconds, duration = read_json(TINY / "manifest.json")["stages"]["grpo"]["seconds"], plan_grpo().duration
    assert duration.basis == "measured" and duration.low == seconds
    # Twice the steps at the rate of the committed run; the plan takes its completions to be longer than they were.
    longer = plan_grpo("grpo.max_steps=160").duration
    assert longer.basis == "measured" and "per second, measured" in longer.words
    assert longer.high == pytest.approx(2 * seconds, rel=0.4)
    assert plan_grpo("grpo.num_generations=4").duration is None
