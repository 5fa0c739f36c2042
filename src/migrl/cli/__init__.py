"""The command `migrl`. Errors a user can mend are one message and exit code 1, never a traceback."""

import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from migrl.cli import asking, calibration, compare, peers, pipeline, results
from migrl.cli.shared import app
from migrl.errors import UserError, explain_full_disk, explain_os_error, find_fullest, is_disk_full, shorten
from migrl.running.watch.signals import Stopped

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["app", "asking", "calibration", "compare", "main", "peers", "pipeline", "results"]


class _Output(io.FileIO):
    """Standard output, whose errors say that they are its."""

    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = "standard output"
            raise


def main() -> None:
    """Entry point."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:  # None: closed before we began
        raw = io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False))
        lines = sys.stdout.line_buffering or sys.stdout.write_through
        sys.stdout = io.TextIOWrapper(raw, sys.stdout.encoding, sys.stdout.errors, line_buffering=lines)
    ended = _run(app)
    sys.exit(_run(_flush_output) or ended)


def _run(act: Callable[[], object]) -> int | str | None:
    """Run the command, or a part of it; return the exit code, or the message for code 1."""
    try:
        act()
    except SystemExit as ended:
        return ended.code
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        return f"error: {error}"
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        return 1
    except Exception as error:
        if is_disk_full(error):
            return f"error: {shorten(explain_full_disk(error, str(find_fullest(_list_places()))))}"
        if isinstance(error, OSError):
            return f"error: {shorten(explain_os_error(error))}"
        raise
    return None


def _flush_output() -> None:
    """Write out what was printed: Python would do it later, and complain in its own words."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:  # what is left of it
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise


def _list_places() -> list[Path]:
    """Where the command may have written: what its arguments name, and what they are by default."""
    words = [word.partition("=")[2] if word.startswith("--") else word for word in sys.argv[1:]]
    given = [Path(word) for word in words if word and ("/" in word or Path(word).exists())]
    return [*given, Path("runs"), Path("results"), Path(tempfile.gettempdir())]
