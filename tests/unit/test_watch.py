"""Long runs: what stops them, what does not, and what they say."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from migrl.errors import UserError
from migrl.pipeline import plan_stages, prepare_stage
from migrl.recipe import AlarmSettings, WatchSettings, load_recipe
from migrl.running.ending import read_ending
from migrl.running.stage import StageContext
from migrl.running.stage_folder import is_working
from migrl.running.watch.alarms import find_alarm, find_broken
from migrl.running.watch.disk import estimate_checkpoint, size_next_checkpoint
from migrl.running.watch.guard import LongRunGuard
from migrl.running.watch.signals import Stopped, read_request, stop_on_signals
from migrl.running.watch.trackers import check_trackers, keep_local, use_trackers
from migrl.running.watch.watchdog import Watchdog
from migrl.training.step_log import ProgressLines, StepLog, name_metrics
from migrl.training.trainer import train_resuming

ROOT = Path(__file__).resolve().parents[2]
TEST = ROOT / "reproduce" / "recipes" / "test.yaml"
SOUND = {"loss": 0.0, "grad_norm": 0.1, "kl": 0.02, "hit_reward": 0.4, "truncation": 0.01, "zero_variance": 0.2}


def make_rows(*values: float, name: str, sound: int = 20) -> list[dict[str, Any]]:
    """A log of `sound` sound steps, then one step for each value of a metric."""
    rows = [SOUND] * sound + [{**SOUND, name: value} for value in values]
    return [{"step": step, **row} for step, row in enumerate(rows, 1)]


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("kl", [1.5] * 11, ("kl over the last 20 steps", "median 1.5", "limit 1", "grpo.alarms.kl")),
        (
            "truncation",
            [0.9] * 12,
            (": mean 0.544", "limit 0.5", "grpo.max_new_tokens", "grpo.alarms.truncation"),
        ),
        ("zero_variance", [1.0] * 18, (": mean 0.92", "limit 0.9", "grpo.alarms.zero_variance")),
        ("sampling_difference", [0.3] * 20, ("mean 0.3", "limit 0.1", "grpo.engine=transformers")),
        ("hit_reward", [0.0] * 16, ("mean 0.08", "limit 0.25 of the best window's 0.4", "grpo.alarms.collapse")),
    ],
)
def test_an_alarm_names_metric_values_limit_and_the_key_to_change(
    name: str, values: list[float], words: tuple[str, ...]
) -> None:
    rows = make_rows(*values, name=name)
    text = find_alarm(rows, AlarmSettings())
    assert text is not None and f"alarm at step {len(rows)}" in text
    assert all(word in text for word in words), text
    assert find_alarm(rows[:-1], AlarmSettings()) is None, "it comes at the first step that gives it"
    key = "collapse" if name == "hit_reward" else name
    assert find_alarm(rows, AlarmSettings.model_validate({key: None})) is None


def test_one_step_of_enormous_kl_a_short_log_and_a_start_from_nothing_are_no_alarm() -> None:
    assert find_alarm(make_rows(5e8, name="kl"), AlarmSettings()) is None
    assert find_alarm(make_rows(*[9.0] * 19, name="kl", sound=0), AlarmSettings()) is None
    assert find_alarm(make_rows(*[0.0] * 40, name="hit_reward", sound=2), AlarmSettings()) is None


def test_steps_without_a_value_are_passed_over_and_hide_no_alarm() -> None:
    rows = make_rows(*[5.0, float("nan"), None] * 11, name="kl")
    text = find_alarm(rows, AlarmSettings())
    assert text is not None and "median 5" in text and "nan" not in text, text
    assert find_alarm(make_rows(*[float("nan"), None] * 20, name="kl"), AlarmSettings()) is None
    assert find_alarm(make_rows(*[float("inf")] * 11, name="kl"), AlarmSettings()) is not None


def test_what_is_no_number_is_told_at_once() -> None:
    for name, value in (("loss", float("nan")), ("grad_norm", float("inf"))):
        text = find_broken({"step": 7, **SOUND, name: value})
        assert text is not None and text.startswith(f"{name} is {value} at step 7")
    assert find_broken({"step": 7, **SOUND}) is None


def test_no_setting_of_long_runs_is_part_of_a_stage_key() -> None:
    changes = ["grpo.alarms.kl=null", "grpo.alarms.window=3", "watch.stall_minutes=null", "trackers=[wandb]"]
    before, after = load_recipe(TEST), load_recipe(TEST, changes)
    assert before != after
    for stage in plan_stages(before):
        home = Path("runs")
        assert prepare_stage(stage, before, home).sections == prepare_stage(stage, after, home).sections


def watch(folder: Path, **settings: Any) -> tuple[Watchdog, list[int]]:
    """A watchdog of process 3 that looks only when it is told to, and the codes with which it ended the process."""
    codes: list[int] = []
    return Watchdog(folder, WatchSettings(**settings), 3, codes.append), codes


def test_a_process_that_stands_still_leaves_its_stacks_and_is_ended_after_twice_the_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watchdog, codes = watch(tmp_path, stall_minutes=3, load_minutes=None)
    watchdog.change("stall_minutes")
    for looks, stacks in ((20, 0), (1, 1), (19, 1)):
        for _ in range(looks):
            watchdog.look()
        assert len(list(tmp_path.glob(".stacks-3-*.txt"))) == stacks and not codes
    watchdog.look()
    assert codes == [75]
    stacks = (tmp_path / ".stacks-3-1.txt").read_text()
    assert "test_watch.py" in stacks and "watchdog.py" in stacks and (tmp_path / ".stacks-3-2.txt").exists()
    first, last = capsys.readouterr().err.strip().splitlines()
    assert "no progress in process 3 for 3 minutes" in first and str(tmp_path / ".stacks-3-1.txt") in first
    stopped = read_ending(tmp_path, "sft")
    assert isinstance(stopped, Stopped) and stopped.exit_code == 75 and str(stopped) == last
    assert "for 6 minutes" in last and "watch.stall_minutes" in last


def test_loading_and_steps_have_limits_of_their_own_and_each_progress_begins_anew(tmp_path: Path) -> None:
    watchdog, codes = watch(tmp_path, stall_minutes=5, load_minutes=1)
    watchdog.change("stall_minutes")
    for _ in range(3):
        for _ in range(100):  # a look is a twentieth of the shorter limit: five minutes
            watchdog.look()
        watchdog.tick()
    assert not list(tmp_path.iterdir())
    watchdog.change("load_minutes")  # as when the steps are done and the result is to be saved
    for _ in range(41):
        watchdog.look()
    assert codes == [75]
    assert "for 2 minutes of loading or saving" in str(read_ending(tmp_path, "sft"))
    quiet, codes = watch(tmp_path, stall_minutes=None, load_minutes=1, stall_action="report")
    quiet.change("stall_minutes")
    for _ in range(100):
        quiet.look()
    quiet.change("load_minutes")
    for _ in range(61):
        quiet.look()
    assert codes == [] and len(list(tmp_path.glob(".stacks-3-*.txt"))) == 5, "to report is not to stop"


def test_where_the_disk_is_gone_the_stacks_go_to_stderr_and_the_process_ends_all_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    watchdog, codes = watch(tmp_path / "gone", stall_minutes=1)
    for _ in range(1300):
        watchdog.look()
    assert codes == [75]
    told = capfd.readouterr().err
    assert "No such file" in told and "test_watch.py" in told


STANDING_STILL = """
import ctypes, sys
from pathlib import Path
from migrl.recipe import WatchSettings
from migrl.running.watch.watchdog import watch_loading, watch_progress

def stand_still():
    (ctypes.PyDLL if sys.argv[2] == "held" else ctypes.CDLL)(None).sleep(600)  # PyDLL keeps Python's lock

settings = WatchSettings(stall_minutes=0.01)
with watch_loading(Path(sys.argv[1]), settings), watch_progress(Path(sys.argv[1]), settings) as tick:
    tick()
    stand_still()
"""


@pytest.mark.parametrize(("how", "code"), [("free", 75), ("held", 1)])
def test_a_process_ends_whether_or_not_its_code_keeps_pythons_lock(how: str, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STANDING_STILL, tmp_path, how]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    stacks = (tmp_path / ".stacks-0-1.txt").read_text() if how == "free" else ended.stderr
    assert "stand_still" in stacks


def test_a_signal_asks_the_stage_to_stop_and_a_finished_stage_keeps_the_next_from_starting(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    (tmp_path / ".stop-SIGTERM").touch()  # from a run that was killed
    with pytest.raises(Stopped, match="stopped by SIGUSR1 after stage sft, which is finished") as caught:
        with stop_on_signals(tmp_path, "sft"):
            assert read_request(tmp_path) is None
            os.kill(os.getpid(), signal.SIGUSR1)
            assert read_request(tmp_path) == signal.SIGUSR1
    assert caught.value.exit_code == 138
    assert read_request(tmp_path) is None
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1))


class Word(nn.Module):
    """The smallest model that a trainer takes: one embedding, whose weights are its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 1)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.embedding(ids).square().mean()}


class AtStep(TrainerCallback):
    """Does something to the model or its files at the end of a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and self.act:
            self.act(kwargs["model"])


class AskWhileSaving(TrainerCallback):
    """Leaves SIGTERM's request after a checkpoint was begun."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        (self.home / ".stop-SIGTERM").touch()


def list_losses(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The metrics of this model are its loss; the alarm of grpo is put on that."""
    return [{"step": row["step"], "kl": row["loss"]} for row in history if "loss" in row]


def train(
    home: Path, alarms: AlarmSettings | None = None, act: Any = None, callbacks: Any = (), trackers: str = ""
) -> Trainer:
    """Train eight steps of one sample with a checkpoint every third, as stages do."""
    folder = home / "grpo.partial"
    folder.mkdir(exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=8,
        per_device_train_batch_size=1,
        logging_steps=1,
        save_steps=3,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    context = StageContext("grpo", load_recipe(TEST, [f"trackers=[{trackers}]"]), {}, folder)
    use_trackers(arguments, context)
    guard = LongRunGuard(folder, WatchSettings(), alarms, list_losses, 0)
    rows = [{"ids": index % 4} for index in range(20)]  # so that the last step is not the end of an epoch
    trainer = Trainer(Word(), arguments, train_dataset=rows, callbacks=[AtStep(2, act), *callbacks])
    trainer.add_callback(guard)
    train_resuming(trainer, context)
    return trainer


def list_checkpoints(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("grpo.partial/checkpoints/*"))


def test_a_request_ends_the_training_after_its_step_with_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 2, checkpoint saved; start again") as caught:
        train(tmp_path, act=lambda model: (tmp_path / ".stop-SIGTERM").touch())
    assert caught.value.exit_code == 143
    assert list_checkpoints(tmp_path) == ["checkpoint-2"]


def test_a_request_that_came_while_loading_or_saving_costs_no_further_step(tmp_path: Path) -> None:
    (tmp_path / ".stop-SIGUSR1").touch()
    with pytest.raises(Stopped, match="stopped by SIGUSR1 after loading, before any step; start again"):
        train(tmp_path)
    assert list_checkpoints(tmp_path) == []
    (tmp_path / ".stop-SIGUSR1").unlink()
    ask = AskWhileSaving(tmp_path)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 3, checkpoint saved; start again"):
        train(tmp_path, callbacks=[ask])
    assert list_checkpoints(tmp_path) == ["checkpoint-3"]


def test_an_alarm_ends_the_training_with_a_checkpoint_and_still_stands_at_the_next_start(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=r"alarm at step 4: kl .* grpo\.alarms\.kl"):
            train(tmp_path, AlarmSettings(window=4, kl=1e-9))
        assert list_checkpoints(tmp_path) == ["checkpoint-3", "checkpoint-4"]
    assert train(tmp_path, AlarmSettings(window=4, kl=1e9)).state.global_step == 8


def test_a_training_that_was_killed_after_its_last_step_takes_no_other(tmp_path: Path) -> None:
    trained = train(tmp_path)
    again = train(tmp_path)
    assert again.state.global_step == trained.state.global_step == 8
    assert torch.equal(again.model.embedding.weight, trained.model.embedding.weight)


def test_weights_that_are_no_numbers_are_not_saved_even_if_a_checkpoint_is_due(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss is nan at step 3"):
        train(tmp_path, act=lambda model: model.embedding.weight.data.fill_(float("nan")))
    assert list_checkpoints(tmp_path) == []


def test_a_checkpoint_without_room_is_not_begun_and_the_sound_one_is_kept(tmp_path: Path) -> None:
    def pretend_large_checkpoint(model: nn.Module) -> None:
        folder = tmp_path / "grpo.partial/checkpoints/checkpoint-1"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").touch()
        with (folder / "states").open("wb") as file:
            file.truncate(10**13)  # sparse: it says 10 TB and takes none

    with pytest.raises(UserError, match=r"checkpoint of step 3: .* GB free, 10500\.000 GB needed.*resumes"):
        train(tmp_path, act=pretend_large_checkpoint)
    assert list_checkpoints(tmp_path) == ["checkpoint-1"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_disk_that_fills_up_stops_the_training_before_a_checkpoint_is_torn(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mount is not allowed here")

    def fill(model: nn.Module) -> None:
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))

    try:
        with pytest.raises(UserError, match=r"no room for the checkpoint of step 3: 0\.000 GB free, .* it resumes"):
            train(disk, act=fill)
        assert list_checkpoints(disk) == []
        (disk / "filler").unlink()
        assert train(disk).state.global_step == 8
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_torn_checkpoint_does_not_tell_how_much_room_the_next_one_needs(tmp_path: Path) -> None:
    model = nn.Linear(300, 300)
    estimate = size_next_checkpoint(tmp_path, model, adapter=False)
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1/model.safetensors").write_bytes(bytes(5))  # the disk was full after these
    assert size_next_checkpoint(tmp_path, model, adapter=False) == estimate > 300 * 300 * 4
    (tmp_path / "checkpoint-1/trainer_state.json").write_bytes(bytes(5))
    assert size_next_checkpoint(tmp_path, model, adapter=False) == 10


def test_a_first_checkpoint_is_estimated_no_smaller_than_it_is(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300))
    model[0].requires_grad_(False)
    optimizer = torch.optim.AdamW(model[1].parameters())
    model(torch.ones(1, 300)).sum().backward()
    optimizer.step()
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "whole")
    torch.save((model[1].state_dict(), optimizer.state_dict()), tmp_path / "adapter")
    for name in ("whole", "adapter"):
        written = (tmp_path / name).stat().st_size
        assert written <= estimate_checkpoint(model.parameters(), adapter=name == "adapter") <= 3 * written


def test_a_tracker_that_is_not_installed_is_refused() -> None:
    check_trackers(("tensorboard",))
    with pytest.raises(UserError, match="trackio is not installed; run .uv pip install --overrides"):
        check_trackers(("tensorboard", "trackio"))


def test_trackers_write_into_the_stages_folder_and_send_nothing_whatever_the_environment_says(tmp_path: Path) -> None:
    sending = {"WANDB_MODE": "online", "WANDB_API_KEY": "key", "TRACKIO_SPACE_ID": "some/space", "HOME": "/root"}
    kept = keep_local(sending, tmp_path, ("trackio", "wandb"))
    assert (
        kept["WANDB_MODE"] == "offline"
        and kept["HOME"] == "/root"
        and not {*kept} & {*sending} - {"WANDB_MODE", "HOME"}
    )
    for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR"):
        assert is_working(Path(kept[name]).relative_to(tmp_path)), "no output, so that no digest changes"
    assert "WANDB_MODE" not in keep_local(sending, tmp_path, ("tensorboard",))


def test_tensorboard_and_the_log_go_on_where_a_killed_training_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "grpo.partial"
    for name, value in keep_local({}, partial, ("tensorboard",)).items():
        monkeypatch.setenv(name, value)

    def kill(model: nn.Module) -> None:
        raise KeyboardInterrupt

    killed, log = AtStep(5, kill), StepLog(tmp_path / "log.jsonl")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[killed, log], trackers="tensorboard")
    train(tmp_path, callbacks=[log], trackers="tensorboard")
    logged = EventAccumulator(str(partial / "tensorboard")).Reload().Scalars("train/loss")
    assert sorted(event.step for event in logged) == [1, 2, 3, 4, 4, 5, 6, 7, 8], "what the kill cost was made again"
    values = {event.step: event.value for event in logged}
    assert all(event.value == values[event.step] for event in logged)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, 9)]
    assert [row["loss"] for row in rows] == pytest.approx([values[step] for step in range(1, 9)])


def test_a_training_tells_a_log_where_it_is_and_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = count(step=60.0)
    train(tmp_path, callbacks=[ProgressLines("cold start", interval=240, clock=lambda: next(minutes))])
    told = [line for line in capsys.readouterr().err.splitlines() if ": step " in line]
    assert [re.sub(r"loss \d\.\d{3}", "loss L", line) for line in told[:2]] == [
        "cold start: step 4 of 8, loss L, 4 min 0 s left",
        "cold start: step 8 of 8, loss L, took 10 min 0 s",
    ]
    assert re.fullmatch(r"grpo: step 8 of 8, loss \d\.\d{3}, took \d+ s", told[2]), "the stage's own"


def test_metrics_of_trl_that_are_missing_in_a_step_do_not_end_it() -> None:
    assert name_metrics({"loss": 1.0, "kl": None, "other": 2.0}) == {"loss": 1.0}
