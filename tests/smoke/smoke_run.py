"""The command in processes of its own, and one whole run of the test recipe, shared by the smoke tests."""

import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
MIGRL = Path(sys.executable).with_name("migrl")
HANG = 1800
"""Seconds after which what was started is taken to hang; nothing takes near as long."""

# Processes are forked from one that has imported what stages need: a start would spend seconds on it.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "migrl.cli",
        *(f"migrl.stages.{name}" for name in ("sft", "merge", "select", "grpo", "evaluate", "pass_rates", "report")),
        "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    ]
)


@dataclass(frozen=True)
class Started:
    """A program at work in a session of its own; its output lies in `folder` until it has ended."""

    process: BaseProcess
    folder: Path

    @property
    def is_running(self) -> bool:
        return self.process.exitcode is None

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def wait_until(self, sign: Callable[[], object]) -> bool:
        """Wait for `sign` or the end; whether the process still runs."""
        while self.is_running and not sign():
            time.sleep(0.02)
        return self.is_running

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Its end: exit code and output."""
        self.process.join(HANG)
        if self.process.exitcode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.process.join()
        output, errors = ((self.folder / name).read_text() for name in ("output", "errors"))
        shutil.rmtree(self.folder)
        return subprocess.CompletedProcess(self.process.name, self.process.exitcode or 0, output, errors)


def start(*arguments: str | Path, program: Path = MIGRL) -> Started:
    """Start a Python program, by default the installed command, as a user does at the repository's root."""
    folder = Path(tempfile.mkdtemp())
    words = [*map(str, arguments)]
    process = FORKS.Process(target=run_program, args=(program, words, folder), name=" ".join([program.name, *words]))
    process.start()
    return Started(process, folder)


def run_program(program: Path, arguments: list[str], folder: Path) -> None:
    """What a forked process does."""
    os.setsid()
    os.chdir(ROOT)
    for descriptor, name in ((1, "output"), (2, "errors")):
        with (folder / name).open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    sys.argv = [str(program), *arguments]
    sys.path.insert(0, str(program.parent))
    runpy.run_path(str(program), run_name="__main__")


def call_migrl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return start(*arguments).wait()


@dataclass(frozen=True)
class FinishedRun:
    """Where a finished run of the test recipe lies."""

    runs: Path
    results: Path

    @property
    def log(self) -> Path:
        return self.runs.parent / "log"

    def stage(self, name: str) -> Path:
        return self.runs / "test" / name


def reproduce_arguments(folder: Path) -> list[str | Path]:
    return ["reproduce", "--recipe", "test", "--runs", folder / "runs", "--results", folder / "results"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> FinishedRun:
    """The test recipe, run once for all workers from nothing to the verdict table, by the command itself."""
    own = tmp_path_factory.getbasetemp()
    folder = (own if worker_id == "master" else own.parent) / "smoke"
    run = FinishedRun(folder / "runs", folder / "results" / "test")
    with FileLock(folder.with_suffix(".lock")):
        if not (run.results / "manifest.json").exists():
            folder.mkdir(exist_ok=True)
            with run.log.open("w") as log:
                command = [MIGRL, *map(str, reproduce_arguments(folder))]
                result = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=HANG, check=False)
            assert result.returncode == 0, run.log.read_text()[-8000:]
    return run
