"""One whole run of the test recipe, shared by the smoke tests."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@dataclass(frozen=True)
class FinishedRun:
    """Where a finished run of the test recipe lies."""

    runs: Path
    results: Path

    def stage(self, name: str) -> Path:
        return self.runs / "test" / name


def call_migrl(*arguments: str | Path, timeout: float = 1800) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it."""
    command = [str(Path(sys.executable).with_name("migrl")), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def reproduce_arguments(folder: Path) -> list[str | Path]:
    return ["reproduce", "--recipe", "test", "--runs", folder / "runs", "--results", folder / "results"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The test recipe, run once from nothing to the verdict table."""
    folder = tmp_path_factory.mktemp("smoke")
    result = call_migrl(*reproduce_arguments(folder))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return FinishedRun(folder / "runs", folder / "results" / "test")
