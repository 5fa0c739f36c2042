"""Kills at file events of every stage and of the publication, also in the resume: the run goes on to the same end."""

import re
import shutil
import subprocess
import sys

import pytest
from smoke_run import ROOT

SMALL = (
    "source.rl_per_task=2",
    "source.eval_per_task={mini_mig: 1, mini_reason: 1, mini_frames: 1, mini_relate: 1, mini_blink: 1, mini_mmiu: 1}",
    "select.rollouts=2",
    "select.keep=all",
    "pass_rates.samples=4",
    "sft.num_train_epochs=1",
    "grpo.max_steps=1",
    "grpo.num_generations=2",
    "evaluate.max_new_tokens=16",
    "grpo.max_new_tokens=16",
)


@pytest.mark.skipif(shutil.which("cc") is None, reason="counting file events needs a C compiler")
def test_a_run_killed_at_a_file_event_of_any_stage_goes_on_to_the_same_end() -> None:
    command = [sys.executable, "perf/kill_campaign.py", "--ends", "--most", "3", *SMALL]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    kills, identical, faults = map(int, re.findall(r"\d+", found.stdout.splitlines()[-1]))
    assert faults == 0 and identical >= 30 and kills > identical, found.stdout
