"""The command `migrl`. Errors a user can mend are one message and exit code 1, never a traceback."""

import sys

from migrl.cli import calibration, compare, pipeline, results
from migrl.cli.shared import app
from migrl.errors import UserError, explain_full_disk, is_disk_full
from migrl.watch.signals import Stopped

__all__ = ["app", "calibration", "compare", "main", "pipeline", "results"]


def main() -> None:
    """Entry point."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)
    except Exception as error:
        if not is_disk_full(error):
            raise
        sys.exit(f"error: {explain_full_disk(error, 'the runs folder')}")
