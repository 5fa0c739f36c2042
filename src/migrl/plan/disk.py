"""What a run downloads and writes. Sizes that no publisher states are called unknown and are in no sum."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from migrl.data.download.catalog import SourceFile
from migrl.models.shapes import count_lora_parameters, count_parameters
from migrl.plan.memory import STATES
from migrl.plan.work import Work
from migrl.plan.workload import Workload
from migrl.recipe import HubSource, RehearsalSource

KEPT_CHECKPOINTS = 3  # save_total_limit 2, and one being written
BYTES_PER_TOKEN = 4  # of text
ROW_BYTES = 1500  # what a row of samples.jsonl says beside its completion
COPIES = 2  # the process's log and the stage's own file


@dataclass(frozen=True)
class Item:
    """Bytes of one thing on disk; `passing` ones are gone when the stage ends."""

    name: str
    bytes: float
    words: str
    passing: bool = False
    downloaded: bool = False
    folder: str = "runs"


@dataclass(frozen=True)
class Disk:
    """What a stage writes, and which files or splits of it have no stated size."""

    items: tuple[Item, ...] = ()
    unknown: tuple[str, ...] = ()

    def count(self, *, passing: bool | None = None, folder: str | None = None) -> float:
        """Bytes of the items asked for."""
        return sum(
            item.bytes for item in self.items if passing in (None, item.passing) and folder in (None, item.folder)
        )

    @property
    def download(self) -> float:
        return sum(item.bytes for item in self.items if item.downloaded)


def plan_disk(kind: str, work: Work, workload: Workload) -> Disk:
    """What a stage of this kind writes."""
    parameters = count_parameters(workload.shape)
    if kind == "fetch":
        return plan_fetch(workload)
    if kind == "merge":
        words = f"{parameters.total:,} x {workload.number_bytes} bytes"
        return Disk((Item("merged model", parameters.total * workload.number_bytes, words),))
    if work.training:
        # The trained weights, and checkpoints with optimizer states, of which three are there for a moment.
        lora, size = work.training.lora, workload.number_bytes
        trained = count_lora_parameters(workload.shape, lora.rank) if lora else parameters.trained_in_full
        saved, name = (trained * size, "adapter") if lora else (parameters.total * size, "model")
        words = f"{KEPT_CHECKPOINTS} x ({saved / 1e9:.1f} GB of weights + {trained * STATES / 1e9:.1f} GB of states)"
        checkpoints = KEPT_CHECKPOINTS * (saved + trained * STATES)
        return Disk((Item(name, saved, "trained weights"), Item("checkpoints", checkpoints, words, passing=True)))
    if not work.generations:
        return Disk()
    tokens, rows = work.generations[0].tokens[0], sum(made.completions for made in work.generations)
    words = f"{rows:,} x ({tokens} tokens x {BYTES_PER_TOKEN} + {ROW_BYTES}) bytes, twice"
    unknown = tuple(f"samples of {made.split}" for made in work.generations if made.prompts.samples is None)
    return Disk((Item("completions", COPIES * rows * (tokens * BYTES_PER_TOKEN + ROW_BYTES), words),), unknown)


def plan_fetch(workload: Workload) -> Disk:
    """Archives stay beside what they unpack to; pictures are compressed already, so that is taken to be as much."""
    source, teacher, shapes = workload.recipe.source, workload.recipe.local_teacher, workload.assumptions.shapes
    models = [workload, *([workload.for_teacher(teacher)] if teacher else [])]
    items = []
    for model in models:
        total, size = count_parameters(model.shape).total, model.number_bytes
        from_hub = model.recipe.model.path in shapes and not isinstance(source, RehearsalSource)
        items.append(Item(model.model, total * size, f"{total:,} x {size} bytes", downloaded=from_hub))
    if not isinstance(source, HubSource):
        return Disk(tuple(items))
    files = {(file.repo, file.path): file for entry in workload.sources.values() for file in entry.files}
    known = {key: stated for key, file in files.items() if (stated := find_bytes(file)) is not None}
    unpacked = sum(size for key, size in known.items() if files[key].unpack)
    words = f"{len(known)} of {len(files)} files; reproduce/sources.yaml states their sizes"
    items.append(Item("data", sum(known.values()), words, downloaded=True, folder="downloads"))
    items.append(Item("unpacked", unpacked, "taken to be as large as the archives, which stay", folder="downloads"))
    return Disk(tuple(items), tuple(f"{repo}: {path}" for repo, path in sorted(files.keys() - known.keys())))


def find_bytes(file: SourceFile) -> float | None:
    """The size that the catalogue states for a file."""
    return float(file.bytes) if file.bytes is not None else file.gb * 1e9 if file.gb is not None else None


def read_free(path: Path) -> tuple[int, int]:
    """(device, free bytes) where `path` lies or will lie."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return place.stat().st_dev, shutil.disk_usage(place).free


def refuse_disk(needs: dict[str, tuple[float, int, int]]) -> list[str]:
    """Folders that need more than is free; needs: folder -> (bytes, device, free bytes). One disk counts once."""
    faults = []
    for device in sorted({device for _, device, _ in needs.values()}):
        folders = {name: need for name, (need, where, _) in needs.items() if where == device}
        free = next(free for _, where, free in needs.values() if where == device)
        if sum(folders.values()) > free:
            parts = " and ".join(f"{need / 1e9:.0f} GB in {name}" for name, need in folders.items())
            faults.append(
                f"disk: {parts} needed, {free / 1e9:.0f} GB are free there; free space, use --runs DIR or "
                "source.downloads on another disk, or train on fewer tasks (source.training.tasks)"
            )
    return faults
