"""Starts a stage's processes on one machine: accelerate's launcher, which leaves word of what failed.

`migrl.launch` runs this once, or once on each machine. It reads the stage's context for the number of processes and
writes `.failure-<rank>.json` beside it when one of them ends badly.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from migrl.evidence import write_json
from migrl.recipe import LaunchSettings
from migrl.watch.signals import leave_requests


def main() -> None:
    """Entry: `python -m migrl.launcher --context FILE --config FILE --address HOST --port N --module NAME`."""
    parser = argparse.ArgumentParser()
    for name in ("context", "config"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("address", "port", "module", "processes"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    leave_requests(options.context.parent.parent, [signal.SIGUSR1])
    context = json.loads(options.context.read_text())
    settings = LaunchSettings.model_validate(context["recipe"]["launch"])
    arguments = build_arguments(options, settings)
    try:
        launch_command(launch_command_parser().parse_args(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        word = {"rank": rank, "exit_code": failure.exitcode, "time": failure.timestamp}
        write_json(options.context.with_name(f".failure-{rank}.json"), word)
        sys.exit(1)


def build_arguments(options: argparse.Namespace, settings: LaunchSettings) -> list[str]:
    """accelerate's arguments for this machine's share of the processes."""
    arguments = ["--config_file", str(options.config), "--num_processes", options.processes]
    arguments += ["--main_process_port", options.port]
    if settings.machines > 1:
        # Ranks are given out by torch's rendezvous at the address; every machine starts the same command, and says that
        # it is not the first only to be spared accelerate's look at the port, which the first to come has opened.
        arguments += ["--num_machines", str(settings.machines), "--machine_rank", "1"]
        arguments += ["--main_process_ip", options.address, "--rdzv_backend", "c10d"]
        arguments += ["--deepspeed_multinode_launcher", "standard"]
    return [*arguments, "-m", options.module, "--context", str(options.context)]


if __name__ == "__main__":
    main()
