"""What a training tells of its steps: a row each in `log.jsonl`, and for the eye a bar, or lines in a log."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from migrl.files import write_jsonl
from migrl.progress import LINE_SECONDS, Lines

SHOWN_METRICS = ("loss", "token_accuracy", "hit_reward", "kl")
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
    "kl": "kl",
    "completions/mean_length": "completion_length",
    "completions/clipped_ratio": "truncation",
    "sampling/sampling_logp_difference/mean": "sampling_difference",
    "sampling/sampling_logp_difference/max": "largest_sampling_difference",
    "sampling/importance_sampling_ratio/mean": "importance_ratio",
}


class StepLog(TrainerCallback):
    """`log.jsonl`, a row per step, in the main process.

    What was before this start comes from the trainer's state, which checkpoints carry: after any kill none is missing
    or twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        write_jsonl(self.path, list_steps(state.log_history))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        write_jsonl(self.path, list_steps(state.log_history[-1:]), append=True)


def list_steps(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per step of what a trainer logged, with our names; its summary at the end is none."""
    return [{"step": row["step"], **name_metrics(row)} for row in history if "loss" in row]


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
            self.training_bar.set_postfix(pick_figures(logs))


class ProgressLines(TrainerCallback):
    """What the bar shows, in plain lines for a log: at most one in `interval` seconds, and one at the end."""

    def __init__(
        self, name: str, *, interval: float = LINE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.start = partial(Lines, name, word="step ", interval=interval, clock=clock)
        self.lines: Lines | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.lines = self.start(state.max_steps, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self.lines is not None and logs:
            figures = (f"{name} {value}" for name, value in pick_figures(logs).items())
            self.lines.tell(state.global_step, ", ".join(figures))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.lines is not None:
            self.lines.finish()


def pick_figures(logs: dict[str, Any]) -> dict[str, str]:
    """The few metrics that are shown while a training goes on."""
    metrics = name_metrics(logs)
    return {name: f"{metrics[name]:.3f}" for name in SHOWN_METRICS if name in metrics}


def name_metrics(logs: dict[str, Any]) -> dict[str, float]:
    """The trainer's metrics under our names, without those it could not measure; the rest stays in the trackers.

    Each reward's mean is called as trl does, such as `rewards/format`.
    """
    means = [key for key in logs if key.startswith("rewards/") and key.endswith("/mean")]
    # Sorted, as a resumed training finds them in the state that it reads back: the same row, byte for byte.
    names = METRICS | {key: key.removesuffix("/mean") for key in sorted(means)}
    return {ours: float(logs[theirs]) for theirs, ours in names.items() if logs.get(theirs) is not None}
