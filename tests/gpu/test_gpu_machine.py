"""What the project says of the GPU it is on, and of one that is full."""

import re

import pytest
import torch
from gpu_run import Trainings

from migrl.errors import OutOfMemory
from migrl.plan.advice import explain_out_of_memory
from migrl.running.ending import read_ending
from migrl.running.gpus import describe_gpus, find_gpus
from migrl.running.worker import Rank, run_work


@pytest.fixture(autouse=True)
def real(gpu: bool) -> None:
    if not gpu:
        pytest.skip("no processor can show it")


def test_the_gpus_are_described_as_the_driver_and_torch_know_them() -> None:
    found = describe_gpus()
    assert found is not None and "error" not in found, found
    assert torch.cuda.get_device_name(0) in found["names"] and found["count"] >= found["visible"] >= 1
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", found["driver"]) and found["cuda"] == torch.version.cuda
    name, count, memory = find_gpus()
    assert (name, count) == (found["names"][0], found["count"])
    assert memory == pytest.approx(torch.cuda.get_device_properties(0).total_memory, rel=0.05)


def test_a_gpu_that_is_full_ends_the_stage_with_the_keys_to_lower(trainings: Trainings) -> None:
    context = trainings.make_context("grpo_no_cold_start", "full")
    with pytest.raises(SystemExit):
        run_work(lambda context, rank: torch.empty(10**15, device="cuda"), context, Rank())
    ending = read_ending(context.folder, context.name)
    assert isinstance(ending, OutOfMemory) and "the GPU ran out of memory" in str(ending)
    assert "grpo.per_device_train_batch_size=" in explain_out_of_memory(context.name, context.recipe, ending.said)
