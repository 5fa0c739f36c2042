"""How a stage's process ended: what it leaves in the stage's folder for the one that started it."""

import json
import shutil
from pathlib import Path

from migrl.errors import OutOfMemory, UserError
from migrl.running.stage import TENSORBOARD
from migrl.running.watch.signals import Stopped

ENDING = ".ending.json"


def leave_ending(folder: Path, ending: UserError | Stopped) -> None:
    """Write it down; of several processes the first is heard, as others may fail for its sake.

    On a full disk, room is made for it.
    """
    path = folder / ENDING
    text = json.dumps(
        {
            "text": str(ending),
            "exit_code": ending.exit_code if isinstance(ending, Stopped) else None,
            "out_of_memory": ending.said if isinstance(ending, OutOfMemory) else None,
        }
    )
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return
    except OSError:
        shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
        path.write_text(text, encoding="utf-8")


def read_ending(folder: Path, stage: str) -> UserError | Stopped | None:
    """What `leave_ending` left, if anything."""
    text = (folder / ENDING).read_text(encoding="utf-8") if (folder / ENDING).exists() else ""
    if not text:  # or a process was killed while it wrote
        return None
    found = json.loads(text)
    if found["exit_code"] is not None:
        return Stopped(found["text"], found["exit_code"])
    if found["out_of_memory"] is not None:
        return OutOfMemory(stage, found["out_of_memory"])
    return UserError(found["text"])
