"""The true pipeline on the test recipe: real trainers, DeepSpeed, real files."""

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from smoke_run import FinishedRun, call_migrl, reproduce_arguments, start

STAGES = ("fetch", "synthesize", "sft", "merge", "select", "grpo", "evaluate", "pass_rates", "report")


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_stage_leaves_a_manifest_and_the_evidence_verifies(finished: FinishedRun) -> None:
    for stage in STAGES:
        manifest = json.loads((finished.stage(stage) / "manifest.json").read_text())
        assert manifest["stage"] == stage and manifest["outputs"]
    result = call_migrl("verify", finished.results)
    assert result.returncode == 0, result.stdout + result.stderr


def test_its_log_is_short_and_made_of_plain_lines(finished: FinishedRun) -> None:
    log = finished.log.read_bytes().decode()
    lines = log.split("\n")
    assert "\r" not in log and "\x1b" not in log and "%|" not in log and len(lines) <= 60
    for words in ("sft: step 8 of 8, loss ", "grpo: step 4 of 4, loss ", "evaluating rl: 53 of 53, took "):
        assert sum(line.startswith(words) for line in lines) == 1, log
    assert all(f"[{place}/{len(STAGES)}] {stage}: done in" in log for place, stage in enumerate(STAGES, 1))


def test_every_line_of_its_log_is_ours_and_no_warning_of_a_library(finished: FinishedRun) -> None:
    progress = r"[\w ]+: (step )?\d+ of \d+.*, (took .*|.* left)$"  # more of them on a slow machine
    ours = re.compile(rf"\[\d/\d\] \w+: done in|{progress}|test recipe|[┏┃┡│└]|report: |$")
    assert [line for line in finished.log.read_text().split("\n") if not ours.match(line)] == []


def test_a_second_run_skips_everything_and_writes_none_of_it_again(finished: FinishedRun, tmp_path: Path) -> None:
    shutil.copytree(finished.runs, tmp_path / "runs")

    def list_written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.name != ".lock"}

    before = list_written()
    result = call_migrl(*reproduce_arguments(tmp_path))
    assert result.returncode == 0 and result.stdout.count("skipped") == len(STAGES)
    assert list_written() == before


def test_splits_share_no_picture(finished: FinishedRun) -> None:
    facts = json.loads((finished.stage("fetch") / "manifest.json").read_text())["facts"]
    assert facts["scenes"] > 100
    hashes: dict[str, str] = {}
    for name, output in json.loads((finished.stage("fetch") / "manifest.json").read_text())["outputs"].items():
        if name.endswith(".png"):
            split = name.split("/")[1]
            assert hashes.setdefault(output["sha256"], split) == split, name


def test_every_planted_fault_of_the_teacher_is_caught(finished: FinishedRun) -> None:
    planted = json.loads((finished.stage("synthesize") / "filters.json").read_text())["planted"]
    assert set(planted) == {"wrong_object", "leaked_truth", "malformed", "too_long"}
    assert all(counts["caught"] == counts["planted"] > 0 for counts in planted.values())


def test_training_moves_the_language_model_and_not_the_vision_tower(finished: FinishedRun) -> None:
    base = load_file(finished.stage("fetch") / "model" / "model.safetensors")
    merged = load_file(finished.stage("merge") / "model" / "model.safetensors")
    assert base.keys() == merged.keys()
    moved = {name for name in base if not torch.equal(base[name], merged[name])}
    assert moved and not any("visual" in name for name in moved)
    for stage in ("sft", "grpo"):
        adapter = load_file(finished.stage(stage) / "adapter" / "adapter_model.safetensors")
        assert not any("visual" in name for name in adapter)
        assert all(float(weight.abs().max()) > 0 for name, weight in adapter.items() if "lora_B" in name)


def test_grpo_logs_reward_kl_zero_variance_length_and_truncation_of_every_step(finished: FinishedRun) -> None:
    rows = read_rows(finished.stage("grpo") / "log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert {"reward", "kl", "zero_variance", "completion_length", "truncation", "hit_reward"} <= row.keys()
    assert list((finished.stage("grpo") / "tensorboard").glob("events.*"))


def test_every_arm_answers_every_sample_with_the_same_prompt(finished: FinishedRun) -> None:
    rows = read_rows(finished.stage("evaluate") / "samples.jsonl")
    asked = {
        arm: {row["uid"]: row["prompt_hash"] for row in rows if row["arm"] == arm} for arm in ("base", "sft", "rl")
    }
    assert asked["base"] == asked["sft"] == asked["rl"] and len(asked["rl"]) == 20 + 21 + 12


def test_pass_rates_before_and_after_are_of_the_same_samples_and_reach_the_results(finished: FinishedRun) -> None:
    found = json.loads((finished.stage("pass_rates") / "pass_rates_after.json").read_text())
    after = {row["uid"]: row["hits"] for row in read_rows(finished.stage("pass_rates") / "rollouts.jsonl")}
    before = {row["uid"]: row["hits"] for row in read_rows(finished.stage("select") / "rollouts.jsonl")}
    assert found["samples"] == len(after) == 20 and len(before) == 40
    for when, hits in (("before", [before[uid] for uid in after]), ("after", list(after.values()))):
        assert found[when]["counts"] == {str(n): hits.count(n) for n in range(5)}
        assert [sum(cell[when].values()) for cell in found["tasks"].values()] == [2] * 10
    assert json.loads((finished.results / "pass_rates_after.json").read_text()) == found


def test_a_changed_key_reruns_its_stage_and_nothing_before(finished: FinishedRun, tmp_path: Path) -> None:
    shutil.copytree(finished.runs, tmp_path / "runs")
    result = call_migrl(*reproduce_arguments(tmp_path), "resamples=500")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped") == len(STAGES) - 1 and "report: done" in result.stdout


def test_a_run_killed_in_every_stage_ends_in_identical_scores(finished: FinishedRun, tmp_path: Path) -> None:
    killed = []
    for stage in STAGES:
        if kill_during(stage, tmp_path):
            killed.append(stage)
    result = call_migrl(*reproduce_arguments(tmp_path))
    assert result.returncode == 0, result.stderr[-4000:]
    assert {"sft", "grpo", "evaluate", "pass_rates"} <= set(killed)
    again = tmp_path / "results" / "test" / "scores.json"
    assert again.read_bytes() == (finished.results / "scores.json").read_bytes()
    for name in ("evaluate/samples.jsonl", "pass_rates/rollouts.jsonl"):
        assert read_rows(tmp_path / "runs/test" / name) == read_rows(finished.stage(name))


def kill_during(stage: str, folder: Path) -> bool:
    """Start the pipeline and kill -9 its whole process group while `stage` is at work; True if it was."""
    home = folder / "runs" / "test"
    process = start(*reproduce_arguments(folder))
    signs = {
        "sft": lambda: (home / "sft.partial/log.jsonl").exists() and list(home.glob("sft.partial/checkpoints/*-2")),
        "grpo": lambda: (home / "grpo.partial/log.jsonl").exists() and list(home.glob("grpo.partial/checkpoints/*-2")),
        "select": lambda: (home / "select.partial/progress/rollouts.0.jsonl").exists(),
        "pass_rates": lambda: (home / "pass_rates.partial/progress/rollouts.0.jsonl").exists(),
        "evaluate": lambda: (home / "evaluate.partial/progress/sft.0.jsonl").exists(),
    }
    at_work = signs.get(stage, lambda: (home / f"{stage}.partial/.key").exists())
    is_done = (home / stage / "manifest.json").exists
    if process.wait_until(lambda: at_work() or is_done()):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return not is_done()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_ends_with_one_error_and_keeps_what_is_finished(finished: FinishedRun, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        result = call_migrl("reproduce", "--recipe", "test", "--runs", disk / "runs", "--results", tmp_path / "results")
        assert result.returncode == 1
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("error: ") and ("disk is full" in last or "GB free" in last), result.stderr[-2000:]
        assert (disk / "runs/test/fetch/manifest.json").exists()
    finally:
        subprocess.run(["umount", disk], check=True)
