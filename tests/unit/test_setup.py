"""`make setup`, with stand-ins for Python and uv that note down what they are called with."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = '#!/bin/sh\necho "$@" >> "${0%/*}/calls"\n'


def set_up(folder: Path, home: Path) -> list[str]:
    """The words of each call of uv, from a clone whose folder has a space in its name."""
    clone = folder / "a clone"
    shutil.copytree(ROOT / "reproduce/container", clone / "reproduce/container")
    shutil.copytree(ROOT / "reproduce/offline", clone / "reproduce/offline")
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, clone)
    binaries = clone / ".venv/bin"
    binaries.mkdir(parents=True)
    for name in ("python", "uv"):
        (binaries / name).write_text(STAND_IN)
        (binaries / name).chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    result = subprocess.run(["make", "setup"], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and (clone / ".venv/.migrl-stamp").exists(), result.stderr
    return [call for call in (binaries / "calls").read_text().splitlines() if call.startswith("pip install")]


def test_setup_keeps_uv_s_downloads_in_the_home_folder_if_it_may_write_there(tmp_path: Path) -> None:
    home = tmp_path / "my home"
    home.mkdir()
    calls = set_up(tmp_path, home)
    assert len(calls) == 2 and not any("--no-cache" in call for call in calls)


def test_setup_works_under_a_home_that_may_not_be_written(tmp_path: Path) -> None:
    home = tmp_path / "a file"  # where root may not make a folder either
    home.touch()
    calls = set_up(tmp_path, home)
    assert len(calls) == 2 and all("--no-cache" in call for call in calls)
