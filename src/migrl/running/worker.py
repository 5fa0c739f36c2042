"""A stage's process: reads its context, works, and leaves word for the parent of what ended it."""

import argparse
import ctypes
import os
import shutil
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
from migrl.running.stage import StageContext
from migrl.running.watch.signals import Stopped, await_requests, leave_stopped
from migrl.running.watch.watchdog import watch_loading

CONTEXT = ".context.json"
ERROR = ".error.txt"
OUT_OF_MEMORY = ".out_of_memory.txt"
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
    """Work, and turn what ends it into word for the parent."""
    try:
        work(context, rank)
    except Stopped as stopped:
        leave_stopped(context.folder, stopped)
    except Exception as error:
        text = explain_error(error, context)
        if text is None:
            raise
        if not isinstance(error, UserError):
            traceback.print_exc()  # where it was; the words for the user come last
        leave_error(context.folder, text)
        if isinstance(error, torch.OutOfMemoryError):
            (context.folder / OUT_OF_MEMORY).write_text(make_out_of_memory(context.name, error).said)
        # Alone, leave quietly: the parent reports. Among several, fail loudly, or the others would wait.
        sys.exit(1 if rank.count > 1 else 0)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # else a process that ends after the first may abort in gloo


def explain_error(error: Exception, context: StageContext) -> str | None:
    """The words for an error that its user can mend; None for one that is ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return str(make_out_of_memory(context.name, error))
    if is_disk_full(error):
        return explain_full_disk(error, str(context.folder))
    return explain_os_error(error) if isinstance(error, OSError) and error.filename else None


def make_out_of_memory(stage: str, error: torch.OutOfMemoryError) -> OutOfMemory:
    """The error of a stage, with the first of torch's words."""
    return OutOfMemory(stage, str(error).partition(" Including non-PyTorch")[0].rstrip("."))


def leave_error(folder: Path, text: str) -> None:
    """Write the message for the parent; on a full disk make room for it first."""
    path = folder / ERROR
    try:
        path.write_text(text)
    except OSError:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        path.write_text(text)
