"""How processes are started: settings, what a failure is told as, and which checkpoint a start goes on from."""

import json
import signal as signals
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml

from migrl.errors import UserError
from migrl.evidence import StageContext, write_json
from migrl.launch import check_gpus, describe_context, explain_failure, read_context
from migrl.models import load_processor
from migrl.recipe import dump_whole, load_recipe
from migrl.training import find_checkpoint
from migrl.vllm_rollouts import link_model, make_vllm_arguments

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "reproduce" / "recipes"
MACHINES = ("launch.machines=2", "launch.starter=[srun]")


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


def write_checkpoint(folder: Path, step: int, ranks: list[str]) -> None:
    folder = folder / f"checkpoint-{step}"
    folder.mkdir()
    write_json(folder / "trainer_state.json", {"global_step": step})
    for rank in ranks:
        torch.save({"cpu": torch.get_rng_state()}, folder / f"rng_state{rank}.pth")


def test_a_checkpoint_counts_once_every_process_has_written_its_random_state(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 2, ["_0", "_1"])
    write_checkpoint(tmp_path, 4, ["_0"])
    assert find_checkpoint(tmp_path, 2) == str(tmp_path / "checkpoint-2")
    torn = tmp_path / "checkpoint-4/rng_state_1.pth"
    torn.write_bytes((tmp_path / "checkpoint-2/rng_state_1.pth").read_bytes()[:100])
    assert find_checkpoint(tmp_path, 2) == str(tmp_path / "checkpoint-2")
    assert find_checkpoint(tmp_path, 1) is None
    write_checkpoint(tmp_path, 6, [""])
    assert find_checkpoint(tmp_path, 1) == str(tmp_path / "checkpoint-6")


def test_vllm_reads_pictures_by_the_recipes_limits_and_never_samples_a_placeholder(tmp_path: Path) -> None:
    start = ROOT / "reproduce/tiny_base"
    processor = load_processor(start, min_pixels=3136, max_pixels=9600)
    before = {path.name: path.read_bytes() for path in start.iterdir()}
    folder = link_model(start, tmp_path / "start", processor)
    size = json.loads((folder / "preprocessor_config.json").read_text())["size"]
    assert size == {"shortest_edge": 3136, "longest_edge": 9600}
    assert (folder / "model.safetensors").is_symlink()
    assert {path.name: path.read_bytes() for path in start.iterdir()} == before
    arguments = make_vllm_arguments(load_recipe(RECIPES / "test.yaml").grpo, processor)
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert arguments["use_vllm"] and arguments["generation_kwargs"]["logit_bias"][pad] == -100


def test_the_slurm_example_is_sound_shell_and_names_real_settings() -> None:
    script = ROOT / "reproduce/launch/slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text().replace("$processes", "16").replace("$SLURM_JOB_NUM_NODES", "2")
    settings = [part for part in text.split('"') if part.startswith("launch.")]
    recipe = load_recipe(RECIPES / "paper.yaml", settings)
    assert (recipe.launch.processes, recipe.launch.machines, recipe.launch.starter[0]) == (16, 2, "srun")


@pytest.mark.parametrize(("signal", "code", "requeued"), [("USR1", 138, True), ("TERM", 143, False)])
def test_the_slurm_example_hands_signals_on_and_queues_again_only_what_was_asked_to_stop(
    signal: str, code: int, requeued: bool, tmp_path: Path
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
    script = subprocess.Popen(["bash", ROOT / "reproduce/launch/slurm.sh"], cwd=tmp_path, env=environment)
    while not (tmp_path / "ready").exists():
        assert script.poll() is None
        time.sleep(0.02)
    script.send_signal(getattr(signals, f"SIG{signal}"))
    assert script.wait(timeout=60) == (0 if requeued else code)
    assert (tmp_path / "requeued").exists() == requeued


@pytest.mark.parametrize("name", ["none", "ddp", "zero2", "zero3"])
def test_every_launch_file_is_one_that_accelerate_reads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    data = yaml.safe_load((ROOT / f"reproduce/launch/{name}.yaml").read_text())
    config = load_config_from_file(str(ROOT / f"reproduce/launch/{name}.yaml"))
    stage = data.get("deepspeed_config", {}).get("zero_stage")
    assert (stage is None) == (name in ("none", "ddp")) and str(config.mixed_precision) == "no"
    assert stage is None or name == f"zero{stage}"
