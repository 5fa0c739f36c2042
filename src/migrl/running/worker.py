"""A stage's process: reads its context, works, and reports to its parent how it ended."""

import argparse
import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from migrl.errors import OutOfMemory, UserError, explain_full_disk, explain_os_error, is_disk_full
from migrl.files import read_json
from migrl.recipe import Recipe
from migrl.running.ending import leave_ending
from migrl.running.stage import StageContext
from migrl.running.watch.signals import Stopped, await_requests
from migrl.running.watch.watchdog import watch_loading

CONTEXT = ".context.json"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


@dataclass(frozen=True)
class Rank:
    """Which of the processes this is: `index` of `count`, and `local` among those of its machine."""

    index: int = 0
    count: int = 1
    local: int = 0


def read_context(path: Path) -> StageContext:
    """The context that a parent described."""
    data = read_json(path)
    inputs = {name: Path(folder) for name, folder in data["inputs"].items()}
    return StageContext(data["name"], Recipe.model_validate(data["recipe"]), inputs, Path(data["folder"]))


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies.

    A killed pipeline must not leave a trainer behind that writes into the folder the next run resumes;
    launchers start workers in sessions of their own, which no signal to the process group reaches.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read_rank() -> Rank:
    """This process's place among those that the launcher started; it tells them by torchrun's variables."""
    index, count, local = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Rank(int(index or 0), int(count or 1), int(local or 0))


def run_child(work: Callable[[StageContext, Rank], None]) -> None:
    """Entry of a stage's process: read the context and work; a user error is left for the parent."""
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", type=Path, required=True)
    parser.add_argument("--launcher", type=int, required=True)
    options = parser.parse_args()
    if os.getppid() != options.launcher:
        sys.exit("the launcher died while this process was starting")
    context = read_context(options.context)
    await_requests(context.folder.parent)
    rank = read_rank()
    with watch_loading(context.folder, context.recipe.watch, rank.index):
        run_work(work, context, rank)


def run_work(work: Callable[[StageContext, Rank], None], context: StageContext, rank: Rank) -> None:
    """Run the work function; report a stop or an error to the parent process."""
    try:
        work(context, rank)
    except Stopped as stopped:
        leave_ending(context.folder, stopped)
    except Exception as error:
        ending = explain_error(error, context)
        if ending is None:
            raise
        if ending is not error:
            traceback.print_exc()  # where it was; the words for the user come last
        leave_ending(context.folder, ending)
        # Alone, leave quietly: the parent reports. Among several, fail loudly, or the others would wait.
        sys.exit(1 if rank.count > 1 else 0)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else a process that ends after the first may abort in gloo


def explain_error(error: Exception, context: StageContext) -> UserError | None:
    """The error in words for its user, who can mend it; None for one that is ours."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(context.name, str(error))
    if is_disk_full(error):
        return UserError(explain_full_disk(error, str(context.folder)))
    return UserError(explain_os_error(error)) if isinstance(error, OSError) and error.filename else None
