"""Long runs for real: signals, alarms and stalls stop them, and they go on as if nothing had happened."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from smoke_run import ROOT, FinishedRun, Started, call_migrl, start

from migrl.errors import UserError
from migrl.recipe import load_recipe
from migrl.running.launch import launch_generation
from migrl.running.stage import StageContext
from migrl.running.watch.signals import Stopped


def copy_inputs(finished: FinishedRun, runs: Path, stage: str) -> Path:
    """A run of the test recipe that is finished up to `stage`; returns its home."""
    for name in ("fetch", "synthesize", "sft", "merge", "select", "grpo"):
        if name == stage:
            break
        shutil.copytree(finished.stage(name), runs / "test" / name)
    return runs / "test"


def run_and(act: Callable[[Started], None], when: Callable[[], bool], *arguments: str | Path) -> tuple[int, str]:
    """Start `migrl`, do something to it as soon as `when`, and return its exit code and its last line of stderr."""
    process = start(*arguments)
    assert process.wait_until(when), "it ended before there was anything to stop"
    act(process)
    result = process.wait()
    return result.returncode, result.stderr.strip().splitlines()[-1]


def read_outputs(home: Path, stage: str) -> dict[str, str]:
    """Hashes of what a stage leaves, without what holds times, or the place of the base model."""
    outputs = json.loads((home / stage / "manifest.json").read_text())["outputs"]
    return {
        name: output["sha256"]
        for name, output in outputs.items()
        if name not in ("log.jsonl", "adapter/README.md", "adapter/adapter_config.json")
    }


def test_a_run_that_slurms_signal_and_then_an_alarm_stopped_ends_in_the_same_weights(
    finished: FinishedRun, tmp_path: Path
) -> None:
    home = copy_inputs(finished, tmp_path / "runs", "grpo")
    partial = home / "grpo.partial"
    arguments = ("grpo", "--recipe", "test", "--runs", tmp_path / "runs", "grpo.alarms.window=2")
    arguments += ("grpo.alarms.zero_variance=null",)  # it would be the first where nothing is hit

    def has_logged() -> bool:
        return any(path.stat().st_size for path in partial.glob("log.jsonl"))

    code, last = run_and(lambda process: os.kill(process.pid, signal.SIGUSR1), has_logged, *arguments)
    assert code == 128 + signal.SIGUSR1
    stopped = re.fullmatch(r"stopped by SIGUSR1 after step ([123]), checkpoint saved; start again to resume", last)
    assert stopped, last
    assert (partial / f"checkpoints/checkpoint-{stopped[1]}/trainer_state.json").exists()
    assert not list(home.glob(".stop-*"))

    result = call_migrl(*arguments, "grpo.alarms.kl=1.0e-12")
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    alarm = re.match(r"error: alarm at step ([23]): kl over the last 2 steps: median ", last)
    assert alarm, last
    assert "limit 1e-12" in last and "change grpo.alarms.kl, or set it to null" in last
    assert "Traceback" not in result.stderr
    assert (partial / f"checkpoints/checkpoint-{alarm[1]}/trainer_state.json").exists()

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


# A stage of two processes that take a while to start, then hear each other, and then wait for ever.
WORKER = """
import os, sys, time
from pathlib import Path

folder = Path(sys.argv[sys.argv.index("--context") + 1]).parent
rank = os.environ["RANK"]
(folder / f"importing-{rank}").write_text(f"{os.getpid()} {os.getppid()}")
while not (folder / "go").exists():
    time.sleep(0.05)

from accelerate import PartialState
from migrl.running.worker import run_child
from migrl.running.watch.guard import share_first_message
from migrl.running.watch.signals import read_request


def work(context, rank):
    state = PartialState(cpu=True)
    said = [share_first_message(f"rank {rank.index}" if rank.index == speaker else None) for speaker in (1, 0, 5)]
    asked = read_request(folder.parent)
    (folder / f"working-{rank.index}").write_text(f"{said} {asked and asked.name}")
    if rank.index == 1:
        wait_for_ever()


def wait_for_ever():
    time.sleep(600)


if __name__ == "__main__":
    run_child(work)
"""


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie, which a container's first process may never bury."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def launch_worker(folder: Path, act: Callable[[int, list[int]], None], sign: str) -> Exception:
    """Launch two WORKERs, do something to (launcher, workers) as soon as there are two files `sign`; how it ended."""
    partial = folder / "runs/stage.partial"
    partial.mkdir(parents=True)
    (folder / "worker.py").write_text(WORKER)
    recipe = load_recipe(ROOT / "reproduce/recipes/test.yaml", ["launch.processes=2", "watch.load_minutes=0.15"])

    def wait_and_act() -> None:
        deadline = time.monotonic() + 300
        while len(list(partial.glob(sign))) < 2 or not all(path.read_text() for path in partial.glob("importing-*")):
            assert time.monotonic() < deadline, "they never came so far"
            time.sleep(0.05)
        pids = [path.read_text().split() for path in sorted(partial.glob("importing-*"))]
        act(int(pids[0][1]), [int(own) for own, _ in pids])

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        acted = pool.submit(wait_and_act)
        with pytest.raises((Stopped, UserError)) as caught:
            launch_generation("worker", StageContext("stage", recipe, {}, partial), lambda context, rank: None)
        acted.result(timeout=1800)
    return caught.value


def test_a_signal_to_all_while_they_start_is_kept_and_a_process_that_never_starts_its_work_is_ended(
    tmp_path: Path,
) -> None:
    def signal_all(launcher: int, workers: list[int]) -> None:
        for process in (launcher, *workers):
            os.kill(process, signal.SIGUSR1)
        (tmp_path / "runs/stage.partial/go").touch()

    ended = launch_worker(tmp_path, signal_all, "importing-*")
    assert isinstance(ended, Stopped) and ended.exit_code == 75, ended
    assert str(ended).startswith("stopped: no progress in process 1 for 0.3 minutes of loading or saving"), ended
    assert "wait_for_ever" in (tmp_path / "runs/stage.partial/.stacks-1-1.txt").read_text()
    for rank in (0, 1):  # both hear what one of them has to say, and of the signal
        words = (tmp_path / f"runs/stage.partial/working-{rank}").read_text()
        assert words == "['rank 1', 'rank 0', None] SIGUSR1"


def test_sigterm_to_the_launcher_alone_is_a_stop_and_no_failure(tmp_path: Path) -> None:
    ended = launch_worker(tmp_path, lambda launcher, workers: os.kill(launcher, signal.SIGTERM), "importing-*")
    assert isinstance(ended, Stopped) and ended.exit_code == 143, ended
    assert str(ended).startswith("stopped by SIGTERM after a step was cut short"), ended


def test_processes_whose_launcher_was_killed_while_they_started_do_no_work(tmp_path: Path) -> None:
    def kill_launcher(launcher: int, workers: list[int]) -> None:
        os.kill(launcher, signal.SIGKILL)
        (tmp_path / "runs/stage.partial/go").touch()
        gone = time.monotonic() + 300
        while any(map(is_alive, workers)) and time.monotonic() < gone:
            time.sleep(0.1)
        assert not any(map(is_alive, workers)), "they live on"

    ended = launch_worker(tmp_path, kill_launcher, "importing-*")
    assert isinstance(ended, UserError) and "its launcher ended with code -9" in str(ended), ended
    assert not list((tmp_path / "runs/stage.partial").glob("working-*"))
