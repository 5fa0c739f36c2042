"""What a run downloads and writes. Sizes that no publisher states are called unknown and are in no sum."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from migrl.data.download.catalog import SourceFile
from migrl.plan.shapes import count_lora_parameters, count_parameters
from migrl.plan.workload import Workload
from migrl.recipe import HubSource, LoraSettings, Parallel, RehearsalSource
from migrl.running.stage import MANIFEST

KEPT_CHECKPOINTS = 3  # save_total_limit 2, and one being written
BYTES_A_TOKEN = 4  # of text
ROW_BYTES = 1500  # what a row of samples.jsonl says beside its completion
COPIES = 2  # the process's log and the stage's own file
ZERO_STATES = 12  # float32 master and Adam's two moments


@dataclass(frozen=True)
class Item:
    """Bytes of one thing on disk; `passing` ones are gone when the stage ends."""

    name: str
    bytes: float
    words: str
    passing: bool = False
    downloads: bool = False
    folder: str = "runs"


@dataclass(frozen=True)
class Disk:
    """What a stage writes, and which files of it have no stated size."""

    items: tuple[Item, ...] = ()
    unknown: tuple[str, ...] = ()

    def count(self, *, passing: bool | None = None, folder: str | None = None) -> float:
        """Bytes of the items asked for."""
        return sum(
            item.bytes for item in self.items if passing in (None, item.passing) and folder in (None, item.folder)
        )

    @property
    def download(self) -> float:
        return sum(item.bytes for item in self.items if item.downloads)


def plan_disk(kind: str, workload: Workload) -> Disk:
    """What a stage of this kind writes."""
    recipe, parameters = workload.recipe, count_parameters(workload.shape)
    weights = parameters.total * workload.number_bytes
    match kind:
        case "fetch":
            return plan_fetch(workload, weights)
        case "sft":
            return plan_trained(workload, recipe.sft.lora, recipe.sft.parallel)
        case "grpo":
            return plan_trained(workload, recipe.grpo.lora, recipe.grpo.parallel)
        case "merge":
            return Disk((Item("merged model", weights, f"{parameters.total:,} x {workload.number_bytes} bytes"),))
        case "synthesize":
            asked = {"cot": workload.measure("cot", recipe.sft.max_pixels).samples}
            return plan_texts(workload, "candidates", asked, recipe.synthesize.candidates)
        case "select" | "pass_rates":
            return plan_texts(workload, "rollouts", {"rl": workload.measure_pool(kind).samples}, recipe.select.rollouts)
        case "evaluate":
            splits, pixels = workload.list_benchmarks(), recipe.evaluate.max_pixels
            counts = {split: workload.measure(split, pixels).samples for split in splits}
            return plan_texts(workload, "samples", counts, len(recipe.evaluate.arms))
    return Disk()


def plan_fetch(workload: Workload, weights: float) -> Disk:
    """Archives stay beside what they unpack to; pictures are compressed already, so that is taken to be as much."""
    recipe, source = workload.recipe, workload.recipe.source
    size = f"{workload.number_bytes} bytes a parameter"
    from_hub = recipe.model.path in workload.assumptions.shapes and not isinstance(source, RehearsalSource)
    items = [Item("model", weights, size, downloads=from_hub)]
    teacher = recipe.local_teacher
    if teacher is not None:
        total = count_parameters(workload.find_shape(teacher.model, "teacher")).total
        from_hub = teacher.model in workload.assumptions.shapes
        items.append(Item("teacher", total * 2.0, f"{total:,} x 2 bytes", downloads=from_hub))
    if not isinstance(source, HubSource):
        return Disk(tuple(items))
    files: dict[tuple[str, str], SourceFile] = {}
    for entry in workload.sources.values():
        files |= {(file.repo, file.path): file for file in entry.files}
    known = {key: find_bytes(file) for key, file in files.items()}
    archives = sum(known[key] or 0 for key in files)
    unpacked = sum(known[key] or 0 for key, file in files.items() if file.unpack)
    stated = sum(value is not None for value in known.values())
    words = f"{stated} of {len(files)} files; reproduce/sources.yaml states their sizes"
    items.append(Item("data", archives, words, downloads=True, folder="downloads"))
    items.append(Item("unpacked", unpacked, "taken to be as large as the archives, which stay", folder="downloads"))
    unknown = tuple(f"{repo}: {path}" for (repo, path), value in sorted(known.items()) if value is None)
    return Disk(tuple(items), unknown)


def find_bytes(file: SourceFile) -> float | None:
    """The size that the catalogue states for a file."""
    return float(file.bytes) if file.bytes is not None else file.gb * 1e9 if file.gb is not None else None


def plan_trained(workload: Workload, lora: LoraSettings | None, parallel: Parallel) -> Disk:
    """The trained weights, and checkpoints with optimizer states, of which three are there for a moment."""
    parameters = count_parameters(workload.shape)
    trained = count_lora_parameters(workload.shape, lora.rank) if lora else parameters.trained_in_full
    each = 4 if lora and parallel == "none" else workload.number_bytes
    saved = (trained if lora else parameters.total) * each
    states = trained * (each + ZERO_STATES if parallel != "none" else 2 * each)
    words = f"{KEPT_CHECKPOINTS} x ({saved / 1e9:.1f} GB of weights + {states / 1e9:.1f} GB of states)"
    name = "adapter" if lora else "model"
    return Disk(
        (
            Item(name, saved, f"{trained if lora else parameters.total:,} x {each} bytes"),
            Item("checkpoints", KEPT_CHECKPOINTS * (saved + states), words, passing=True),
        )
    )


def plan_texts(workload: Workload, name: str, counts: dict[str, int | None], times: int) -> Disk:
    """Completions as text, `times` of them for each sample of a split; splits of unknown size are named."""
    tokens = workload.assumptions.lengths.completion_tokens
    rows = sum(count or 0 for count in counts.values()) * times
    words = f"{rows:,} completions x ({tokens} tokens x {BYTES_A_TOKEN} + {ROW_BYTES}) bytes, twice"
    unknown = tuple(f"samples of {split}" for split, count in counts.items() if count is None)
    return Disk((Item(name, COPIES * rows * (tokens * BYTES_A_TOKEN + ROW_BYTES), words),), unknown)


def read_free(path: Path) -> tuple[int, int]:
    """(device, free bytes) where `path` lies or will lie."""
    place = path.resolve()
    while not place.exists():
        place = place.parent
    return place.stat().st_dev, shutil.disk_usage(place).free


def is_done(home: Path, stage: str) -> bool:
    """Whether a stage's folder is finished, so that it needs no more room; its key is not compared."""
    return (home / stage / MANIFEST).is_file()
