"""Trackers named by the recipe: transformers' own callbacks, told to keep all they write in the stage's folder.

Nothing leaves the machine by itself: wandb runs offline (`wandb sync` sends a run later), trackio logs to a local file
(`TRACKIO_DIR=<stage>/.trackers/trackio trackio show`). Their own setup would send the trainer's arguments and the
model's config, which hold paths; here they get the names of recipe and stage, the stage's settings, and the metrics.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.integrations.integration_utils import WandbLogModel

from migrl.errors import UserError
from migrl.recipe import Tracker
from migrl.running.stage import StageContext

FOLDER = ".trackers"  # hidden, so that nothing in it is an output of the stage
PROJECT = "migrl"


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


def make_trackers(context: StageContext) -> list[TrainerCallback]:
    """The recipe's trackers, for the main process."""
    makers = {"tensorboard": make_tensorboard, "trackio": LocalTrackio, "wandb": OfflineWandb}
    return [makers[name](context) for name in context.recipe.trackers]


def make_tensorboard(context: StageContext) -> TrainerCallback:
    """TensorBoard under `tensorboard/`."""
    return TensorBoardCallback(SummaryWriter(str(context.folder / "tensorboard")))


def name_run(context: StageContext) -> str:
    seed = context.recipe.training_seed
    return f"{context.recipe.name}/{context.name}" + ("" if seed is None else f", seed {seed}")


def make_tracker_environment(folder: Path) -> dict[str, str]:
    """Where trackio is to write: it takes that from its process's environment alone, when it is imported."""
    return {"TRACKIO_DIR": str(folder / FOLDER / "trackio")}


def describe_run(context: StageContext) -> dict[str, Any]:
    """What a tracker is told of the settings: none of them is a path, a host or a secret."""
    recipe = context.recipe
    section = "grpo" if context.name.startswith("grpo") else "sft"
    settings = recipe.model_dump(mode="json", include={section, "model"})
    model = {key: value for key, value in settings["model"].items() if key not in ("path", "sha256")}
    return {section: settings[section], "model": model, "processes": recipe.launch.processes}


class OfflineWandb(WandbCallback):
    """Weights & Biases, offline: what it would tell of the machine, the source tree and the console is left out."""

    def __init__(self, context: StageContext) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped_calls_exclude does not know super()
        self._log_model = WandbLogModel.FALSE
        self.context = context

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any, **kwargs: Any) -> None:
        self._initialized = True
        private = self._wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            host="migrl",  # else the machine's name
            program="migrl",
            quiet=True,
            save_code=False,
            username="migrl",
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        folder = self.context.folder.resolve() / FOLDER / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb.init(
            project=PROJECT,
            name=name_run(self.context),
            config=describe_run(self.context),
            dir=str(folder),
            mode="offline",
            settings=private,
        )
        self._wandb.define_metric("train/global_step")
        self._wandb.define_metric("*", step_metric="train/global_step", step_sync=True)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        self._wandb.finish()


class LocalTrackio(TrackioCallback):
    """Trackio, into a file of the stage's folder."""

    def __init__(self, context: StageContext) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped_calls_exclude does not know super()
        for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):  # it would send there, whatever the recipe says
            os.environ.pop(name, None)
        self.context = context

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any, **kwargs: Any) -> None:
        self._initialized = True
        self._trackio.init(
            project=PROJECT,
            name=name_run(self.context),
            config=describe_run(self.context),
            resume="allow",
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
