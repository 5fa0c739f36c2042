"""Training in bfloat16 under DeepSpeed on a GPU: both levels of ZeRO do the same, over NCCL, and resume."""

import math
import os
import signal
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_run import Trainings
from processes import find_rank
from safetensors.torch import load_file

from migrl.errors import UserError
from migrl.files import read_json, read_jsonl
from migrl.running.stage import StageContext
from migrl.stages import sft
from migrl.training.checkpoints import find_checkpoint

# bfloat16 rounds to 2^-8 = 0.4 %, and the levels of ZeRO round at other places: 0.5 % seen on a processor.
TOLERANCE = 0.02
PATIENCE = 600


@pytest.mark.parametrize("name", ["sft", "grpo_no_cold_start"])
def test_both_levels_of_zero_train_the_same_adapters_in_bfloat16(
    name: str, gpu: bool, trained: dict[tuple[str, str], "Future[StageContext]"]
) -> None:
    second, third = (trained[name, level].result(PATIENCE) for level in ("zero2", "zero3"))
    logs = [read_jsonl(context.folder / "log.jsonl") for context in (second, third)]
    assert len(logs[0]) == len(logs[1]) >= 4
    print(*([row["loss"] for row in log] for log in logs), sep="\n")
    if name == "sft":  # in RL a rounding changes what is sampled, and so everything after it
        assert logs[0][0]["loss"] == pytest.approx(logs[1][0]["loss"], rel=TOLERANCE)
    norms = [[row["grad_norm"] for row in log] for log in logs]
    assert all(max(some) > 0 and math.isfinite(sum(some)) for some in norms), norms
    for context in (second, third):
        performance = read_json(context.folder / "progress" / "performance.json")
        assert performance["backend"] == ("nccl" if gpu else "gloo")
        assert (performance["device"] == "cpu") != gpu and (performance["mfu"] is None or 0 < performance["mfu"] < 1)
    adapters = [load_file(context.folder / "adapter/adapter_model.safetensors") for context in (second, third)]
    assert adapters[0].keys() == adapters[1].keys()
    moved = [name for name in adapters[0] if "lora_B" in name and adapters[0][name].abs().max() > 0]
    assert len(moved) == len(adapters[0]) // 2  # B starts at zero: every layer has learnt something
    assert all(torch.isfinite(weight).all() for adapter in adapters for weight in adapter.values())


def test_a_loss_falls_where_the_same_samples_come_again(
    trained: dict[tuple[str, str], "Future[StageContext]"],
) -> None:
    for level in ("zero2", "zero3"):
        losses = [row["loss"] for row in read_jsonl(trained["sft", level].result(PATIENCE).folder / "log.jsonl")]
        half = len(losses) // 2
        assert sum(losses[half:]) < sum(losses[:half]), losses


def test_a_training_that_was_killed_resumes_and_ends_as_if_it_had_not_been(
    trainings: Trainings, trained: dict[tuple[str, str], "Future[StageContext]"]
) -> None:
    context = trainings.make_context("sft", "killed", "sft.parallel=zero2")
    run: Future[Any] = trainings.start(lambda: sft.run(context))
    victim = await_checkpoint(context.folder, run)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(UserError, match="was ended by SIGKILL"):
        run.result(PATIENCE)
    assert find_checkpoint(context.folder / "checkpoints", 1) is not None
    sft.run(context)
    resumed = read_jsonl(context.folder / "log.jsonl")
    whole = read_jsonl(trained["sft", "zero2"].result(PATIENCE).folder / "log.jsonl")
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    for row, other in zip(resumed, whole, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=TOLERANCE)


def await_checkpoint(folder: Path, run: "Future[Any]") -> int:
    """The process that trains in `folder`, once it has saved a checkpoint."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not run.done():
        victim = find_rank(0, folder)
        if victim is not None and find_checkpoint(folder / "checkpoints", 1):
            return victim
        time.sleep(0.02)
    pytest.fail(f"no checkpoint in {folder}: {run.exception() if run.done() else 'still at work'}")
