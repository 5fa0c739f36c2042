"""Several processes: what they train and generate must be what one process would."""

import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import find_rank
from safetensors.torch import load_file
from smoke_run import FinishedRun, call_migrl, start

# Sums of float32 in another order: about 1e-7 a step, and training carries it on. Observed over the 20 steps at most
# 7e-7 (plain data parallel 7e-7, ZeRO-2 3e-7, ZeRO-3 5e-7); a mean over other samples or a lost gradient shows from
# 1e-2.
RELATIVE_TOLERANCE = 1e-5
LONG_SFT = ("sft.num_train_epochs=5", "sft.per_device_train_batch_size=2", "sft.save_steps=100")
"""20 steps of 4 x 2 samples."""
# Largest difference of a weight after four steps of GRPO under ZeRO-2 and ZeRO-3; observed 5e-7.
WEIGHT_TOLERANCE = 1e-5
TWO = "launch.processes=2"
# A start on two machines, on one: like srun, which runs its arguments once on each and ends all when one fails.
STARTER = """
import subprocess, sys, time
started = [subprocess.Popen(sys.argv[1:]) for _ in range(2)]
while all(process.poll() in (None, 0) for process in started) and any(process.poll() is None for process in started):
    time.sleep(0.1)
codes = [process.poll() for process in started]
[process.terminate() for process in started if process.poll() is None]
[process.wait() for process in started]
sys.exit(max(code or 0 for code in codes))
"""


def copy_run(finished: FinishedRun, folder: Path, *without: str) -> Path:
    """A finished run without some of its stages, in a folder of its own."""
    shutil.copytree(finished.runs, folder / "runs", symlinks=True)
    for stage in without:
        shutil.rmtree(folder / "runs/test" / stage)
    return folder / "runs"


def call_stage(stage: str, runs: Path, *settings: str) -> Path:
    """Run one stage; its folder."""
    result = call_migrl(stage, "--recipe", "test", "--runs", runs, *settings)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return runs / "test" / stage


def read_losses(folder: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()])


def read_digest(folder: Path) -> str:
    digest: str = json.loads((folder / "manifest.json").read_text())["digest"]
    return digest


@pytest.fixture(scope="module")
def plain_losses(finished: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """20 steps of one process without any sharding."""
    runs = copy_run(finished, tmp_path_factory.mktemp("plain"), "sft")
    return read_losses(call_stage("sft", runs, *LONG_SFT))


@pytest.mark.parametrize("parallel", ["none", "zero2", "zero3"])
def test_two_processes_follow_the_loss_of_one_for_twenty_steps(
    parallel: str, finished: FinishedRun, plain_losses: np.ndarray, tmp_path: Path
) -> None:
    runs = copy_run(finished, tmp_path, "sft")
    folder = call_stage("sft", runs, *LONG_SFT, TWO, f"sft.parallel={parallel}")
    losses = read_losses(folder)
    assert len(losses) == len(plain_losses) == 20
    print(f"{parallel}: largest relative difference {np.max(np.abs(losses / plain_losses - 1)):.2g}")
    np.testing.assert_allclose(losses, plain_losses, rtol=RELATIVE_TOLERANCE)
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    one = load_file(finished.stage("sft") / "adapter/adapter_model.safetensors")
    assert {name: weight.shape for name, weight in adapter.items()} == {n: w.shape for n, w in one.items()}


def test_the_loss_of_a_process_ends_the_launch_and_what_resumes_is_as_if_undisturbed(
    finished: FinishedRun, tmp_path: Path
) -> None:
    """RL under ZeRO-2, killed after two of its four steps, beside RL under ZeRO-3 that was not."""
    runs = copy_run(finished, tmp_path / "zero2", "grpo")
    settings = (TWO, "grpo.parallel=zero2")
    error = kill_rank(1, "grpo", runs, settings, sign="checkpoints/checkpoint-2/rng_state_1.pth")
    assert error.startswith("error: ") and "process 1 was ended by SIGKILL" in error, error
    assert list((runs / "test/grpo.partial/checkpoints").glob("checkpoint-*"))
    resumed = call_stage("grpo", runs, *settings)
    other = call_stage("grpo", copy_run(finished, tmp_path / "zero3", "grpo"), TWO, "grpo.parallel=zero3")
    rows, others = ([json.loads(line) for line in (f / "log.jsonl").read_text().splitlines()] for f in (resumed, other))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row, undisturbed in zip(rows, others, strict=True):
        # Sampling goes on from the same random states and weights, or these would differ.
        assert row["reward"] == undisturbed["reward"] and row["completion_length"] == undisturbed["completion_length"]
        assert row["loss"] == pytest.approx(undisturbed["loss"], rel=1e-3, abs=1e-6)
        assert row["grad_norm"] == pytest.approx(undisturbed["grad_norm"], rel=1e-3)
    adapter, like = (load_file(f / "adapter/adapter_model.safetensors") for f in (resumed, other))
    largest = max(float((adapter[name] - weight).abs().max()) for name, weight in like.items())
    print(f"largest difference of a weight {largest:.2g}")
    assert adapter.keys() == like.keys() and largest < WEIGHT_TOLERANCE


def test_a_group_behind_one_prompt_takes_the_step_of_trl_under_both_stages_of_zero(
    finished: FinishedRun, tmp_path: Path
) -> None:
    rows, adapters = [], []
    for parallel, prefix in (("zero2", False), ("zero2", True), ("zero3", True)):
        runs = copy_run(finished, tmp_path / f"{parallel}_{prefix}", "grpo")
        settings = ("grpo.max_steps=1", f"grpo.parallel={parallel}", f"grpo.group_prefix={str(prefix).lower()}")
        folder = call_stage("grpo", runs, TWO, *settings)
        rows.append(json.loads((folder / "log.jsonl").read_text()))
        adapters.append(load_file(folder / "adapter/adapter_model.safetensors"))
    for row, adapter in zip(rows[1:], adapters[1:], strict=True):
        for name in ("loss", "grad_norm", "reward", "completion_length", "kl"):
            assert row[name] == pytest.approx(rows[0][name], rel=RELATIVE_TOLERANCE, abs=1e-6), name
        largest = max(float((adapter[name] - weight).abs().max()) for name, weight in adapters[0].items())
        print(f"largest difference of a weight {largest:.2g}")
        assert adapter.keys() == adapters[0].keys() and largest < WEIGHT_TOLERANCE


def kill_rank(rank: int, stage: str, runs: Path, settings: tuple[str, ...], sign: str) -> str:
    """Start a stage and kill -9 one of its processes once `sign` is there; the error that names it."""
    partial = runs / "test" / f"{stage}.partial"
    process = start(stage, "--recipe", "test", "--runs", runs, *settings)
    assert process.wait_until(lambda: any(path.stat().st_size for path in partial.glob(sign)))
    victim = find_rank(rank, partial)
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    return process.wait().stderr.strip().splitlines()[-1]


def test_generation_gives_the_same_bits_on_two_machines(finished: FinishedRun, tmp_path: Path) -> None:
    (tmp_path / "starter.py").write_text(STARTER)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    machines = ("launch.machines=2", f"launch.starter=[{sys.executable}, {tmp_path / 'starter.py'}]")
    where = ("launch.address=localhost", f"launch.port={port}")
    folder = call_stage("select", copy_run(finished, tmp_path, "select"), TWO, *machines, *where)
    assert_shared(folder, 2)
    assert read_digest(folder) == read_digest(finished.stage("select"))


def test_generation_that_lost_one_of_two_processes_ends_with_three_in_the_same_bits(
    finished: FinishedRun, tmp_path: Path
) -> None:
    runs = copy_run(finished, tmp_path, "evaluate")
    error = kill_rank(0, "evaluate", runs, (TWO,), sign="progress/base.0.jsonl")
    assert "process 0 was ended by SIGKILL" in error
    done = sum(len(path.read_text().splitlines()) for path in (runs / "test/evaluate.partial/progress").glob("*.jsonl"))
    assert done > 0
    folder = call_stage("evaluate", runs, "launch.processes=3")
    assert_shared(folder, 3)
    assert read_digest(folder) == read_digest(finished.stage("evaluate"))


def assert_shared(folder: Path, processes: int) -> None:
    """Every process has done something."""
    for rank in range(processes):
        assert any(path.stat().st_size for path in (folder / "progress").glob(f"*.{rank}.jsonl"))
