"""Bad input ends with one clear error, exit code 1, and nothing finished is lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from smoke_run import FinishedRun, call_migrl


def break_image(home: Path) -> None:
    path = next((home / "fetch/data/mini_mig").glob("*.png"))
    path.write_bytes(path.read_bytes()[:40])


def remove_image(home: Path) -> None:
    next((home / "fetch/data/mini_mig").glob("*.png")).unlink()


def tear_log(home: Path) -> None:
    name = "progress/base.0.jsonl"
    path = home / "evaluate.partial" / name
    path.parent.mkdir(parents=True)
    key = json.loads((home / "evaluate" / "manifest.json").read_text())["key"]
    (home / "evaluate.partial" / ".key").write_text(key)
    rows = (home / "evaluate" / name).read_text().splitlines()
    path.write_text("\n".join([rows[0][:50], *rows[1:]]) + "\n")


def age_manifest(home: Path) -> None:
    path = home / "fetch" / "manifest.json"
    path.write_text(path.read_text().replace('"run_format": 1', '"run_format": 0'))


CASES: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    "corrupt image": (break_image, "evaluate", ("corrupt image", ".png", "fetch")),
    "missing image": (remove_image, "evaluate", ("missing image", ".png", "fetch")),
    "torn line": (tear_log, "evaluate", ("base.0.jsonl, line 1", "broken")),
    "other format": (age_manifest, "synthesize", ("run format 0", "--runs")),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files_are_named_with_reason_and_remedy(case: str, finished: FinishedRun, tmp_path: Path) -> None:
    damage, stage, words = CASES[case]
    shutil.copytree(finished.runs, tmp_path / "runs")
    damage(tmp_path / "runs" / "test")
    force = [] if case == "torn line" else ["--force"]
    if case == "torn line":
        (tmp_path / "runs/test/evaluate/manifest.json").unlink()
    result = call_migrl(stage, "--recipe", "test", "--runs", tmp_path / "runs", *force)
    assert result.returncode == 1
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and all(word in lines[-1] for word in words), result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "runs/test/grpo/manifest.json").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("grpo.stepz=3", ("grpo.stepz", "did you mean 'grpo.max_steps'")),
        ("grpo.per_device_train_batch_size=3", ("grpo.per_device_train_batch_size=3", "legal values: 1, 2, 4, 8")),
        ("grpo.save_only_model=true", ("save_only_model", "resume")),
        ("model.sha256={model.safetensors: abc}", ("model.safetensors", "sha256", "tiny-base")),
    ],
)
def test_bad_settings_are_named_with_a_legal_value(override: str, words: tuple[str, ...], tmp_path: Path) -> None:
    result = call_migrl("fetch", "--recipe", "test", "--runs", tmp_path, override)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert all(word in result.stderr for word in words), result.stderr
