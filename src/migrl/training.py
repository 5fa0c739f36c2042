"""What the two training stages share: LoRA on the language model, data sets for trl, logs, gates."""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset, Features, Image, List, Value
from peft import LoraConfig
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from migrl.errors import UserError
from migrl.inputs import ModelInput
from migrl.recipe import LoraSettings
from migrl.records import read_jsonl, write_jsonl

LANGUAGE_MODEL = "language_model"
VISION_TOWER = "visual"

MESSAGES = List({"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})})


def make_lora_config(settings: LoraSettings) -> LoraConfig:
    """LoRA on every linear layer of the language model, by full path: a suffix would hit the vision tower too."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        bias="none",
        task_type="CAUSAL_LM",
        target_modules=rf".*\.{LANGUAGE_MODEL}\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    )


def check_trainable(model: nn.Module) -> int:
    """Number of trainable parameters; the vision tower must have none.

    Raises:
        UserError: something in the vision tower would be trained, or nothing at all.
    """
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    vision = [name for name in names if f".{VISION_TOWER}." in name]
    if vision:
        raise UserError(f"{vision[0]}: the vision tower must stay frozen; correct the LoRA targets")
    if not names:
        raise UserError("no parameter is trainable; correct the LoRA targets")
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def build_dataset(items: list[ModelInput], columns: dict[str, list[Any]], features: dict[str, Any]) -> Dataset:
    """A data set in trl's form: `prompt` (messages with image placeholders), `images` (decoded on access), and more."""
    table = {
        "prompt": [item.messages for item in items],
        "images": [[str(path) for path in item.paths] for item in items],
        **columns,
    }
    return Dataset.from_dict(table, features=Features(prompt=MESSAGES, images=List(Image(mode="RGB")), **features))


class JsonlLog(TrainerCallback):
    """Writes what the trainer logs as JSONL, one row a step; on resume, rows after the checkpoint are dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            rows = read_jsonl(self.path) if self.path.exists() and state.global_step else []
            write_jsonl(self.path, [row for row in rows if row["step"] <= state.global_step])

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **name_metrics(logs)}) + "\n")


class ProgressBar(ProgressCallback):
    """The trainer's bar with a few metrics behind it, in place of a line of all metrics a step."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.training_bar is not None and logs:
            metrics = name_metrics(logs)
            self.training_bar.set_postfix({name: f"{metrics[name]:.3f}" for name in BAR_METRICS if name in metrics})


def make_callbacks(folder: Path) -> list[TrainerCallback]:
    """Logs of a training stage: `log.jsonl`, and TensorBoard under `tensorboard/`."""
    callbacks: list[TrainerCallback] = [JsonlLog(folder / "log.jsonl")]
    if PartialState().is_main_process:
        callbacks.append(TensorBoardCallback(SummaryWriter(str(folder / "tensorboard"))))
    return callbacks


def train_resuming(trainer: Trainer, checkpoints: Path) -> None:
    """Train under our bar, from the last complete checkpoint if there is one."""
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(ProgressBar())
    trainer.train(resume_from_checkpoint=find_checkpoint(checkpoints))


def find_checkpoint(folder: Path) -> str | None:
    """The last complete trainer checkpoint under `folder`, or None.

    A checkpoint is complete once its trainer state is there and can be read: trainers write it last.
    """
    found: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            state = json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        found.append((int(state["global_step"]), path))
    return str(max(found)[1]) if found else None


def save_trained(trainer: Trainer, folder: Path, checkpoints: Path) -> None:
    """Save adapter or model as safetensors, and drop what only a resume would need."""
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle with this machine's paths
        shutil.rmtree(checkpoints, ignore_errors=True)


BAR_METRICS = ("loss", "token_accuracy", "hit_reward", "kl")
METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
    "reward": "reward",
    "reward_std": "reward_std",
    "hit": "hit_reward",
    "zero_variance": "zero_variance",
    "rewards/accuracy/mean": "accuracy_reward",
    "rewards/format/mean": "format_reward",
    "kl": "kl",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "truncation",
    "step_time": "step_time",
}


def name_metrics(logs: dict[str, Any]) -> dict[str, float]:
    """The trainer's metrics under our names; the rest stays in TensorBoard."""
    return {ours: float(logs[theirs]) for theirs, ours in METRICS.items() if theirs in logs}
