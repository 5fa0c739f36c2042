"""Stages in processes of their own, started by accelerate on one machine or on several.

The parent writes what the processes need into the stage's folder, starts `migrl.running.launcher` (through
`launch.starter` on several machines), and turns a failure into one error. The processes run the stage's own file with
`--context`: trainers together, generation in shards that need not know of each other.
"""

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from migrl.errors import UserError
from migrl.files import ROOT, read_json, write_json
from migrl.recipe import Parallel, Recipe, dump_whole
from migrl.running.ending import ENDING, read_ending
from migrl.running.stage import StageContext
from migrl.running.watch.signals import ENDED, hold_requests, make_stopped, read_request
from migrl.running.watch.trackers import check_trackers, keep_local
from migrl.running.watch.watchdog import watch_loading
from migrl.running.worker import CONTEXT, Rank, die_with_parent

FAILURE = ".failure-{rank}.json"


def launch_training(module: str, context: StageContext, parallel: Parallel) -> None:
    """Run `python -m module --context FILE` in `launch.processes` processes that train together.

    Raises:
        UserError: the training ended with an error; its own message, or which process failed and how.
        Stopped: a signal asked for it, or it stood still.
    """
    check_trackers(context.recipe.trackers)
    processes = context.recipe.launch.processes
    # Of several GPUs that it sees, a process alone would train on all, with torch's DataParallel.
    gpus = {"CUDA_VISIBLE_DEVICES": choose_gpu(os.environ.get("CUDA_VISIBLE_DEVICES"))} if processes == 1 else {}
    _launch(module, context, "ddp" if parallel == "none" and processes > 1 else parallel, gpus)


def launch_generation(module: str, context: StageContext, generate: Callable[[StageContext, Rank], None]) -> None:
    """Run `generate(context, rank)` of a module for every rank; it resumes by itself, and ranks need not agree.

    One process on a CPU is this one. With a GPU even one runs apart: what it held there is given back when it ends, and
    the next stage needs it.

    Raises:
        UserError: as `launch_training`.
    """
    processes = context.recipe.launch.processes
    if processes == 1 and not torch.cuda.is_available():
        with watch_loading(context.folder, context.recipe.watch):
            generate(context, Rank())
        return
    _launch(module, context, "ddp" if processes > 1 else "none")


def _launch(module: str, context: StageContext, config: str, gpus: dict[str, str] | None = None) -> None:
    settings = context.recipe.launch
    check_gpus(settings.processes // settings.machines)
    folder = context.folder.resolve()
    for path in (folder / ENDING, folder / ENDED, *folder.glob(FAILURE.format(rank="*"))):
        path.unlink(missing_ok=True)
    write_json(folder / CONTEXT, describe_context(context))
    command = [*settings.starter, sys.executable, "-m", "migrl.running.launcher", "--module", module]
    command += ["--context", str(folder / CONTEXT), "--config", str(ROOT / "reproduce" / "launch" / f"{config}.yaml")]
    command += ["--address", settings.address or socket.gethostname()]
    command += ["--id", uuid.uuid4().hex]  # a launcher that another start left behind meets nobody
    result = subprocess.run(
        command,
        env=keep_local(make_environment(context.recipe), folder, context.recipe.trackers) | (gpus or {}),
        check=False,
        preexec_fn=prepare_launcher,
        start_new_session=True,  # a signal to the process group is for this process; it asks the others to stop
    )
    ending = read_ending(folder, context.name)
    if ending is not None:
        raise ending
    if result.returncode:
        failure = explain_failure(module, folder, result.returncode)
        asked = read_request(folder.parent) or find_end(folder)
        if asked is not None:
            raise make_stopped(asked, f"a step was cut short ({failure})")
        raise UserError(failure)


def find_end(folder: Path) -> signal.Signals | None:
    """SIGTERM if that is what ended the launchers, and not what ended the rest after one process had failed."""
    codes = [failure["exit_code"] for failure in read_failures(folder)]
    ended = (folder / ENDED).exists() and all(code == -signal.SIGTERM for code in codes)
    return signal.SIGTERM if ended else None


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """What the launchers report of processes that ended badly: `rank`, `exit_code` and `time`."""
    return [read_json(path) for path in folder.glob(FAILURE.format(rank="*"))]


def check_gpus(processes: int) -> None:
    """Refuse more processes than this machine has GPUs, if it has any.

    Raises:
        UserError: naming both numbers.
    """
    found = torch.cuda.device_count()
    if 0 < found < processes:
        raise UserError(
            f"launch.processes: {processes} processes on this machine, which has {found} GPUs; each needs one of its "
            f"own: set launch.processes={found} (and batches that it divides), or make more GPUs visible"
        )


def describe_context(context: StageContext) -> dict[str, object]:
    """A stage's context as JSON, paths absolute; `read_context` reads it."""
    return {
        "name": context.name,
        "recipe": dump_whole(context.recipe),
        "inputs": {name: str(folder.resolve()) for name, folder in context.inputs.items()},
        "folder": str(context.folder.resolve()),
    }


def make_environment(recipe: Recipe) -> dict[str, str]:
    """The environment of a stage's processes."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    cores = os.cpu_count() or 1
    if torch.cuda.is_available():
        threads = max(1, cores * recipe.launch.machines // recipe.launch.processes)
    else:
        # Whatever the number of processes: sums, and so completions, depend on it.
        threads = recipe.model.threads or cores
        # DeepSpeed and accelerate would look for an accelerator and find none.
        environment["DS_ACCELERATOR"] = "cpu"
        environment["ACCELERATE_TORCH_DEVICE"] = "cpu"  # else "cpu:0", to which torch.load cannot load a checkpoint
    environment["OMP_NUM_THREADS"] = str(threads)
    return environment


def choose_gpu(visible: str | None) -> str:
    """The first of the GPUs that CUDA_VISIBLE_DEVICES shows, which may be none; or of all where it is not set."""
    return "0" if visible is None else visible.split(",")[0]


def explain_failure(module: str, folder: Path, code: int) -> str:
    """The error for processes that left none themselves: the first that failed, as the launcher saw it."""
    failures = read_failures(folder)
    what = f"its launcher ended with code {code}"
    if failures:
        first = min(failures, key=lambda failure: (failure["time"], failure["rank"]))
        what = f"process {first['rank']} ended with code {first['exit_code']}"
        if first["exit_code"] < 0:
            name = signal.Signals(-first["exit_code"]).name
            what = f"process {first['rank']} was ended by {name} (killed from outside, or out of memory: see dmesg)"
    return f"{module}: {what}; output is above; mend the cause and start again: it resumes where it was"


def prepare_launcher() -> None:
    """What a launcher is started with, before its own program begins."""
    die_with_parent()
    hold_requests()
