"""The trainer callback of long runs: progress, requests to stop, alarms, and room before each checkpoint.

What one process finds, all act on at the same step: a rank that stops alone leaves the others waiting for it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar

from accelerate.utils import gather_object
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from migrl.errors import UserError
from migrl.recipe import AlarmSettings, WatchSettings
from migrl.running.watch.alarms import Rows, find_alarm, find_broken
from migrl.running.watch.disk import explain_missing_room, size_next_checkpoint
from migrl.running.watch.signals import Stopped, make_stopped, read_request
from migrl.running.watch.watchdog import watch_progress

T = TypeVar("T")


def share_first_message(message: T | None) -> T | None:
    """All-gather one optional message per rank; return the first. Collective: every rank must call it."""
    return next((told for told in gather_object([message]) if told is not None), None)


class AlreadyTrained(Exception):
    """Training would go on from its last checkpoint. The trainer knows no such case and would take another step."""


class LongRunGuard(TrainerCallback):
    """Ends a run with a reason: `Stopped` if asked to, `UserError` for an alarm or a full disk, raised by `train()`.

    It acts when a step's metrics are logged, which is after each (`logging_steps=1`) and before its checkpoint. It must
    be the last callback, so that logs are closed when it raises at the end of the training. `list_steps` makes a row
    per step of a trainer's log.
    """

    def __init__(
        self,
        folder: Path,
        watch: WatchSettings,
        alarms: AlarmSettings | None,
        list_steps: Callable[[Rows], Rows],
        rank: int,
    ) -> None:
        self.folder, self.watch, self.alarms, self.list_steps, self.rank = folder, watch, alarms, list_steps, rank
        self.tick: Callable[[], None] = lambda: None
        self.ending: UserError | Stopped | None = None

    @contextmanager
    def watching(self, model: PreTrainedModel | PeftModel) -> Iterator[None]:
        """Watch what happens inside for progress: steps, and forward passes, of which a step's rollouts have many."""
        with watch_progress(self.folder, self.watch, self.rank) as self.tick:
            # The embedding, for every forward pass goes through it, whatever is wrapped around the model.
            handle = model.get_input_embeddings().register_forward_hook(lambda *_: self.tick())
            try:
                yield
            finally:
                handle.remove()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        alarm = self.find_alarm(state)
        if alarm is not None:  # unchanged since it stopped the run: a scheduler must not burn hours on restarts
            raise UserError(alarm)
        if state.global_step >= state.max_steps:
            raise AlreadyTrained
        request = self.find_request()
        if request is not None:
            raise make_stopped(request, "loading, before any step")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        self.tick()
        if not logs or "loss" not in logs or model is None:
            return
        broken = share_first_message(find_broken({**logs, "step": state.global_step}))
        alarm = broken or share_first_message(self.find_alarm(state))
        if alarm is not None:
            self.ending = UserError(alarm)
            control.should_training_stop, control.should_save = True, broken is None
        elif self.stop_if_requested(state, control):
            control.should_save = True
        if control.should_save:
            self.check_room(args, state, model)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.tick()
        self.stop_if_requested(state, control)  # it may have come while that was written

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.ending is not None:
            raise self.ending

    def stop_if_requested(self, state: TrainerState, control: TrainerControl) -> bool:
        """End the training if that was asked for, and say whether; the caller sees to the checkpoint."""
        if self.ending is not None or state.global_step >= state.max_steps:
            return False  # it ends already; if it is done, the pipeline stops after the stage
        request = self.find_request()
        if request is None:
            return False
        self.ending = make_stopped(request, f"step {state.global_step}, checkpoint saved")
        control.should_training_stop = True
        return True

    def find_request(self) -> Signals | None:
        """The signal that asks the run to stop, the same in all processes; every process must ask."""
        return share_first_message(read_request(self.folder.parent))

    def find_alarm(self, state: TrainerState) -> str | None:
        """The alarm that the steps logged so far, also before a resume, give."""
        return None if self.alarms is None else find_alarm(self.list_steps(state.log_history), self.alarms)

    def check_room(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        """Refuse to begin a checkpoint that the disk cannot hold.

        Raises:
            UserError: in every process, if one of them finds too little room.
        """
        assert args.output_dir is not None  # both trainers set it
        checkpoints = Path(args.output_dir)
        need = size_next_checkpoint(checkpoints, model, adapter=isinstance(model, PeftModel))
        checkpoints.mkdir(parents=True, exist_ok=True)
        missing = share_first_message(explain_missing_room(checkpoints, state.global_step, need))
        if missing is not None:
            raise UserError(missing)
