"""Training stages in processes of their own, started by accelerate.

The parent writes what the child needs into the stage's folder, starts `accelerate launch`, and turns
the child's failure into one error. The child runs the same stage file with `--context`.
"""

import argparse
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from migrl.errors import UserError, explain_full_disk, is_disk_full
from migrl.evidence import StageContext, read_json, write_json
from migrl.recipe import Parallel, Recipe

CONTEXT = ".context.json"
ERROR = ".error.txt"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def launch_training(module: str, context: StageContext, parallel: Parallel) -> None:
    """Run `python -m module --context FILE` under accelerate with reproduce/launch/<parallel>.yaml.

    Raises:
        UserError: the training ended with an error; its own message, or where its output is.
    """
    path = context.folder / CONTEXT
    inputs = {name: str(folder.resolve()) for name, folder in context.inputs.items()}
    data = {
        "name": context.name,
        "recipe": context.recipe.model_dump(mode="json"),
        "inputs": inputs,
        "folder": str(context.folder.resolve()),
    }
    write_json(path, data)
    (context.folder / ERROR).unlink(missing_ok=True)
    settings = context.recipe.launch
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(find_launch_file(parallel))]
    command += ["--num_processes", str(settings.processes), "--num_machines", str(settings.machines)]
    command += ["-m", module, "--context", str(path)]
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if not torch.cuda.is_available():
        # DeepSpeed and accelerate would look for an accelerator and find none.
        environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(context.recipe.model.threads or os.cpu_count())}
    result = subprocess.run(command, env=environment, check=False, preexec_fn=die_with_parent)
    error = context.folder / ERROR
    if error.exists():
        raise UserError(error.read_text())
    if result.returncode:
        raise UserError(
            f"{module}: training process ended with code {result.returncode}, its output is above; "
            "mend the cause and start again: it resumes from the last checkpoint"
        )


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies.

    A killed pipeline must not leave a trainer behind that writes into the folder the next run resumes;
    launchers start workers in sessions of their own, which no signal to the process group reaches.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def find_launch_file(parallel: Parallel) -> Path:
    """The accelerate config of this name, beside the recipes."""
    return Path(__file__).resolve().parents[2] / "reproduce" / "launch" / f"{parallel}.yaml"


def run_child(train: Callable[[StageContext], None]) -> None:
    """Entry of a training process: read the context and train; a user error is left for the parent."""
    die_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("--context", type=Path, required=True)
    data = read_json(parser.parse_args().context)
    folder = Path(data["folder"])
    inputs = {name: Path(path) for name, path in data["inputs"].items()}
    try:
        train(StageContext(data["name"], Recipe.model_validate(data["recipe"]), inputs, folder))
    except Exception as error:
        if not isinstance(error, UserError) and not is_disk_full(error):
            raise
        text = str(error) if isinstance(error, UserError) else explain_full_disk(error, str(folder))
        leave_error(folder, text)
        # Alone, leave quietly: the parent reports. Among several, fail loudly, or the others would wait.
        sys.exit(1 if int(os.environ.get("WORLD_SIZE", "1")) > 1 else 0)


def leave_error(folder: Path, text: str) -> None:
    """Write the message for the parent; on a full disk make room for it first."""
    path = folder / ERROR
    try:
        path.write_text(text)
    except OSError:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        path.write_text(text)
