"""Long runs for real: signals, alarms and a full disk stop the trainers, and they go on as if nothing had happened."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from smoke_run import ROOT, FinishedRun, call_migrl


def copy_inputs(finished: FinishedRun, runs: Path, stage: str) -> Path:
    """A run of the test recipe that is finished up to `stage`; returns its home."""
    for name in ("fetch", "synthesize", "sft", "merge", "select", "grpo"):
        if name == stage:
            break
        shutil.copytree(finished.stage(name), runs / "test" / name)
    return runs / "test"


def run_and(act: Callable[[subprocess.Popen[str]], None], when: Callable[[], bool], *arguments: str | Path) -> tuple:
    """Start `migrl`, do something to it as soon as `when`, and return its exit code and its last line of stderr."""
    command = [str(Path(sys.executable).with_name("migrl")), *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not when():
        time.sleep(0.02)
    assert process.poll() is None, "it ended before there was anything to stop"
    act(process)
    errors = process.communicate(timeout=300)[1]
    return process.returncode, errors.strip().splitlines()[-1]


def read_outputs(home: Path, stage: str) -> dict[str, str]:
    """Hashes of what a stage leaves, without what holds times, or the place of the base model."""
    outputs = json.loads((home / stage / "manifest.json").read_text())["outputs"]
    return {
        name: output["sha256"]
        for name, output in outputs.items()
        if name not in ("log.jsonl", "adapter/README.md", "adapter/adapter_config.json")
    }


def test_a_run_that_an_alarm_and_then_slurms_signal_stopped_ends_in_the_same_weights(
    finished: FinishedRun, tmp_path: Path
) -> None:
    home = copy_inputs(finished, tmp_path / "runs", "grpo")
    partial = home / "grpo.partial"
    arguments = ("grpo", "--recipe", "test", "--runs", tmp_path / "runs", "grpo.alarms.window=2")
    result = call_migrl(*arguments, "grpo.alarms.kl=1.0e-12")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: alarm at step 2: kl over the last 2 steps: median "), last
    assert "limit 1e-12" in last and "change grpo.alarms.kl, or set it to null" in last
    assert "Traceback" not in result.stderr and (partial / "checkpoints/checkpoint-2/trainer_state.json").exists()

    code, last = run_and(
        lambda process: process.send_signal(signal.SIGUSR1),
        lambda: not (partial / ".error.txt").exists(),  # the trainer is about to be started again
        *arguments,
    )
    assert code == 128 + signal.SIGUSR1
    assert last == "stopped by SIGUSR1 after step 3, checkpoint saved; start again to resume"
    assert (partial / "checkpoints/checkpoint-3/trainer_state.json").exists() and not list(home.glob(".stop-*"))

    result = call_migrl(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert read_outputs(home, "grpo") == read_outputs(finished.runs / "test", "grpo")
    steps = [json.loads(line)["step"] for line in (home / "grpo/log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


def test_sigterm_to_the_process_group_ends_generation_after_its_batch(finished: FinishedRun, tmp_path: Path) -> None:
    home = copy_inputs(finished, tmp_path / "runs", "select")
    arguments = ("select", "--recipe", "test", "--runs", tmp_path / "runs")

    def has_begun() -> bool:
        return any(path.stat().st_size for path in home.glob("select.partial/progress/*"))

    code, last = run_and(lambda process: os.killpg(process.pid, signal.SIGTERM), has_begun, *arguments)
    assert code == 128 + signal.SIGTERM
    assert last.startswith("stopped by SIGTERM after sampling rollouts, batch "), last
    assert call_migrl(*arguments).returncode == 0
    assert read_outputs(home, "select") == read_outputs(finished.runs / "test", "select")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_up_stops_the_run_before_a_checkpoint_is_torn(finished: FinishedRun, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mount is not allowed here")
    try:
        home = copy_inputs(finished, disk, "grpo")
        arguments = ("grpo", "--recipe", "test", "--runs", disk)

        def fill(process: subprocess.Popen[str]) -> None:
            room = shutil.disk_usage(disk).free - 300_000
            (disk / "filler").write_bytes(bytes(room))

        code, last = run_and(fill, lambda: (home / "grpo.partial/.context.json").exists(), *arguments)
        assert code == 1
        assert "no room for the checkpoint of step 1" in last and "GB free" in last and "it resumes" in last, last
        assert not list(home.glob("grpo.partial/checkpoints/*"))
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_trainer_that_stands_still_leaves_its_stacks_and_ends_with_a_code_of_its_own(
    finished: FinishedRun, tmp_path: Path
) -> None:
    home = copy_inputs(finished, tmp_path / "runs", "sft")

    def block(process: subprocess.Popen[str]) -> None:
        os.mkfifo(home / "sft.partial/log.jsonl")  # nobody reads it, so opening it takes for ever

    arguments = ("sft", "--recipe", "test", "--runs", tmp_path / "runs", "watch.stall_minutes=0.05")
    code, last = run_and(block, lambda: (home / "sft.partial/.context.json").exists(), *arguments)
    assert code == 75 and last.startswith("stopped: no progress in process 0") and "start again" in last, last
    assert "on_train_begin" in (home / "sft.partial/.stacks-0-1.txt").read_text()


def test_what_one_process_has_to_say_all_hear(tmp_path: Path) -> None:
    script = tmp_path / "talk.py"
    script.write_text(
        "from accelerate import PartialState\n"
        "from migrl.watch.guard import share_word\n"
        "state = PartialState(cpu=True)\n"
        "rank = state.process_index\n"
        "said = [share_word(f'rank {rank}' if rank == speaker else None) for speaker in (1, 0, 5)]\n"
        "assert said == ['rank 1', 'rank 0', None], said\n"
        "state.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
