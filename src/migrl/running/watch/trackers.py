"""Trackers named by the recipe: transformers' own (`report_to`), kept on this machine and out of the stage's outputs.

Where they write is told by the environment of the processes, as they know no other way. wandb runs offline
(`wandb sync` sends a run later), trackio logs to a local file (`TRACKIO_DIR=<stage>/.trackers/trackio trackio show`).

A start that goes on from a checkpoint logs the steps after it once more: TensorBoard and trackio then hold them twice
under one name, on a CPU with the same values; wandb keeps a run of its own for each start. `log.jsonl` has each once.
"""

import importlib.util
from pathlib import Path

from transformers import TrainingArguments

from migrl.errors import UserError
from migrl.recipe import Tracker
from migrl.running.stage import TENSORBOARD, StageContext

FOLDER = ".trackers"  # hidden, so that nothing in it is an output of the stage
PROJECT = "migrl"
TAKEN = ("TENSORBOARD_LOGGING_DIR", "TRACKIO_", "WANDB_")
"""How variables begin that would send a run elsewhere, whatever the recipe says."""
WANDB = {
    "WANDB_MODE": "offline",
    "WANDB_PROJECT": PROJECT,
    "WANDB_CONSOLE": "off",
    "WANDB_QUIET": "true",
    # Else it notes the machine's name and hardware, the user, the source tree and the installed packages.
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_HOST": PROJECT,
    "WANDB_PROGRAM": PROJECT,
    "WANDB_USERNAME": PROJECT,
    "WANDB__DISABLE_MACHINE_INFO": "true",
    "WANDB__DISABLE_META": "true",
    "WANDB__DISABLE_STATS": "true",
    "WANDB__SAVE_REQUIREMENTS": "false",
}


def check_trackers(trackers: tuple[Tracker, ...]) -> None:
    """Refuse a tracker that is not installed; trackio and wandb are not in the lock.

    Raises:
        UserError: the package is missing.
    """
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f"trackers: {name} is not installed; run `uv pip install --overrides requirements.lock {name}`, which "
                "leaves the lock's versions as they are, or take it out of trackers"
            )


def keep_local(environment: dict[str, str], folder: Path, trackers: tuple[Tracker, ...]) -> dict[str, str]:
    """The environment of a stage's processes in which each of the trackers writes below `folder` and sends nothing."""
    kept = {name: value for name, value in environment.items() if not name.startswith(TAKEN)}
    own = folder / FOLDER
    if "wandb" in trackers:
        own.mkdir(exist_ok=True)  # else it takes the machine's temporary folder
        kept |= {**WANDB, "WANDB_DIR": str(own)}
    return {**kept, "TENSORBOARD_LOGGING_DIR": str(folder / TENSORBOARD), "TRACKIO_DIR": str(own / "trackio")}


def use_trackers(arguments: TrainingArguments, context: StageContext) -> None:
    """Let a trainer that is made with these arguments report to the recipe's trackers."""
    recipe = context.recipe
    seed = "" if recipe.training_seed is None else f", seed {recipe.training_seed}"
    arguments.report_to = list(recipe.trackers)
    arguments.project, arguments.run_name = PROJECT, f"{recipe.name}/{context.name}{seed}"
