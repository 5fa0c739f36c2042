"""A further training seed, and an arm of a recipe's own, for real: trained on the same data, reported with the rest."""

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from smoke_run import FinishedRun, call_migrl, reproduce_arguments, start

from migrl.evidence.seeds import read_evaluated_rows
from migrl.scoring.comparable import index_rows
from migrl.scoring.rows import load_rows

SEED = 1
TRAINED = ("sft", "merge", "select", "grpo", "evaluate")
RL = ("grpo", "grpo_rl_kl0")
SETTINGS = (f"seeds=[{SEED}]", "arms.rl_kl0={grpo.beta: 0}", "evaluate.arms=[base, sft, rl, rl_kl0]")


@pytest.fixture(scope="module")
def seeded(finished: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The finished run with an arm of its own and one more training seed, which SLURM's signal stopped in the middle of
    its cold start."""
    folder = tmp_path_factory.mktemp("seeded")
    shutil.copytree(finished.runs, folder / "runs")
    home = folder / "runs" / "test"
    arguments = [*map(str, reproduce_arguments(folder)), *SETTINGS]
    process = start(*arguments)
    assert process.wait_until(lambda: list(home.glob(f"seed_{SEED}/sft.partial/checkpoints/checkpoint-*")))
    os.kill(process.pid, signal.SIGUSR1)
    stopped = process.wait()
    output, errors = stopped.stdout, stopped.stderr
    assert stopped.returncode == 128 + signal.SIGUSR1, errors[-3000:]
    assert "after step" in errors.splitlines()[-1] and "checkpoint saved" in errors.splitlines()[-1], errors[-500:]
    for name in ("fetch", "synthesize", "sft", "merge", "select", "grpo", "pass_rates"):
        assert f"] {name}: already done, skipped" in output, "the main chain is trained already"
    assert "] grpo_rl_kl0: done in" in output
    assert f"seed {SEED}" not in output and not list(home.rglob(".stop-*"))

    result = call_migrl(*arguments)
    assert result.returncode == 0, result.stderr[-4000:]
    for name in (*TRAINED, "grpo_rl_kl0"):
        assert f"{name}, seed {SEED}: done in" in result.stdout
    return FinishedRun(folder / "runs", folder / "results" / "test")


def test_two_seeds_train_two_models_from_the_same_data(finished: FinishedRun, seeded: FinishedRun) -> None:
    for stage in ("sft", "grpo"):
        one, other = (
            load_file(seeded.stage(place) / "adapter" / "adapter_model.safetensors")
            for place in (stage, f"seed_{SEED}/{stage}")
        )
        assert one.keys() == other.keys()
        assert any(not torch.equal(one[name], other[name]) for name in one), stage
    assert not list((seeded.runs / "test" / f"seed_{SEED}").glob("*.partial"))
    for stage in ("fetch", "synthesize", *TRAINED[:-1]):
        manifests = [(run.stage(stage) / "manifest.json").read_bytes() for run in (finished, seeded)]
        assert manifests[0] == manifests[1], f"{stage} of the main chain was run again"


def test_an_arm_of_the_recipes_own_is_trained_from_the_same_start_without_what_it_leaves_out(
    seeded: FinishedRun,
) -> None:
    for place in ("", f"seed_{SEED}/"):
        main, own = (json.loads((seeded.stage(place + name) / "manifest.json").read_text()) for name in RL)
        assert main["inputs"] == own["inputs"] and main["facts"]["samples"] == own["facts"]["samples"]
        assert own["recipe"]["grpo"] == {**main["recipe"]["grpo"], "beta": 0.0}
        logs = [(seeded.stage(place + name) / "log.jsonl").read_text() for name in RL]
        assert ['"kl"' in log for log in logs] == [True, False]
    assert (seeded.results / "grpo_rl_kl0_log.jsonl").read_text() == (seeded.stage(RL[1]) / "log.jsonl").read_text()
    assert (seeded.results / "figures/grpo_rl_kl0_reward.svg").exists()
    assert "rl_kl0: like rl, grpo.beta=0" in (seeded.results / "report.md").read_text()
    evaluations = json.loads((seeded.results / "evaluations.json").read_text())
    weights = [entry["weights"] for entry in evaluations if entry["arm"] in ("rl", "rl_kl0")]
    assert len(set(weights)) == 4


def test_the_base_answers_once_and_what_was_trained_once_for_each_seed(
    finished: FinishedRun, seeded: FinishedRun
) -> None:
    rows = read_evaluated_rows({name: seeded.stage(name) for name in ("evaluate", f"seed_{SEED}/evaluate")})
    index_rows(rows)
    counts: dict[tuple[str, int | None], list[str]] = {}
    for row in rows:
        counts.setdefault((row.arm, row.seed), []).append(row.completion)
    trained = [(arm, seed) for seed in (0, SEED) for arm in ("sft", "rl", "rl_kl0")]
    assert list(counts) == [("base", None), *trained]
    assert {len(completions) for completions in counts.values()} == {20 + 21 + 12}
    for arm in ("sft", "rl"):
        assert counts[arm, 0] != counts[arm, SEED]
    main = [replace(row, seed=None) for row in rows if row.arm != "rl_kl0" and row.seed != SEED]
    assert main == load_rows(finished.stage("evaluate") / "samples.jsonl"), "the main chain answers as without seeds"


def test_the_results_hold_the_rows_of_both_seeds_and_verify(seeded: FinishedRun) -> None:
    rows = load_rows(seeded.results / "samples.jsonl.gz")
    assert rows == read_evaluated_rows({name: seeded.stage(name) for name in ("evaluate", f"seed_{SEED}/evaluate")})
    result = call_migrl("verify", seeded.results)
    assert result.returncode == 0, result.stdout + result.stderr


def test_one_stage_alone_is_run_for_every_seed(seeded: FinishedRun) -> None:
    result = call_migrl("evaluate", "--recipe", "test", "--runs", seeded.runs, *SETTINGS)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("skipped") == 2 and f"evaluate, seed {SEED}:\n" in result.stdout
