"""Other model families through every stage: the test recipe on a tiny model of each with random weights."""

import json
from pathlib import Path

import pytest
from architectures import ARCHITECTURES, write_untrained
from smoke_run import FinishedRun, call_migrl

from migrl.grounding.answers import format_box_answer
from migrl.models.family import get_family, read_family
from migrl.world.model import Architecture

STAGES = ("fetch", "synthesize", "sft", "merge", "select", "grpo", "evaluate", "pass_rates", "report")
SMALL = (
    "select.keep=all",  # random weights hit nothing
    "select.rollouts=2",
    "grpo.max_steps=2",
    "grpo.max_new_tokens=8",
    "evaluate.max_new_tokens=8",
    "pass_rates.samples=4",
    "source.cot_per_task=1",
    "source.rl_per_task=1",
    "source.eval_per_task={mini_mig: 1, mini_reason: 1, mini_frames: 1, mini_relate: 1, mini_blink: 1, mini_mmiu: 1}",
    "sft.num_train_epochs=1",
    "evaluate.batch=64",
)


@pytest.fixture(scope="module", params=ARCHITECTURES[1:], ids=lambda found: found.model_type)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """All but the first, which every other smoke test runs."""
    found: Architecture = request.param
    return found


@pytest.fixture(scope="module")
def run(architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The recipe on such a model, in the frame that it speaks."""
    name = architecture.model_type
    folder = tmp_path_factory.mktemp(name)
    write_untrained(folder / name, architecture)
    places = ["--runs", folder / "runs", "--results", folder / "results"]
    model = [f"model.path={folder / name}", "model.sha256={}", "model.frame=permille"]
    result = call_migrl("reproduce", "--recipe", "test", *places, *model, *SMALL)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    return FinishedRun(folder / "runs", folder / "results" / "test")


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_stage_runs_on_it_and_the_evidence_verifies(architecture: Architecture, run: FinishedRun) -> None:
    manifests = {stage: json.loads((run.stage(stage) / "manifest.json").read_text()) for stage in STAGES}
    for stage in ("sft", "select", "grpo", "evaluate"):
        assert manifests[stage]["facts"]["performance"]["tflops_per_step"] > 0, stage
    assert read_family(run.stage("merge") / "model") is get_family(architecture.model_type, "here")
    result = call_migrl("verify", run.results)
    assert result.returncode == 0, result.stdout + result.stderr


def test_it_is_trained_and_asked_in_thousandths(run: FinishedRun) -> None:
    for row in read_rows(run.stage("synthesize") / "cot.jsonl"):
        target = row["target"]
        assert row["completion"].endswith(format_box_answer(target["image"], [1000 * x for x in target["box_unit"]]))
    rows = read_rows(run.stage("evaluate") / "samples.jsonl")
    assert {(row["arm"], row["frame"]) for row in rows} == {(arm, "permille") for arm in ("base", "sft", "rl")}
