"""A vLLM that ends in the middle of a stage. Skipped where it is not installed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

MIGRL = Path(sys.executable).with_name("migrl")
SETTINGS = (
    *("evaluate.arms=[base]", "evaluate.engine=vllm"),
    *("vllm.enforce_eager=true", "vllm.max_model_len=1024", "vllm.max_num_seqs=16", "vllm.batch=8"),
)


def start(stage: str, runs: Path) -> subprocess.Popen[str]:
    command = [MIGRL, stage, "--recipe", "test", "--runs", runs, *SETTINGS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_uids(folder: Path) -> list[str]:
    logs = sorted(folder.glob("progress/base.*.jsonl"))
    lines = [line for log in logs for line in log.read_text().splitlines(keepends=True)]
    return [json.loads(line)["uid"] for line in lines if line.endswith("\n")]


def find_engine(process: subprocess.Popen[str]) -> psutil.Process:
    """The process of vLLM's engine below a command; it renames itself."""
    below = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in below if "EngineCore" in " ".join([child.name(), *child.cmdline()]))


def test_a_killed_engine_ends_the_stage_with_its_reason_and_nothing_answered_is_asked_again(
    vllm_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")  # as on a GPU: the engine is a process of its own
    fetched = start("fetch", tmp_path)
    said = fetched.communicate()
    assert fetched.returncode == 0, said
    working = tmp_path / "test/evaluate.partial"
    first = start("evaluate", tmp_path)
    while first.poll() is None and not read_uids(working):
        time.sleep(0.05)
    os.kill(find_engine(first).pid, signal.SIGKILL)
    _, errors = first.communicate()
    assert first.returncode == 1
    assert "error: engine vllm: a process of it ended" in errors
    answered = read_uids(working)
    before = {path: path.read_bytes() for path in working.glob("progress/base.*.jsonl")}
    second = start("evaluate", tmp_path)
    while second.poll() is None and len(read_uids(working)) <= len(answered):
        time.sleep(0.05)
    assert all(path.read_bytes().startswith(kept) for path, kept in before.items() if path.exists())
    output, errors = second.communicate()
    assert second.returncode == 0, output[-2000:] + errors[-4000:]
    rows = [json.loads(line) for line in (tmp_path / "test/evaluate/samples.jsonl").read_text().splitlines()]
    assert len({row["uid"] for row in rows}) == len(rows) > len(answered) > 0
