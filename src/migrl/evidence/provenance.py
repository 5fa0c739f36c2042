"""What a result was made with and what it cost, put together from the manifests of its stages."""

from collections.abc import Mapping
from typing import Any

from migrl.files import ROOT, hash_file, hash_json
from migrl.recipe import SEEDED_SECTIONS, LocalTeacher, Recipe, VllmTeacher
from migrl.recipe.arms import name_kind
from migrl.running.stage import hash_weights

Manifest = Mapping[str, Any]
LOCK = ROOT / "requirements.lock"
MACHINE = ("python", "platform", "cores", "gpus", "versions")
COPIED = ("key", "digest", "seconds", "peak_memory_mb", "facts")


def describe_provenance(recipe: Recipe, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """The facts of a results folder: code, machine, seeds, prompts, model, data, settings, and each stage's cost.

    Args:
        manifests: of all stages that the result rests on, by name; `evaluate` among them says what measured it.
    """
    stages = {name: describe_stage(manifest, recipe) for name, manifest in manifests.items()}
    machine = manifests["evaluate"]["machine"]
    states = [stage["dirty"] for stage in stages.values()]
    gpu_seconds = [stage["gpu_seconds"] for stage in stages.values() if stage["gpu_seconds"] is not None]
    return {
        "recipe": recipe.name,
        "git_revision": machine.get("revision"),
        "dirty": True if True in states else None if None in states else False,
        "lock_sha256": hash_file(LOCK) if LOCK.is_file() else None,
        "image": machine.get("image"),
        "machine": {key: machine.get(key) for key in MACHINE},
        "seeds": list_seeds(recipe),
        "prompts": describe_prompts(manifests),
        **describe_fetched(recipe, manifests["fetch"]),
        "seconds": round(sum(stage["seconds"] for stage in stages.values()), 2),
        "gpu_seconds": round(sum(gpu_seconds), 2) if gpu_seconds else None,
        "settings": recipe.model_dump(mode="json"),
        "stages": stages,
    }


def describe_stage(manifest: Manifest, recipe: Recipe) -> dict[str, Any]:
    """A stage's identity, facts and cost, and the code and the GPUs that it ran on."""
    machine = manifest["machine"]
    gpus = machine.get("gpus")
    return {
        **{key: manifest[key] for key in COPIED},
        "weights": hash_weights(manifest["outputs"]),
        "attempts": manifest.get("attempts", 1),
        "gpu_seconds": measure_gpu_seconds(manifest, recipe),
        "gpus": gpus and gpus.get("names"),
        "git_revision": machine.get("revision"),
        "dirty": machine.get("dirty"),
    }


def measure_gpu_seconds(manifest: Manifest, recipe: Recipe) -> float | None:
    """Wall time by the GPUs that a stage held, in seconds; None if it ran on a processor alone."""
    performance = manifest["facts"].get("performance")
    if performance:
        on_gpu, processes = performance["device"] != "cpu", performance.get("processes", 1)
    else:
        gpus = manifest["machine"].get("gpus")
        on_gpu, processes = bool(gpus and gpus["visible"]), count_gpu_processes(manifest["stage"], recipe)
    return round(manifest["seconds"] * processes, 2) if on_gpu and processes else None


def count_gpu_processes(stage: str, recipe: Recipe) -> int:
    """How many GPUs a stage that measured no step holds where there are any."""
    if stage == "synthesize":
        teacher = recipe.synthesize.teacher
        if isinstance(teacher, VllmTeacher):
            return teacher.tensor_parallel
        return recipe.launch.processes if isinstance(teacher, LocalTeacher) else 0
    if stage in ("fetch", "report"):
        return 0
    return 1 if name_kind(stage) == "merge" else recipe.launch.processes


def list_seeds(recipe: Recipe) -> dict[str, Any]:
    """The seed of each section that draws, and the further training seeds."""
    sections = {name: getattr(recipe, name) for name in SEEDED_SECTIONS}
    seeds = {name: section.seed for name, section in sections.items() if hasattr(section, "seed")}
    return {**seeds, "further": list(recipe.seeds)}


def describe_prompts(manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """Hashes of the texts that the arms and the teacher were asked with, as the stages' keys hold them.

    None of a teacher that is asked nothing.
    """
    teacher = manifests.get("synthesize", {"recipe": {}})["recipe"].get("teacher_prompts")
    return {"benchmarks": manifests["evaluate"]["recipe"].get("prompts"), "teacher": teacher}


def describe_fetched(recipe: Recipe, fetch: Manifest) -> dict[str, Any]:
    """Revisions and SHA-256 of what the first stage laid out: base model, teacher and data.

    Pictures are many and have one hash together, over names and hashes. Those of published data are links into the
    downloads, and the files they came from stand among the stage's facts.
    """
    hashes = {name: output["sha256"] for name, output in fetch["outputs"].items()}
    facts = fetch["facts"]
    data = take_folder(hashes, "data")
    splits = {name: value for name, value in data.items() if name.endswith(".jsonl")}
    pictures = {name: value for name, value in data.items() if name not in splits}
    parts = [*facts.get("benchmarks", {}).values(), facts.get("training", {})]
    revisions = {repo: commit for part in parts for repo, commit in part.get("revisions", {}).items()}
    teacher = facts.get("teacher")
    return {
        "model": {
            "path": recipe.model.path,
            "revision": recipe.model.revision,
            "files": take_folder(hashes, "model"),
        },
        "teacher": teacher and {**teacher, "files": take_folder(hashes, "teacher")},
        "data": {
            "revisions": revisions,
            "splits": splits,
            "pictures": {"count": len(pictures), "sha256": hash_json(pictures) if pictures else None},
        },
    }


def take_folder(hashes: Mapping[str, str], folder: str) -> dict[str, str]:
    """The entries below a folder, by their names in it."""
    prefix = f"{folder}/"
    return {name.removeprefix(prefix): value for name, value in hashes.items() if name.startswith(prefix)}
