"""Long runs: what stops them, what does not, and what they say."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from migrl.errors import UserError
from migrl.pipeline import plan_stages, prepare_stage
from migrl.recipe import AlarmSettings, WatchSettings, load_recipe
from migrl.running.stage import StageContext
from migrl.running.watch.alarms import find_alarm, find_broken
from migrl.running.watch.disk import estimate_checkpoint, size_next_checkpoint
from migrl.running.watch.guard import LongRunGuard
from migrl.running.watch.signals import Stopped, read_request, read_stopped, stop_on_signals
from migrl.running.watch.trackers import check_trackers, describe_run
from migrl.training.trainer import name_metrics, train_resuming

ROOT = Path(__file__).resolve().parents[2]
TEST = ROOT / "reproduce" / "recipes" / "test.yaml"
SOUND = {"loss": 0.0, "grad_norm": 0.1, "kl": 0.02, "hit_reward": 0.4, "truncation": 0.01, "zero_variance": 0.2}


def make_rows(*values: float, name: str, sound: int = 20) -> list[dict[str, Any]]:
    """A log of `sound` sound steps, then one step for each value of a metric."""
    rows = [SOUND] * sound + [{**SOUND, name: value} for value in values]
    return [{"step": step, **row} for step, row in enumerate(rows, 1)]


def test_no_default_alarm_would_have_stopped_the_tiny_recipe_at_any_step() -> None:
    rows = [json.loads(line) for line in (ROOT / "results/tiny/grpo_log.jsonl").read_text().splitlines()]
    assert len(rows) == 60 and set(SOUND) <= rows[0].keys()
    strict = AlarmSettings(kl=0.5, collapse=0.5, truncation=0.25, zero_variance=0.45)  # twice as strict as the defaults
    for settings in (AlarmSettings(), strict):
        assert [find_alarm(rows[:end], settings) for end in range(1, 61)] == [None] * 60


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


STALLING = """
import ctypes, sys, time
from pathlib import Path
from migrl.recipe import WatchSettings
from migrl.running.watch.watchdog import watch_loading, watch_progress

def stand_still(how):
    if how in ("free", "report", "loading", "saving", "no disk"):
        ctypes.CDLL(None).sleep(3 if how == "report" else 20)
    elif how == "held":
        ctypes.PyDLL(None).sleep(20)  # keeps Python's lock
    else:
        for _ in range(30):
            time.sleep(0.1)
            tick()

folder, how = Path(sys.argv[1]), sys.argv[2]
action = "report" if how == "report" else "stop"
short, long = 1.2 / 60, 30
slow = how in ("loading", "saving", "stepping")  # to be stopped while it loads or saves, not while it has steps
settings = WatchSettings(
    stall_minutes=None if slow else short, load_minutes=short if slow else long, stall_action=action
)
with watch_loading(folder, settings, rank=3):
    if how == "loading":
        stand_still(how)
    with watch_progress(folder, settings, rank=3) as tick:
        tick()
        if how == "no disk":
            folder.rename(folder.with_name("gone"))
        if how == "stepping":
            time.sleep(3)  # longer than loading may take
        elif how != "saving":
            stand_still(how)
    if how == "saving":
        stand_still(how)
    if how == "no disk":
        raise SystemExit("it went on")
"""


def test_a_stage_that_stands_still_leaves_its_stacks_and_one_that_moves_or_was_suspended_does_not(
    tmp_path: Path,
) -> None:
    processes = {}
    for how in ("free", "held", "report", "moving", "suspended", "loading", "saving", "stepping", "no disk"):
        (tmp_path / how).mkdir()
        command = [sys.executable, "-c", STALLING, tmp_path / how, how]
        processes[how] = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "suspended").glob(".stacks*")):
        time.sleep(0.05)
    processes["suspended"].send_signal(signal.SIGSTOP)
    time.sleep(2)
    processes["suspended"].send_signal(signal.SIGCONT)
    told = {how: process.communicate(timeout=1800)[1] for how, process in processes.items()}
    codes = {how: process.returncode for how, process in processes.items()}
    stopped_codes = {"free": 75, "held": 1, "loading": 75, "saving": 75, "no disk": 75}
    assert codes == stopped_codes | {"report": 0, "moving": 0, "suspended": 0, "stepping": 0}, told

    free = tmp_path / "free"
    assert {path.name for path in free.iterdir()} >= {".stacks-3-1.txt", ".stacks-3-2.txt", ".stopped.json"}
    stacks = (free / ".stacks-3-1.txt").read_text()
    assert "stand_still" in stacks and "watchdog.py" in stacks, "all threads"
    first, last = told["free"].strip().splitlines()
    assert "no progress in process 3" in first and str(free / ".stacks-3-1.txt") in first
    stopped = read_stopped(free)
    assert stopped is not None and stopped.exit_code == 75 and str(stopped) == last and "watch.stall_minutes" in last

    assert "stand_still" in (tmp_path / "held/.stacks-3-held.txt").read_text()
    assert "stand_still" in (tmp_path / "report/.stacks-3-1.txt").read_text()
    for how in ("loading", "saving"):
        assert "stand_still" in (tmp_path / how / ".stacks-3-1.txt").read_text()
        stopped = read_stopped(tmp_path / how)
        assert stopped is not None and "of loading or saving" in str(stopped) and "watch.load_minutes" in str(stopped)
    assert "No such file" in told["no disk"] and "stand_still" in told["no disk"], "then they go to its output"
    for how in ("moving", "suspended", "stepping"):
        assert list((tmp_path / how).iterdir()) == [] and told[how] == ""


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


def train(home: Path, alarms: AlarmSettings | None = None, act: Any = None, callbacks: Any = ()) -> Trainer:
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
    # The metrics of this model are its loss; the alarm of grpo is put on that.
    guard = LongRunGuard(folder, WatchSettings(), alarms, lambda row: {"kl": row["loss"]}, 0)
    rows = [{"ids": index % 4} for index in range(20)]  # so that the last step is not the end of an epoch
    trainer = Trainer(Word(), arguments, train_dataset=rows, callbacks=[AtStep(2, act), *callbacks])
    trainer.add_callback(guard)
    train_resuming(trainer, folder / "checkpoints")
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


def test_a_tracker_that_is_not_installed_is_refused_and_none_is_told_a_path() -> None:
    check_trackers(("tensorboard",))
    with pytest.raises(UserError, match="trackio is not installed; run .uv pip install --overrides"):
        check_trackers(("tensorboard", "trackio"))
    recipe = load_recipe(TEST, ["model.path=/somewhere/private", "source.seed=3"])
    for name in ("sft", "grpo_no_cold_start"):
        context = StageContext(name, recipe, {}, Path("/somewhere/private"))
        told = describe_run(context)
        assert "/" not in json.dumps(told) and told[name[:4].rstrip("_")]["learning_rate"] > 0


def test_metrics_of_trl_that_are_missing_in_a_step_do_not_end_it() -> None:
    assert name_metrics({"loss": 1.0, "kl": None, "other": 2.0}) == {"loss": 1.0}
