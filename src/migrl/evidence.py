"""Stages' evidence: keys, manifests, and folders that are whole or not there.

A stage works in `runs/<recipe>/<stage>.partial`, writes `manifest.json` last and renames the folder.
Its key is the hash of all that decides its result: the recipe sections it reads, the digests of its
inputs, its format version, and the prompt texts where they do. A finished folder with the same key is skipped; a
partial folder with the same key is resumed, one with another key is thrown away.
"""

import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.gpus import describe_gpus
from migrl.image import Image, read_image
from migrl.recipe import Recipe

RUN_FORMAT = 1
MANIFEST = "manifest.json"
PROGRESS = "progress"
WEIGHT_FOLDERS = ("model/", "adapter/")
ATTEMPTS = ".attempts.json"
WORKING_FOLDERS = ("checkpoints", "tensorboard", PROGRESS)  # state and time stamps, no result
RECORDED_PACKAGES = "torch transformers trl peft deepspeed accelerate datasets vllm flash-attn migrl".split()


@dataclass(frozen=True)
class StageContext:
    """What a stage gets: its name, the recipe, the finished folders it reads, and the folder it writes in."""

    name: str
    recipe: Recipe
    inputs: dict[str, Path]
    folder: Path


@dataclass(frozen=True)
class StageWork:
    """One stage of a pipeline, ready to run. `run` writes into the folder and returns facts for the manifest."""

    name: str
    format: int
    sections: dict[str, Any]
    inputs: dict[str, Path]
    run: Callable[[StageContext], dict[str, Any]]

    @property
    def key(self) -> str:
        digests = {name: read_manifest(folder)["digest"] for name, folder in self.inputs.items()}
        return hash_json([self.name, self.format, self.sections, digests])


def hash_json(data: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_json(data: Any) -> str:
    """JSON as every file of the evidence is written."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one, never half."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(format_json(data))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """Decoded JSON of a file that a stage wrote.

    Raises:
        UserError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the stage that writes it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); put a plain file there that you may read") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); delete its folder and run the stage again") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """Manifest of a finished stage folder, checked for its format version.

    Raises:
        UserError: missing, broken, or written by another version of the run format.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("run_format") != RUN_FORMAT:
        found = manifest.get("run_format") if isinstance(manifest, dict) else None
        raise UserError(
            f"{folder / MANIFEST}: run format {found!r}, this version reads {RUN_FORMAT}; "
            "keep the folder with the version that wrote it and start a new one with --runs DIR"
        )
    return manifest


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the finished result for `key`, with every output at its recorded size."""
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_manifest(folder)
    if manifest["key"] != key:
        return False
    for name, output in manifest["outputs"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != output["size"]:
            raise UserError(f"{path}: missing or changed since its stage finished; run the stage again with --force")
    return True


def run_stage(work: StageWork, recipe: Recipe, folder: Path, *, force: bool = False) -> bool:
    """Run one stage unless its result is there; return whether it ran.

    Raises:
        UserError: bad input, or a folder written by another format version.
    """
    key = work.key
    if not force and is_finished(folder, key):
        return False
    partial = folder.with_name(folder.name + ".partial")
    claim_partial(partial, key, fresh=force)
    attempts = note_attempt(partial)
    start = time.monotonic()
    facts = work.run(StageContext(work.name, recipe, work.inputs, partial))
    seconds = time.monotonic() - start
    outputs = hash_outputs(partial)
    manifest = {
        "run_format": RUN_FORMAT,
        "stage": work.name,
        "stage_format": work.format,
        "key": key,
        "digest": hash_json([key, {name: output["sha256"] for name, output in outputs.items()}]),
        "inputs": {name: read_manifest(path)["digest"] for name, path in work.inputs.items()},
        "recipe": work.sections,
        "facts": facts,
        "outputs": outputs,
        "seconds": round(sum(attempts) + seconds, 2),
        "attempts": len(attempts) + 1,
        "peak_memory_mb": measure_peak_memory_mb(),
        "machine": describe_machine(),
    }
    write_json(partial / MANIFEST, manifest)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    return True


def claim_partial(partial: Path, key: str, *, fresh: bool) -> None:
    """Open the partial folder for `key`; work left there for another key is thrown away."""
    marker = partial / ".key"
    if partial.exists() and (fresh or not marker.exists() or marker.read_text() != key):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    marker.write_text(key)


def note_attempt(partial: Path) -> list[float]:
    """Note that work begins in a partial folder; return the seconds of the attempts before, which were cut short.

    An attempt that was killed could not say when. It lasted at least until the last file it wrote: what it did after
    that is lost, and not counted.
    """
    path = partial / ATTEMPTS
    noted = read_json(path) if path.exists() else {"seconds": [], "started": None}
    ended: list[float] = noted["seconds"]
    if noted["started"] is not None:
        written = [file.lstat().st_mtime for file in partial.rglob("*") if file.is_file() and file.name[0] != "."]
        ended = [*ended, round(max([0.0, *(moment - noted["started"] for moment in written)]), 2)]
    write_json(path, {"seconds": ended, "started": time.time()})
    return ended


def hash_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file of a stage folder; hidden files and WORKING_FOLDERS are left out."""
    outputs = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        working = any(part.startswith(".") or part in WORKING_FOLDERS for part in name.parts)
        if path.is_file() and name.name != MANIFEST and not working:
            outputs[name.as_posix()] = {"size": path.stat().st_size, "sha256": hash_file(path)}
    return outputs


def hash_weights(outputs: Mapping[str, Mapping[str, Any]]) -> str | None:
    """SHA-256 of the weights among a stage's outputs, of nothing else; None where it made none.

    Those of a teacher are no result.
    """
    weights = {
        name.partition("/")[2]: output["sha256"]
        for name, output in sorted(outputs.items())
        if name.startswith(WEIGHT_FOLDERS) and name.endswith(".safetensors")
    }
    return hash_json(weights) if weights else None


def join_weights(model: str | None, adapter: str | None) -> str:
    """One hash for a model and the adapter on it.

    Raises:
        UserError: there are no weights.
    """
    if model is None:
        raise UserError("no *.safetensors among the outputs of a stage that makes weights; run it again with --force")
    return model if adapter is None else hash_json([model, adapter])


def check_disk(folder: Path, need_bytes: int) -> None:
    """Refuse to start what cannot be written.

    Raises:
        UserError: less than `need_bytes` free where `folder` lies.
    """
    free = shutil.disk_usage(folder).free
    if free < need_bytes:
        raise UserError(
            f"{folder}: {free / 1e9:.1f} GB free, {need_bytes / 1e9:.1f} GB needed; free space or use --runs DIR"
        )


def measure_peak_memory_mb() -> int:
    """Largest resident size so far of this process or of any finished child, MB."""
    return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) // 1024


def describe_machine() -> dict[str, Any]:
    """What ran it: code revision, container image, package versions, interpreter, processor and GPUs. No host name."""
    image = read_image()
    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        **describe_revision(image),
        "image": image.describe() if image else None,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "gpus": describe_gpus(),
        "versions": versions,
    }


def describe_revision(image: Image | None = None) -> dict[str, Any]:
    """Git revision of the source tree and whether it has uncommitted changes.

    An image holds its tree without git and knows the revision from its build. Null outside of both.
    """
    root = Path(__file__).resolve().parents[2]
    # Of this folder alone: git would look upwards, and an unpacked archive may lie within another repository.
    command = ["git", "-C", str(root), "--git-dir=.git", "--work-tree=."]
    try:
        revision = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*command, "status", "--porcelain", "--", "src", "reproduce", "requirements.lock"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        if image is not None and image.tree == root:
            return {"revision": image.revision, "dirty": image.dirty}
        return {"revision": None, "dirty": None}
    return {"revision": revision.stdout.strip(), "dirty": bool(status.stdout.strip())}
