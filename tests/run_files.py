"""A finished run in miniature: stage folders with real manifests and weights, and evidence that verifies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rows
from safetensors.numpy import save_file

from migrl.claims.claims import load_claims, load_levels, select_claims
from migrl.claims.references import load_references
from migrl.claims.verdicts import judge_claims, judge_levels
from migrl.evidence.evaluations import describe_evaluation
from migrl.evidence.not_run import write_not_run
from migrl.evidence.recompute import render_page
from migrl.evidence.seal import make_file_hashes, seal, write_tree
from migrl.files import write_json, write_jsonl
from migrl.grounding.prompts import build_messages, hash_messages
from migrl.models.decoding import Decoding
from migrl.publish import Repository, prepare_repositories
from migrl.recipe import Recipe, load_recipe
from migrl.running.stage import StageContext, StageWork
from migrl.running.stage_folder import run_stage
from migrl.scoring.comparable import index_rows
from migrl.scoring.rows import EvaluationRow, load_rows, pack_rows
from migrl.scoring.scores import compute_scores
from migrl.stages.evaluate import hash_arm
from migrl.stages.report import collect_facts

ROOT = Path(__file__).resolve().parents[1]
FETCHED_COMMIT = "b" * 40
SKILLS = {"base": 2, "sft": 3, "sft_direct": 3, "rl": 5}
DECODING = Decoding(96).describe(end=[512], suppressed=[500, 501])
TINY_SETS = ("mini_mig", "mini_reason", "mini_frames", "mini_relate", "mini_blink", "mini_mmiu")
READS = {
    "fetch": (),
    "synthesize": ("fetch",),
    "sft": ("fetch", "synthesize"),
    "merge": ("fetch", "sft"),
    "select": ("fetch", "merge"),
    "grpo": ("fetch", "merge", "select"),
    "sft_direct": ("fetch", "synthesize"),
    "merge_direct": ("fetch", "sft_direct"),
    "evaluate": ("fetch", "merge", "grpo"),
}


def read_recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(ROOT / "reproduce" / "recipes" / f"{name}.yaml", list(overrides))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and the results of the tiny recipe."""
    folder, recipe = tmp_path_factory.mktemp("made"), read_recipe("tiny")
    make_evidence(recipe, make_run(recipe, folder / "runs"), folder / "results" / "tiny", TINY_SETS)
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed by a test."""
    return Path(shutil.copytree(made, tmp_path / "home"))


def prepare(home: Path, out: Path, recipe: Recipe | None = None, **options: Any) -> list[Repository]:
    """Build the repositories of a run below `home`, of the tiny recipe unless another is given."""
    recipe = recipe or read_recipe("tiny")
    return prepare_repositories(recipe, home / "runs", home / "results", "owner/name", out, **options)


def make_row(arm: str, benchmark: str, number: int) -> EvaluationRow:
    hit = (number * 3) % 7 < SKILLS[arm]
    return rows.make_row(
        f"{benchmark}:{number}",
        arm,
        task=f"task {number % 2}",
        cluster=f"set {number // 4}",
        prompt_hash=hash_messages(build_messages("Where?", 2, "think", "box")),
        completion=f'<answer>{{"image": 2, "bbox_2d": [0, 0, {28 if hit else 14}, 28]}}</answer>',
    )


def make_sample(number: int, **extra: Any) -> dict[str, Any]:
    return {
        "uid": f"pool:{number}",
        "benchmark": "pool",
        "task": "region",
        "images": [f"pool/{number}_a.png", f"pool/{number}_b.png"],
        "question": "Where is it?",
        "target": {"image": 2, "box_unit": [0.0, 0.0, 0.5, 0.5]},
        "cluster": str(number),
        **extra,
    }


def write_weights(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    save_file({f"layer.{n}.weight": rng.random((64, 64), dtype=np.float32) for n in range(3)}, path)


def write_adapter(folder: Path, seed: int) -> None:
    folder.mkdir()
    write_weights(folder / "adapter_model.safetensors", seed)
    base = f"{folder.parent.parent}/merge/model"
    write_json(folder / "adapter_config.json", {"base_model_name_or_path": base, "peft_type": "LORA", "r": 2})
    (folder / "README.md").write_text(f"---\nbase_model: {base}\n---\n")  # what peft leaves there


def write_model(folder: Path, seed: int, config: dict[str, Any]) -> None:
    folder.mkdir()
    write_weights(folder / "model.safetensors", seed)
    write_json(folder / "config.json", {"model_type": "qwen2_5_vl", **config})
    write_json(folder / "tokenizer.json", {"version": "1.0"})
    (folder / "chat_template.jinja").write_text("{{ messages }}\n")


def make_stages(recipe: Recipe, config: dict[str, Any]) -> dict[str, Callable[[StageContext], dict[str, Any]]]:
    """What each stage would write; `config` goes into every config.json."""

    def fetch(context: StageContext) -> dict[str, Any]:
        write_jsonl(context.folder / "pool.jsonl", [make_sample(0)])
        write_model(context.folder / "model", 0, config)
        return {"benchmarks": {"blink": {"revisions": {"BLINK-Benchmark/BLINK": FETCHED_COMMIT}}}}

    def synthesize(context: StageContext) -> dict[str, Any]:
        thought = "<think>Image 2.</think><answer>...</answer>"
        write_jsonl(context.folder / "cot.jsonl", [make_sample(n, completion=thought) for n in range(3)])
        facts = {"candidates": 8, "kept": 3, "rejected": {"parse": 4, "iou": 1}, "planted": {}}
        write_json(context.folder / "filters.json", facts)
        return facts

    def sft(context: StageContext) -> dict[str, Any]:
        write_adapter(context.folder / "adapter", 1)
        return {"samples": 3}

    def merge(context: StageContext) -> dict[str, Any]:
        write_model(context.folder / "model", 2, config)
        return {"merge_error": 0.0}

    def select(context: StageContext) -> dict[str, Any]:
        write_jsonl(context.folder / "rl.jsonl", [make_sample(n) for n in range(3, 5)])
        return {"k": 4, "kept": 2}

    def grpo(context: StageContext) -> dict[str, Any]:
        if recipe.grpo.lora:
            write_adapter(context.folder / "adapter", 3)
        else:
            write_model(context.folder / "model", 4, config)
        return {"steps": recipe.grpo.max_steps}

    def evaluate(context: StageContext) -> dict[str, Any]:
        return {"arms": list(recipe.evaluate.arms)}

    stages = {run.__name__: run for run in (fetch, synthesize, sft, merge, select, grpo)}
    direct = {"sft_direct": sft, "merge_direct": merge} if "sft_direct" in recipe.evaluate.arms else {}
    return {**stages, **direct, "evaluate": evaluate}


def make_run(recipe: Recipe, runs: Path, config: dict[str, Any] | None = None) -> dict[str, Path]:
    """Run the stages above through the real machinery; their folders by name."""
    folders: dict[str, Path] = {}
    for name, run in make_stages(recipe, config or {}).items():
        folders[name] = runs / recipe.name / name
        inputs = {read: folders[read] for read in READS[name]}
        run_stage(StageWork(name, 1, {"recipe": recipe.name}, inputs, run), recipe, folders[name])
    return folders


def make_evidence(recipe: Recipe, folders: dict[str, Path], target: Path, benchmarks: tuple[str, ...]) -> None:
    """A results folder of this run: few rows, real scores and verdicts."""
    target.mkdir(parents=True)
    arms = recipe.evaluate.arms
    answers = [make_row(arm, benchmark, n) for arm in arms for benchmark in benchmarks for n in range(16)]
    write_rows(recipe, answers, target)
    context = StageContext("evaluate", recipe, folders, target)
    evaluations = [
        describe_evaluation(
            recipe, arm, None, weights=hash_arm(context, arm), version="5.17.0", device="cpu", decoding=DECODING
        )
        for arm in arms
    ]
    write_json(target / "evaluations.json", evaluations)
    (target / "report.html").write_text("<html>pictures</html>")
    facts = collect_facts(StageContext("report", recipe, folders, target))
    facts["stages"]["evaluate"]["facts"]["samples"] = 16 * len(benchmarks)
    write_json(target / "manifest.json", facts)
    change_manifest(target, git_revision="a" * 40, dirty=False)


def make_results(place: Path) -> Path:
    """A sealed results folder: a recipe that was run, two reference runs of it, and a recipe that was not run."""
    recipe, results = read_recipe("tiny"), place / "results"
    tiny, references = results / "tiny", results / "reference_runs" / "tiny"
    # Few samples: some of the claims are not run.
    make_evidence(recipe, make_run(recipe, place / "runs"), tiny, ("mini_mig",))
    for seed in (8, 9):
        (references / f"seed_{seed}").mkdir(parents=True)
        for name in ("scores.json", "claims.json"):
            shutil.copyfile(tiny / name, references / f"seed_{seed}" / name)
    write_json(references / "recipe.json", recipe.model_dump(mode="json"))
    found = load_references(references, recipe)
    write_json(tiny / "references.json", found)
    answers = index_rows(load_rows(tiny / "samples.jsonl.gz"))
    write_json(tiny / "claims.json", judge_claims(select_claims(load_claims(), "tiny"), answers, found["deltas"]))
    change_manifest(tiny)
    write_not_run(read_recipe("paper"), results / "paper")
    write_tree(results)
    return results


def write_rows(recipe: Recipe, answers: list[EvaluationRow], target: Path) -> None:
    """The rows, and all that follows from them."""
    pack_rows(answers, target / "samples.jsonl.gz")
    indexed = index_rows(answers)
    write_json(target / "references.json", {"deltas": {}, "note": "no reference runs of this recipe are kept"})
    write_json(target / "scores.json", compute_scores(indexed))
    write_json(target / "claims.json", judge_claims(select_claims(load_claims(), recipe.claims), indexed))
    write_json(target / "levels.json", judge_levels(load_levels(), indexed) if recipe.claims == "paper" else [])


def change_manifest(results: Path, **changes: Any) -> None:
    """Change a manifest and report.md with it, name the files as they are, and seal it again."""
    manifest = json.loads((results / "manifest.json").read_text()) | changes
    if changes and (results / "scores.json").exists():
        write_page(results, manifest)
    write_json(results / "manifest.json", seal(manifest | {"files": make_file_hashes(results)}))


def write_page(results: Path, manifest: dict[str, Any]) -> None:
    """report.md as the report stage writes it."""
    names = ("scores", "claims", "levels", "evaluations")
    parts = [json.loads((results / f"{name}.json").read_text()) for name in names]
    (results / "report.md").write_text(render_page(*parts, manifest), encoding="utf-8", newline="\n")
