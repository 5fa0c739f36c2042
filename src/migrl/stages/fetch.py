"""fetch: bring data and base model, check what came, and lay them out the same way for every recipe.

Writes `data/<split>.jsonl` with pictures beside them, and `model/` with weights, tokenizer and
processor. The world source is rendered, published benchmarks are downloaded at their pinned revisions
and linked; of prepared folders and models the known files are copied, and no link is followed. Every picture is decoded
once, and its size stored with the samples that show it; every chat template is rendered once. A rehearsal draws its
data, and the weights too. A teacher whose weights run here gets `teacher/`, as the model gets its folder.
"""

import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from migrl.data.hub_source import build_hub
from migrl.data.layout import refuse_control_tokens
from migrl.data.picture_check import PictureCheck
from migrl.data.prepared_folder import copy_prepared
from migrl.data.world_source import build_world
from migrl.errors import UserError
from migrl.files import hash_file, write_jsonl
from migrl.grounding.samples import Sample, list_boxes, read_samples
from migrl.models.chat_template import check_template
from migrl.models.family import read_family
from migrl.models.folder import (
    CONFIG,
    INDEX,
    SMALL_FILES,
    WEIGHTS,
    find_local_model,
    find_model_files,
    list_files,
    read_shards,
)
from migrl.plain_files import copy_plain
from migrl.recipe import TRAINING_SPLITS, HubSource, LocalTeacher, ModelSettings, RehearsalSource, WorldSource
from migrl.running.stage import DOWNLOAD, StageContext, check_disk


def run(context: StageContext) -> dict[str, Any]:
    """Fill `data/` and `model/`; return counts per split.

    Raises:
        UserError: a wrong hash, a broken record, a missing or corrupt image, or a model of no known family.
    """
    source, settings = context.recipe.source, context.recipe.model
    data, model = context.folder / "data", context.folder / "model"
    pictures = PictureCheck(data)
    if isinstance(source, WorldSource):
        facts = build_world(source, data)
    elif isinstance(source, HubSource):
        facts = build_hub(source, data, pictures)
    elif isinstance(source, RehearsalSource):
        from migrl.data.rehearsal_source import build_rehearsal, write_random_model  # torch, which no download needs

        facts = build_rehearsal(source, find_tokenizer(settings.path), data)
        facts |= write_random_model(source, find_tokenizer(settings.path), settings.dtype, model)
    else:
        copy_prepared(source.path, data)
        facts = {}
    facts["checked"] = check_data(data, pictures)
    facts["decoded"] = {"pictures": len(pictures.sizes), "with_orientation": len(pictures.turned)}
    if pictures.turned:
        print(
            f"fetch: {len(pictures.turned)} of {len(pictures.sizes)} pictures carry an EXIF orientation, such as "
            f"{pictures.turned[0]}; pixels and boxes are used as stored, not turned",
            file=sys.stderr,
        )
    missing = [split for split in TRAINING_SPLITS if not facts["checked"].get(split)]
    if missing and context.recipe.trains:
        raise UserError(f"{data / missing[0]}.jsonl: no samples; training needs the splits {TRAINING_SPLITS}")
    if not isinstance(source, RehearsalSource):
        fetch_model(settings, model, context.folder.parents[1])
    if fault := read_family(model).find_frame_fault(settings.frame):
        raise UserError(fault)
    check_template(model)
    teacher = context.recipe.local_teacher
    if teacher is not None:
        facts["teacher"] = fetch_teacher(teacher, context.folder / "teacher")
        read_family(context.folder / "teacher")
        check_template(context.folder / "teacher")
    return facts


def check_data(data: Path, pictures: PictureCheck) -> dict[str, int]:
    """Read every split and decode every picture before anything else runs; store the sizes with the samples.

    Raises:
        UserError: a broken record, a training sample whose box is no sound truth, a missing or corrupt picture, or one
            that has another size than its sample says.
    """
    counts = {}
    for path in sorted(data.glob("*.jsonl")):
        samples = read_samples(path)
        refuse_control_tokens(path, samples)
        if path.stem in TRAINING_SPLITS:
            refuse_unsound(path, samples)
        pictures.decode((name for sample in samples for name in sample.images), path.stem)
        measured = [
            measure_sample(sample, f"{path}, record {number}", pictures) for number, sample in enumerate(samples, 1)
        ]
        counts[path.stem] = write_jsonl(path, [sample.to_json() for sample in measured])
    return counts


def measure_sample(sample: Sample, where: str, pictures: PictureCheck) -> Sample:
    """The sample with the sizes of its pictures.

    Raises:
        UserError: a picture that cannot be used, or that has another size than the sample says.
    """
    for name in sample.images:
        if name in pictures.faults:
            raise UserError(f"{where}: sample {sample.uid!r}: {pictures.faults[name]}")
    sizes = tuple(pictures.sizes[name] for name in sample.images)
    if sample.sizes not in ((), sizes):
        stated, found = ([list(size) for size in some] for some in (sample.sizes, sizes))
        raise UserError(f"{where}: key 'sizes': says {stated}, the pictures are {found}; correct it or leave it out")
    return replace(sample, sizes=sizes)


def refuse_unsound(path: Path, samples: list[Sample]) -> None:
    """Evaluation keeps defective boxes in its denominators; nothing may be trained on them."""
    for sample in samples:
        if any(box.defect or not box.image_trusted for box in list_boxes(sample.target)):
            raise UserError(f"{path}: sample {sample.uid!r}: its box or image is not sound; remove it from training")


def fetch_model(settings: ModelSettings, folder: Path, runs: Path | None = None) -> None:
    """Copy a local model, or download a Hub model at its pinned revision, and check the stated hashes.

    What lies below `runs` is linked: its files are never written to, only replaced.
    """
    if settings.revision is None and find_local_model(settings.path) is None:
        raise UserError(f"model.revision: a Hub model such as {settings.path!r} needs a pinned revision; add it")
    bring_weights(settings.path, settings.revision, settings.sha256, folder, runs)


def fetch_teacher(teacher: LocalTeacher, folder: Path) -> dict[str, Any]:
    """Bring a teacher's weights; say which. Of an unpinned Hub model, that is the newest commit."""
    revision = teacher.revision
    if revision is None and find_local_model(teacher.model) is None:
        from migrl.data.download.catalog import Repo
        from migrl.data.download.hub import Hub

        repo = Repo(type="model", revision=None, licence="on its page", note="the recipe pins none")
        revision = Hub({teacher.model: repo}, None).find_commit(teacher.model)
    bring_weights(teacher.model, revision, teacher.sha256, folder)
    return {"model": teacher.model, "revision": revision}


def bring_weights(
    path: str, revision: str | None, sha256: dict[str, str], folder: Path, runs: Path | None = None
) -> None:
    """Bring the files of a local model folder, or of a Hub model at `revision`, and check the stated hashes."""
    local = find_local_model(path)
    source = download_model(path, revision, folder) if local is None else local
    ours = runs is not None and source.resolve().is_relative_to(runs.resolve())
    lay_out_model(source, folder, link=ours or local is None)
    for name, expected in sha256.items():
        file = folder / name
        found = hash_file(file) if file.is_file() else "no such file"
        if found != expected:
            raise UserError(
                f"{file}: sha256 is {found}, the recipe says {expected}; fetch it again, "
                "or rebuild the tiny base with `make tiny-base` and put its hash into model.sha256"
            )


def download_model(path: str, revision: str | None, folder: Path) -> Path:
    """Bring the files of a model folder from the Hub, into a place beside `folder` that a killed run finds again."""
    from huggingface_hub import snapshot_download

    from migrl.data.download.hub import DownloadBar

    # Of each revision apart: the newest commit may be another one at the next start.
    place = folder.parent / DOWNLOAD / folder.name / (revision or "newest").replace("/", "_")
    download = partial(snapshot_download, path, revision=revision, local_dir=place, tqdm_class=DownloadBar)
    download(allow_patterns=[*SMALL_FILES, WEIGHTS, INDEX])
    if (place / INDEX).is_file() and not (place / WEIGHTS).is_file():
        download(allow_patterns=read_shards(place / INDEX))
    return place


def lay_out_model(source: Path, folder: Path, *, link: bool) -> None:
    """Copy the files of a model folder, or with `link` give them a second name where the disk can.

    Raises:
        UserError: no whole and plain model folder, or too little disk.
    """
    files = find_model_files(source)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            for name, path in files.items():
                os.link(path, folder / name)
            return
        except OSError:  # a file system without links: copied, and what was linked is written anew
            shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    check_disk(folder, sum(sizes.values()))
    for name, path in files.items():
        copy_plain(path, folder / name, sizes[name])


def find_tokenizer(path: str) -> Path:
    """The local model folder whose tokenizer and processor a rehearsal takes."""
    local = find_local_model(path)
    if local is None or CONFIG not in list_files(local):
        raise UserError(f"model.path={path}: no model folder; a rehearsal takes its tokenizer from reproduce/tiny_base")
    return local
