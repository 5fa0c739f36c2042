"""Rollouts by vLLM are of the weights, prompts and pictures that are trained. Skipped where it is not installed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

MIGRL = Path(sys.executable).with_name("migrl")
# RL from the base on the whole pool, so that nothing but data is made before it.
PLAIN = (
    "arms.rl_plain={start: base, pool: whole}",
    "evaluate.arms=[base, rl_plain]",
    "grpo.prompts_per_step=8",
    "grpo.per_device_train_batch_size=16",
    "grpo.max_steps=3",
    "vllm.enforce_eager=true",
)
# The largest mean of a step was 2.2e-4, and every greedy text is equal (results/engines). With trl alone it was 1.2e-3,
# in bfloat16, which it took; other prompts make 0.1.
MEAN_DIFFERENCE = 5e-4
# Mean length of a step's 32 completions, whose standard deviation is about 15: three standard errors of a difference.
LENGTH_DIFFERENCE = 12.0


def run(stage: str, runs: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    command = [MIGRL, stage, "--recipe", "test", "--runs", runs, *PLAIN, *settings]
    return subprocess.run(command, capture_output=True, text=True)


def train(runs: Path, *settings: str) -> list[dict[str, Any]]:
    done = run("grpo_rl_plain", runs, *settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    log = runs / "test/grpo_rl_plain/log.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def runs(vllm_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of which only the data are there."""
    folder = tmp_path_factory.mktemp("runs")
    done = run("fetch", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_each_step_samples_with_its_own_weights_what_transformers_would_sample(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    steps = train(runs, "grpo.engine=vllm")
    assert max(step["sampling_difference"] for step in steps) < MEAN_DIFFERENCE
    assert all(step["kl"] > 0 for step in steps[1:])  # so weights did change between them
    others = train(tmp_path / "runs", "grpo.engine=transformers")
    lengths = [fmean(step["completion_length"] for step in some) for some in (steps, others)]
    assert abs(lengths[0] - lengths[1]) < LENGTH_DIFFERENCE / len(steps) ** 0.5


def test_a_vllm_that_is_not_there_is_named_with_the_command_that_starts_it(runs: Path) -> None:
    server = ("grpo.vllm_mode=server", "grpo.vllm_server_base_url=http://127.0.0.1:9", "grpo.vllm_server_timeout=1")
    done = run("grpo_rl_plain", runs, "grpo.engine=vllm", *server, "--force")
    assert done.returncode == 1
    assert "grpo.vllm_server_base_url=http://127.0.0.1:9: " in done.stderr
    assert "vllm serve" in done.stderr and '--mm-processor-kwargs \'{"min_pixels": 3136' in done.stderr
