"""Errors of the command line: one sentence with the place, whatever the system refuses."""

import errno
import importlib.metadata
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from migrl.cli import main
from migrl.errors import MAX_CHARS, UserError, explain_full_disk, explain_os_error, find_fullest
from migrl.running.stage import check_disk

INTERRUPT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "MODULE":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


def run_main(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["migrl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run it as a shell's foreground does; what a shell started in the background, these tests too, ignores Ctrl-C."""
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    return subprocess.run([sys.executable, "-c", heed + code], capture_output=True, text=True, timeout=1800)


def test_a_long_message_keeps_its_start_and_its_remedy_and_says_what_is_left_out() -> None:
    whole = f"file, record 7: must be a box, not {'x' * 10_000}; correct it"
    text = str(UserError(whole))
    assert len(text) <= MAX_CHARS
    assert text.startswith("file, record 7: must be a box, not x") and text.endswith("x; correct it")
    left_out = int(text.partition("[... ")[2].split()[0])
    assert len(text) - len(f" [... {left_out} characters left out ...] ") + left_out == len(whole)


def test_a_message_that_quotes_half_of_a_surrogate_pair_can_be_printed() -> None:
    assert str(UserError("name \udc80 is odd")).encode() == rb"name \udc80 is odd"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fetch", "--recipe", "test", "--runs", "file"], "Not a directory; a file is where a folder should be"),
        (["reproduce", "--recipe", "test", "--runs", "file/below"], "Not a directory; a file is where a folder should"),
        (["fetch", "--recipe", "test", "--runs", "x" * 300], "File name too long; use a shorter name"),
        (["fetch", "--recipe", "file/x.yaml"], "Not a directory"),
        (["fetch", "--recipe", "folder.yaml"], "not a file; name a YAML file"),
    ],
)
def test_a_place_that_is_none_is_one_sentence_with_its_path(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder.yaml").mkdir()
    told = str(run_main(arguments, monkeypatch))
    assert told.startswith(f"error: {arguments[-1]}") and reason in told and "\n" not in told


def test_a_full_disk_is_told_by_the_place_that_is_written_to() -> None:
    copying = OSError(errno.ENOSPC, "No space left on device", "runs/a", None, "results/a")
    assert explain_full_disk(copying, "elsewhere").startswith("results/a: the disk is full; free space")
    writing = OSError(errno.ENOSPC, "No space left on device")
    assert explain_full_disk(writing, "runs").startswith("runs: the disk is full")


def test_the_fullest_of_the_places_is_found_also_where_one_is_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {tmp_path: 7, tmp_path / "small": 5}
    (tmp_path / "small").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 2, free[folder]))
    assert find_fullest([tmp_path / "new", tmp_path / "small" / "a" / "b"]) == tmp_path / "small" / "a" / "b"


def test_missing_room_is_told_in_figures_that_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(2 * 10**6, 10**6, 10**6))
    with pytest.raises(UserError, match="1.0 MB free, 1.0 MB needed, 4.5 kB too little; free space"):
        check_disk(tmp_path, 1_004_500)


def test_an_error_without_a_number_is_told_in_its_own_words() -> None:
    assert explain_os_error(OSError("cannot load library")).startswith("the system: cannot load library; ")


def test_output_that_cannot_be_written_is_told_as_such() -> None:
    code = "import sys; sys.argv = ['migrl', '--help']; from migrl.cli import main; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output: the disk is full; ") and done.stderr.count("\n") == 1


def test_output_that_nobody_reads_ends_quietly() -> None:
    code = "import sys; sys.argv = ['migrl', '--help']; from migrl.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize("module", ["migrl.cli", "typer", "pydantic", "migrl.running.watch.signals"])
def test_ctrl_c_while_it_imports_is_quiet(module: str) -> None:
    done = run_python(INTERRUPT.replace("MODULE", module) + "from migrl.__main__ import main; main()")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="migrl")
    assert command.value == "migrl.__main__:main"


def test_ctrl_c_after_the_imports_ends_the_command_with_130() -> None:
    code = "import os, signal, migrl.cli; migrl.cli.app = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
    done = run_python(code + "from migrl.__main__ import main; main()")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
