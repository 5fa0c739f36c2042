"""Provenance: what a manifest says of machine, weights, data, prompts, seeds, time and GPU time."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from run_files import FETCHED_COMMIT, make_run, read_recipe

from migrl.evidence.provenance import count_gpu_processes, describe_fetched, describe_provenance, measure_gpu_seconds
from migrl.files import hash_file
from migrl.grounding.prompts import hash_prompts
from migrl.pipeline import plan_stages, prepare_stage
from migrl.recipe import Recipe
from migrl.running.gpus import describe_gpus
from migrl.running.stage import StageContext, StageWork, describe_machine, read_manifest
from migrl.running.stage_folder import run_stage
from migrl.synthesis.teachers.prompts import hash_teacher_prompts

H100 = "NVIDIA H100 80GB HBM3"
BASE = Path(__file__).resolve().parents[2] / "reproduce" / "tiny_base"


def write_smi(folder: Path, script: str) -> list[str]:
    """A program that answers as nvidia-smi does."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [str(path), "--query-gpu=name,driver_version", "--format=csv,noheader"]


def test_gpus_are_named_with_their_number_driver_and_cuda(tmp_path: Path) -> None:
    query = write_smi(tmp_path, f"echo '{H100}, 580.65.06'; echo '{H100}, 580.65.06'")
    found = describe_gpus(query)
    assert found == {
        "names": [H100, H100],
        "count": 2,
        "driver": "580.65.06",
        "visible": torch.cuda.device_count(),
        "cuda": torch.version.cuda,
    }


def test_a_machine_without_a_gpu_has_none(tmp_path: Path) -> None:
    assert describe_gpus([str(tmp_path / "no-such-program")]) is None
    assert describe_gpus(write_smi(tmp_path, "echo 'No devices were found'; exit 6")) is None


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "exit 18: Failed to initialize"),
        ("echo 'no table'", "exit 0: no table"),
        (r"printf 'driver \377\376'", "exit 0: driver \ufffd\ufffd"),
    ],
)
def test_a_driver_that_does_not_answer_is_recorded_and_costs_no_stage(tmp_path: Path, script: str, said: str) -> None:
    found = describe_gpus(write_smi(tmp_path, script))
    assert found is not None and said in found["error"] and "names" not in found


def test_a_driver_that_cannot_be_asked_costs_no_stage(tmp_path: Path) -> None:
    query = write_smi(tmp_path, "")
    Path(query[0]).write_bytes(b"\x7fELF of another machine")
    for mode, said in ((0o755, "Exec format error"), (0o644, "Permission denied")):
        Path(query[0]).chmod(mode)
        found = describe_gpus(query)
        assert found is not None and said in found["error"] and found["visible"] == torch.cuda.device_count()


def make_manifest(stage: str, *, device: str | None = None, visible: int | None = None, **more: Any) -> dict[str, Any]:
    performance = {"performance": {"device": device, **more}} if device else {}
    gpus = None if visible is None else {"visible": visible}
    return {"stage": stage, "seconds": 100.0, "facts": performance, "machine": {"gpus": gpus}}


@pytest.mark.parametrize(
    ("manifest", "seconds"),
    [
        (make_manifest("grpo", device=H100, visible=8, processes=8), 800.0),
        (make_manifest("grpo", device="cpu", visible=8, processes=2), None),  # GPUs that nothing used cost nothing
        (make_manifest("merge", device=H100, visible=8), 100.0),
        (make_manifest("merge_direct", visible=8), 100.0),
        (make_manifest("select", visible=8), 400.0),  # resumed when all was sampled: no step was timed
        (make_manifest("select", visible=0), None),
        (make_manifest("select"), None),
        (make_manifest("fetch", visible=8), None),
        (make_manifest("synthesize", visible=8), None),  # a script or a server writes
    ],
)
def test_gpu_time_is_wall_time_by_the_processes_that_held_one(manifest: dict[str, Any], seconds: float | None) -> None:
    assert measure_gpu_seconds(manifest, read_recipe("paper", "launch.processes=4", server())) == seconds


def server() -> str:
    return "synthesize.teacher={engine: server, model: Qwen/Qwen2.5-VL-72B-Instruct}"


@pytest.mark.parametrize(("engine", "held"), [("{engine: vllm, tensor_parallel: 2,", 2), ("{engine: transformers,", 4)])
def test_a_teacher_with_weights_of_its_own_holds_gpus_too(engine: str, held: int) -> None:
    recipe = read_recipe("paper", "launch.processes=4", f"synthesize.teacher={engine} model: someone/teacher}}")
    assert count_gpu_processes("synthesize", recipe) == held
    assert measure_gpu_seconds(make_manifest("synthesize", visible=4), recipe) == 100.0 * held


def describe(recipe: Recipe, runs: Path) -> dict[str, Any]:
    manifests = {name: read_manifest(folder) for name, folder in make_run(recipe, runs).items()}
    return describe_provenance(recipe, manifests)


def test_the_facts_of_a_result_hold_all_that_it_rests_on(tmp_path: Path) -> None:
    recipe = read_recipe("tiny", "seeds=[7]", "source.seed=3")
    facts = describe(recipe, tmp_path)
    machine = describe_machine()
    assert facts["git_revision"] == machine["revision"] and facts["dirty"] == machine["dirty"]
    assert facts["machine"] == {key: machine[key] for key in ("python", "platform", "cores", "gpus", "versions")}
    assert facts["lock_sha256"] == hash_file(Path(__file__).resolve().parents[2] / "requirements.lock")
    assert facts["seeds"] == {"source": 3, "synthesize": 0, "sft": 0, "select": 0, "grpo": 0, "further": [7]}
    assert facts["data"]["revisions"] == {"BLINK-Benchmark/BLINK": FETCHED_COMMIT}
    assert facts["settings"] == recipe.model_dump(mode="json")
    assert facts["seconds"] == pytest.approx(sum(stage["seconds"] for stage in facts["stages"].values()))
    assert facts["gpu_seconds"] is None
    assert all(stage["git_revision"] == facts["git_revision"] for stage in facts["stages"].values())


def test_one_stage_of_uncommitted_code_makes_the_whole_result_dirty(tmp_path: Path) -> None:
    recipe = read_recipe("tiny")
    manifests = {name: read_manifest(folder) for name, folder in make_run(recipe, tmp_path).items()}
    for states, whole in (([False, True, None], True), ([False, None], None), ([False], False)):
        some = {
            name: {**manifest, "machine": {**manifest["machine"], "dirty": states[number % len(states)]}}
            for number, (name, manifest) in enumerate(manifests.items())
        }
        assert describe_provenance(recipe, some)["dirty"] is whole


def test_prompt_hashes_are_those_that_the_stages_keys_hold(tmp_path: Path) -> None:
    recipe = read_recipe("paper", server())
    manifests = {
        name: {**read_manifest(folder), "recipe": prepare_stage(find_stage(recipe, name), recipe, tmp_path).sections}
        for name, folder in make_run(recipe, tmp_path).items()
    }
    prompts = describe_provenance(recipe, manifests)["prompts"]
    assert prompts == {"benchmarks": hash_prompts(), "teacher": hash_teacher_prompts()}


def find_stage(recipe: Recipe, name: str) -> Any:
    return next(stage for stage in plan_stages(recipe) if stage.name == name)


def test_model_teacher_and_data_are_named_with_revision_and_hashes(tmp_path: Path) -> None:
    def fetch(context: StageContext) -> dict[str, Any]:
        shutil.copytree(BASE, context.folder / "model")
        for name in ("data/rl.jsonl", "data/a/1.png", "data/a/2.png", "teacher/model.safetensors"):
            (context.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (context.folder / name).write_text(name)
        part = {"revisions": {"owner/train": "c" * 40}}
        return {"training": part, "teacher": {"model": "someone/teacher", "revision": "d" * 40}}

    recipe = read_recipe("tiny")
    run_stage(StageWork("fetch", 1, {}, {}, fetch), recipe, tmp_path / "fetch")
    found = describe_fetched(recipe, read_manifest(tmp_path / "fetch"))
    weights = hash_file(BASE / "model.safetensors")
    assert found["model"]["files"]["model.safetensors"] == weights == recipe.model.sha256["model.safetensors"]
    assert found["model"]["path"] == "reproduce/tiny_base" and found["model"]["revision"] is None
    assert found["teacher"]["revision"] == "d" * 40 and list(found["teacher"]["files"]) == ["model.safetensors"]
    assert list(found["data"]["splits"]) == ["rl.jsonl"] and found["data"]["pictures"]["count"] == 2
    assert found["data"]["revisions"] == {"owner/train": "c" * 40}


def test_the_report_reads_every_stage_so_that_its_costs_are_whole() -> None:
    arms = "evaluate.arms=[base,sft,rl,sft_direct,rl_no_cold_start,rl_no_selection]"
    *stages, report = plan_stages(read_recipe("tiny", arms, "seeds=[7]"))
    assert report.name == "report" and list(report.reads) == [stage.place for stage in stages]


def test_time_of_attempts_that_were_cut_short_counts_up_to_their_last_file(tmp_path: Path) -> None:
    recipe = read_recipe("tiny")

    def run(context: StageContext) -> dict[str, Any]:
        path = context.folder / "progress" / "log.jsonl"
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text("{}\n")
            os.utime(path, (time.time() + 50, time.time() + 50))  # as if it had worked for so long
            raise KeyboardInterrupt
        (context.folder / "out.json").write_text("{}")
        return {}

    work = StageWork("demo", 1, {}, {}, run)
    with pytest.raises(KeyboardInterrupt):
        run_stage(work, recipe, tmp_path / "demo")
    run_stage(work, recipe, tmp_path / "demo")
    manifest = json.loads((tmp_path / "demo" / "manifest.json").read_text())
    assert manifest["attempts"] == 2 and 49 < manifest["seconds"] < 55
    assert list(manifest["outputs"]) == ["out.json"]
