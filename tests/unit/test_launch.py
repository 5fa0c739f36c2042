"""How processes are started: settings, what a failure is told as, and which checkpoint a start goes on from."""

import json
import signal as signals
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch.distributed import Backend, distributed_c10d

from migrl.errors import OutOfMemory, UserError
from migrl.files import write_json
from migrl.plan.advice import explain_out_of_memory
from migrl.recipe import WatchSettings, dump_whole, load_recipe
from migrl.running.ending import ENDING, leave_ending, read_ending
from migrl.running.launch import check_gpus, choose_gpu, describe_context, explain_failure, find_end
from migrl.running.stage import StageContext
from migrl.running.watch.signals import Stopped
from migrl.running.worker import explain_error, read_context
from migrl.training.trainer import set_patience

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "reproduce" / "recipes"
MACHINES = ("launch.machines=2", "launch.starter=[srun]")


@pytest.mark.parametrize(("visible", "chosen"), [(None, "0"), ("3,5", "3"), ("GPU-8ab,GPU-9cd", "GPU-8ab"), ("", "")])
def test_a_process_alone_trains_on_the_first_gpu_that_it_may_see(visible: str | None, chosen: str) -> None:
    assert choose_gpu(visible) == chosen


def test_processes_wait_for_each_other_until_the_watchdog_has_acted() -> None:
    for settings in ([], ["watch.stall_minutes=60"], ["watch.load_minutes=90"]):
        watch = load_recipe(RECIPES / "paper.yaml", settings).watch
        assert watch.stall_minutes and watch.load_minutes
        assert watch.collective_seconds > 2 * 60 * max(watch.stall_minutes, watch.load_minutes)
    assert WatchSettings(stall_minutes=1, load_minutes=None).collective_seconds == 1800, "torch's own"


def test_every_group_of_processes_waits_as_long_not_only_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        monkeypatch.setattr(distributed_c10d, name, getattr(distributed_c10d, name))
    set_patience(WatchSettings())
    for backend in ("nccl", "gloo"):  # what torch's new_group asks for
        assert (
            distributed_c10d._get_default_timeout(Backend(backend)).total_seconds()
            == WatchSettings().collective_seconds
        )


def test_launchers_that_were_ended_are_a_stop_unless_a_process_had_failed(tmp_path: Path) -> None:
    assert find_end(tmp_path) is None
    (tmp_path / ".ended").touch()
    assert find_end(tmp_path) == signals.SIGTERM
    write_json(tmp_path / ".failure-1.json", {"rank": 1, "exit_code": -15, "time": 0})
    assert find_end(tmp_path) == signals.SIGTERM
    write_json(tmp_path / ".failure-0.json", {"rank": 0, "exit_code": -9, "time": 0})
    assert find_end(tmp_path) is None


def test_of_several_processes_the_first_ending_is_heard_and_a_torn_one_is_none(tmp_path: Path) -> None:
    assert read_ending(tmp_path, "sft") is None
    leave_ending(tmp_path, UserError("the cause"))
    leave_ending(tmp_path, Stopped("for its sake", 75))
    found = read_ending(tmp_path, "sft")
    assert isinstance(found, UserError) and str(found) == "the cause"
    (tmp_path / ENDING).write_text("")
    assert read_ending(tmp_path, "sft") is None


def test_processes_must_spread_evenly_over_machines_and_need_a_starter() -> None:
    with pytest.raises(UserError, match="legal values: 1, 3"):
        load_recipe(RECIPES / "test.yaml", ["launch.processes=3", *MACHINES])
    with pytest.raises(UserError, match="launch.starter is the command"):
        load_recipe(RECIPES / "test.yaml", ["launch.processes=2", "launch.machines=2"])
    with pytest.raises(UserError, match="launch.starter is the command"):
        load_recipe(RECIPES / "test.yaml", ["launch.starter=[srun]"])


def test_a_context_brings_every_setting_to_the_processes_though_keys_leave_some_out(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "test.yaml", ["launch.processes=2", *MACHINES, "watch.stall_minutes=7"])
    context = StageContext("sft", recipe, {"fetch": tmp_path / "fetch"}, tmp_path)
    write_json(tmp_path / "context.json", describe_context(context))
    assert read_context(tmp_path / "context.json").recipe == recipe
    assert recipe.model_dump(mode="json")["launch"] == {"processes": 2}
    assert json.loads(json.dumps(dump_whole(recipe)))["launch"]["starter"] == ["srun"]


def test_more_processes_than_gpus_are_refused_before_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    check_gpus(8)  # no GPU at all: processes share the processor
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_gpus(2)
    with pytest.raises(UserError, match="8 processes on this machine, which has 2 GPUs"):
        check_gpus(8)


@pytest.mark.parametrize(
    ("exit_codes", "text"),
    [
        ({}, "ended with code 7"),
        ({1: -9, 0: -15}, "process 1 was ended by SIGKILL"),
        ({0: 3}, "process 0 ended with code 3"),
    ],
)
def test_a_failure_names_the_process_that_failed_first(tmp_path: Path, exit_codes: dict[int, int], text: str) -> None:
    for age, (rank, code) in enumerate(exit_codes.items()):
        write_json(tmp_path / f".failure-{rank}.json", {"rank": rank, "exit_code": code, "time": age})
    assert text in explain_failure("migrl.stages.grpo", tmp_path, 7)


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        (
            "grpo_no_cold_start",
            "set one of grpo.per_device_train_batch_size=4, grpo.parallel=zero3, "
            "grpo.vllm_gpu_memory_utilization=0.25, grpo.engine=transformers, grpo.max_pixels=401408 (changes",
        ),
        ("merge", "GPU 0 has 2 GiB free); use GPUs"),
        ("evaluate", "set one of vllm.max_num_seqs=128, vllm.tensor_parallel_size=2, evaluate.engine=transformers: "),
        ("pass_rates", "set one of vllm.max_num_seqs=128, vllm.tensor_parallel_size=2, select.engine=transformers: "),
    ],
)
def test_a_gpu_out_of_memory_is_told_with_the_keys_to_lower(tmp_path: Path, stage: str, change: str) -> None:
    context = StageContext(stage, load_recipe(RECIPES / "paper.yaml", []), {}, tmp_path)
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 2 GiB free. Including non-PyTorch memory, ..."
    )
    found = explain_error(error, context)
    assert found is not None
    leave_ending(tmp_path, found)
    left = read_ending(tmp_path, stage)
    assert isinstance(left, OutOfMemory) and str(left) == str(found)
    text = explain_out_of_memory(stage, context.recipe, left.said)
    assert text.startswith(f"{stage}: the GPU ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
    assert "non-PyTorch" not in text and change in text
    assert explain_error(ValueError("a defect"), context) is None


def test_the_slurm_example_is_sound_shell_and_names_real_settings() -> None:
    script = ROOT / "reproduce/launch/slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    lines = script.read_text().partition("# In the background")[0]
    environment = {"PATH": "/usr/bin:/bin", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "64"}
    command = ["bash", "-c", lines + "printf '%s\\n' \"${settings[@]}\""]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    recipe = load_recipe(RECIPES / "paper.yaml", printed.splitlines())
    assert (recipe.launch.processes, recipe.launch.machines, recipe.launch.starter[0]) == (16, 2, "srun")
    assert "--cpus-per-task=64" in recipe.launch.starter


@pytest.mark.parametrize(
    ("signal", "code", "restarts", "requeued"),
    [("USR1", 138, 30, True), ("TERM", 143, 0, False), ("TERM", 75, 9, True), ("TERM", 75, 10, False)],
)
def test_the_slurm_example_hands_signals_on_and_queues_again_only_what_was_asked_to_stop(
    signal: str, code: int, restarts: int, requeued: bool, tmp_path: Path
) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    programs = {
        # As migrl does: it goes on for a moment, then ends with the code of the signal.
        ".venv/bin/migrl": f'trap "sleep 0.3; exit {code}" {signal}\ntouch ready\nwhile true; do sleep 0.05; done',
        "scontrol": 'echo "$@" > requeued',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "7"}
    environment["SLURM_RESTART_COUNT"] = str(restarts)
    script = subprocess.Popen(["bash", ROOT / "reproduce/launch/slurm.sh"], cwd=tmp_path, env=environment)
    while not (tmp_path / "ready").exists():
        assert script.poll() is None
        time.sleep(0.02)
    script.send_signal(getattr(signals, f"SIG{signal}"))
    assert script.wait(timeout=1800) == (0 if requeued else code)
    assert (tmp_path / "requeued").exists() == requeued


@pytest.mark.parametrize("name", ["none", "ddp", "zero2", "zero3"])
def test_every_launch_file_is_one_that_accelerate_reads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    data = yaml.safe_load((ROOT / f"reproduce/launch/{name}.yaml").read_text())
    config = load_config_from_file(str(ROOT / f"reproduce/launch/{name}.yaml"))
    stage = data.get("deepspeed_config", {}).get("zero_stage")
    assert (stage is None) == (name in ("none", "ddp")) and str(config.mixed_precision) == "no"
    assert stage is None or name == f"zero{stage}"
