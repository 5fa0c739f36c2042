"""Starts a stage's processes on one machine: accelerate's launcher, which reports what failed.

`migrl.running.launch` runs this once, or once on each machine. It reads the stage's context for the number of processes
and writes `.failure-<rank>.json` beside it when one of them ends badly.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from migrl.files import write_json
from migrl.recipe import LaunchSettings
from migrl.running.watch.signals import ENDED, await_requests


def main() -> None:
    """Entry of `python -m migrl.running.launcher`; its options are those that `launch` gives."""
    parser = argparse.ArgumentParser()
    for name in ("context", "config"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("address", "id", "module"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    await_requests(options.context.parent.parent)

    def end(number: int, frame: FrameType | None) -> None:
        # Whoever ends a whole SLURM step ends the launchers and not `migrl`; SLURM also does it when one has failed.
        options.context.with_name(ENDED).touch()
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    # Only now, as they take seconds in which a signal would have ended this process.
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    context = json.loads(options.context.read_text())
    settings = LaunchSettings.model_validate(context["recipe"]["launch"])
    arguments = launch_command_parser().parse_args(build_arguments(options, settings))
    arguments.rdzv_id = options.id  # accelerate has no option for it, and hands it on to torch
    try:
        launch_command(arguments)
    except SignalException as stopped:
        if stopped.sigval != signal.SIGTERM:
            raise
        end(stopped.sigval, None)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        leave_failure(options.context.parent, rank, failure.exitcode, failure.timestamp)
    except subprocess.CalledProcessError as error:  # where there is one process, and torch has no part in it
        leave_failure(options.context.parent, 0, error.returncode, time.time())


def leave_failure(folder: Path, rank: int, exit_code: int, moment: float) -> NoReturn:
    """Report the process that failed first; `moment` in seconds since 1970."""
    write_json(folder / f".failure-{rank}.json", {"rank": rank, "exit_code": exit_code, "time": moment})
    sys.exit(1)


def build_arguments(options: argparse.Namespace, settings: LaunchSettings) -> list[str]:
    """accelerate's arguments for this machine's share of the processes."""
    arguments = ["--config_file", str(options.config), "--num_processes", str(settings.processes)]
    arguments += ["--main_process_port", str(settings.port if settings.machines > 1 else 0)]
    if settings.machines > 1:
        # Ranks are given out by torch's rendezvous at the address; every machine starts the same command, and says that
        # it is not the first only to be spared accelerate's look at the port, which the first to come has opened.
        arguments += ["--num_machines", str(settings.machines), "--machine_rank", "1"]
        arguments += ["--main_process_ip", options.address, "--rdzv_backend", "c10d"]
        arguments += ["--deepspeed_multinode_launcher", "standard"]
    return [*arguments, "-m", options.module, "--context", str(options.context), "--launcher", str(os.getpid())]


if __name__ == "__main__":
    main()
