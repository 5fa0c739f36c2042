"""Measurements that hold for a plan: shares of a peak, the rehearsal's rates, and what this very recipe took before.

A share that `make gpu` measured is used where GPU, number type, attention and the model's shape are those of the plan,
a rate where the settings that decide it are, too; what is not used is named.
"""

from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from migrl.errors import UserError
from migrl.evidence.measurements import MEASUREMENTS
from migrl.files import explain_fault, find_from_root
from migrl.plan.assumptions import Efficiency
from migrl.plan.machine import Machine
from migrl.plan.shapes import read_shape
from migrl.plan.shares import pick_shares
from migrl.plan.workload import REHEARSAL, Workload
from migrl.report.gpu_parts import Card
from migrl.running.gpu_peaks import find_gpu, load_gpus
from migrl.running.stage import MANIFEST

SHARED = ("model.dtype", "model.attention")
_BATCHES = ("select.rollouts", "select.batch", "select.batch_pixels")
_ROLLOUTS = (*_BATCHES, "grpo.max_pixels", "grpo.max_new_tokens")
DECIDING = {
    "sft": ("sft.lora", "sft.per_device_train_batch_size", "sft.max_pixels", "sft.parallel"),
    "select": _ROLLOUTS,
    "grpo": (
        *(
            "grpo.lora",
            "grpo.num_generations",
            "grpo.per_device_train_batch_size",
            "grpo.max_pixels",
            "grpo.max_new_tokens",
        ),
        *("grpo.parallel", "grpo.engine"),
    ),
    "evaluate": ("evaluate.max_pixels", "evaluate.max_new_tokens", "evaluate.batch", "evaluate.batch_pixels"),
    "pass_rates": _ROLLOUTS,
    "merge": ("sft.max_pixels",),
}
"""The settings that decide a stage's rate and its peak, beside the model's shape and, in RL, a process's share."""
_File = TypeVar("_File", bound=BaseModel)


class _Lenient(BaseModel):
    """A part of a file of results; keys that a plan does not need are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Rate(_Lenient):
    """A stage of the rehearsal: tokens per second of all processes, and the most that one held in tensors (GB)."""

    processes: int
    tokens_per_second: float | None
    peak_memory_gb: float | None


class Measurements(_Lenient):
    """measurements.json: the rehearsal's device and stages, if there was one, and the cards of `make gpu`."""

    device: str | None = None
    not_run: bool = False
    stages: Annotated[dict[str, Rate], Field(validate_default=True)] = {}
    cards: dict[str, Card] = {}

    @field_validator("stages", mode="after")
    @classmethod
    def check_device(cls, stages: dict[str, Rate], info: ValidationInfo) -> dict[str, Rate]:
        """Stages and their device stand together."""
        if (info.data.get("device") is None) != (not stages):
            raise ValueError("neither device nor stages can stand alone")
        return stages


class Performance(_Lenient):
    device: str


class Facts(_Lenient):
    performance: Performance | None = None


class OwnStage(_Lenient):
    """A stage of an earlier run: its wall time, and the largest process so far in 10^6 bytes."""

    seconds: float
    peak_memory_mb: float
    facts: Facts


class Manifest(_Lenient):
    """A results folder's manifest.json."""

    settings: dict[str, Any]
    stages: dict[str, OwnStage]


@dataclass(frozen=True)
class Measured:
    """The rehearsal's stages, shares of a peak and this recipe's own stages, as far as they hold.

    `notes` are what the reader should know of them.
    """

    stages: dict[str, Rate] = field(default_factory=dict)
    shares: dict[str, Efficiency] = field(default_factory=dict)
    own: dict[str, OwnStage] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_measured(results: Path, workload: Workload, machine: Machine) -> Measured:
    """Look for measurements that hold for this plan below `results`.

    Raises:
        UserError: a file of measurements that is broken.
    """
    path = results / REHEARSAL / MEASUREMENTS
    found = read_file(Measurements, path) or Measurements()
    stages, note = pick_rates(found, path, workload, machine)
    known = {device: card for device, card in found.cards.items() if card.memory_gb}
    cards = {device: card for device, card in known.items() if is_device(device, workload, machine)}
    shares, words = pick_shares(cards, workload, machine)
    if found.cards and not cards:
        words = f"parts measured on {', '.join(found.cards)}, not on {machine.device}, so not used"
    notes = tuple(text for text in (note, words and f"{path}: {words}") if text)
    if not notes:
        notes = (f"no {REHEARSAL}/{MEASUREMENTS} below {results}: nothing was measured on a GPU",)
    manifest = read_file(Manifest, results / workload.recipe.name / MANIFEST)
    # Other seeds leave what a stage costs as it is.
    settings = workload.recipe.model_dump(mode="json", exclude={"seeds"})
    if manifest is None or not agrees(manifest.settings, settings):
        return Measured(stages, shares, {}, notes)
    devices = {stage.facts.performance.device for stage in manifest.stages.values() if stage.facts.performance}
    own = manifest.stages if all(is_device(device, workload, machine) for device in devices) else {}
    return Measured(stages, shares, own, notes)


def pick_rates(found: Measurements, path: Path, workload: Workload, machine: Machine) -> tuple[dict[str, Rate], str]:
    """The rehearsal's stages that hold, and where they are from or why they do not."""
    if found.device is None:
        return {}, ""
    if found.not_run or not is_device(found.device, workload, machine):
        return {}, f"{path}: measured on {found.device}, not on {machine.device}, so not used"
    manifest = read_file(Manifest, path.parent / MANIFEST)
    if manifest is None:
        raise UserError(f"{path.parent / MANIFEST}: no such file, and it says how {path.name} was measured; restore it")
    shapes = manifest.settings.get("source", {}).get("shapes")
    if shapes is None or read_shape(find_from_root(Path(shapes))) != workload.shape:
        return {}, f"{path}: measured on a model of another shape, so not used"
    here = workload.recipe.model_dump(mode="json")
    differing = {stage: list_differences(stage, manifest.settings, here) for stage in DECIDING}
    left = "; ".join(f"{stage} with {', '.join(keys)}" for stage, keys in differing.items() if keys)
    note = f"{path}: measured on {found.device}" + (f"; other settings, so not used: {left}" if left else "")
    return {stage: rate for stage, rate in found.stages.items() if not differing.get(stage)}, note


def list_differences(stage: str, there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """What decides a stage's rate and is not the same in two recipes, as `key=value` of the first."""
    found = []
    for key in (*SHARED, *DECIDING[stage]):
        old, new = (reduce(lambda part, name: part.get(name, {}), key.split("."), recipe) for recipe in (there, here))
        if old != new:
            found.append(f"{key}={old}")
    if stage == "grpo" and count_share(there) != count_share(here):
        found.append(f"{count_share(there):g} completions per process")
    return found


def count_share(recipe: dict[str, Any]) -> float:
    """Completions of a step that one process makes."""
    return float(recipe["grpo"]["prompts_per_step"] * recipe["grpo"]["num_generations"] / recipe["launch"]["processes"])


def is_device(device: str, workload: Workload, machine: Machine) -> bool:
    """Whether what was measured on a device holds for the plan's; all processors are alike here."""
    if not machine.gpus or machine.kind is None:
        return not machine.gpus and device == "cpu"
    kind = find_gpu(device, load_gpus())
    return kind is not None and kind[0] == machine.kind[0]


def agrees(old: Any, new: Any) -> bool:
    """Whether settings of an earlier run are these, as far as both have a key: keys are added with time."""
    if isinstance(old, dict) and isinstance(new, dict):
        return all(agrees(value, new[key]) for key, value in old.items() if key in new)
    return bool(old == new)


def read_file(kind: type[_File], path: Path) -> _File | None:
    """Read a file of results; None if there is none.

    Raises:
        UserError: no JSON, or not of this form; it names the file and the key.
    """
    if not path.is_file():
        return None
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: {explain_fault(error)}; delete it, or restore it from the repository") from error
