"""Wheels for a machine without a network: what it lacks of the lock, for its version of Python."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCK = """\
contourpy==1.3.3 ; python_full_version < '3.12' \\
    --hash=sha256:aa
    # via a_plotter
contourpy==1.4.0 ; python_full_version >= '3.12' \\
    --hash=sha256:bb \\
    --hash=sha256:cc
Pillow_Like==2.0 \\
    --hash=sha256:dd
colorama==1 ; sys_platform == 'win32' \\
    --hash=sha256:ee
"""


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "reproduce/offline"))
    import wheels

    return wheels


def test_the_lock_is_read_for_the_other_machines_python(wheels: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_text(LOCK.replace("Pillow_Like", "pillow_like"))
    found = wheels.read_lock(path, "3.12")
    assert found == {
        "contourpy": "contourpy==1.4.0 \\\n    --hash=sha256:bb \\\n    --hash=sha256:cc\n",
        "pillow-like": "pillow_like==2.0 \\\n    --hash=sha256:dd\n",
    }
    assert wheels.read_lock(path, "3.11")["contourpy"].startswith("contourpy==1.3.3 ")


def test_what_the_machine_has_is_left_out_with_what_only_that_needs(wheels: Any) -> None:
    needs = wheels.find_needs("3.12", wheels.GIVEN)
    assert {"migrl", "trl", "deepspeed", "datasets", "pydantic", "typer", "rich", "hjson", "pytest", "httpx"} <= needs
    assert not needs & {*wheels.GIVEN, "sympy", "networkx"} and not any(name.startswith("nvidia") for name in needs)
    everything = wheels.find_needs("3.12", frozenset())
    assert {"torch", "sympy"} <= everything and needs < everything
    locked = wheels.read_lock(wheels.LOCK, "3.12")
    assert needs - {"migrl"} <= locked.keys()
    assert wheels.find_needs("3.12", frozenset({*wheels.GIVEN, "trl"})) == needs - {"trl"}


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "reproduce/offline/wheels.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_this_environment_lacks_nothing_of_the_lock() -> None:
    result = call("--check")
    assert result.returncode == 0 and "missing" not in result.stdout, result.stdout


def test_a_package_that_is_missing_is_named_with_the_remedy(
    wheels: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = metadata.version

    def find(name: str) -> str:
        if name == "trl":
            raise metadata.PackageNotFoundError(name)
        return "0.1" if name == "torch" else known(name)

    monkeypatch.setattr(metadata, "version", find)
    assert wheels.check_environment() == 1
    said = capsys.readouterr().out
    assert "missing: trl; make wheels HAVE=list.txt" in said and "torch 0.1 (lock: " in said


@pytest.mark.parametrize(("text", "message"), [(None, "cannot be read"), ("numpy==2.4.6\n", "names no torch")])
def test_a_list_that_is_none_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_text(text)
    result = call("--have", str(path), "--out", str(tmp_path / "wheels"))
    assert result.returncode == 1 and str(path) in result.stderr and message in result.stderr
    assert "pip list --format=freeze" in result.stderr and not (tmp_path / "wheels").exists()
