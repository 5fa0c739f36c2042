"""Measurements that hold for a plan: what this very recipe took before, the rehearsal's rates, and shares of a peak.

A rate of the rehearsal is used where GPU, model shape and all settings that decide it are those of the plan; what is
not used is named.
"""

from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError, model_validator

from migrl.errors import UserError
from migrl.evidence.measurements import MEASUREMENTS
from migrl.files import explain_fault, find_from_root
from migrl.models.shapes import read_shape
from migrl.plan.assumptions import Efficiency
from migrl.plan.machine import Machine
from migrl.plan.shares import pick_shares
from migrl.plan.workload import REHEARSAL, Workload
from migrl.report.gpu_parts import Card
from migrl.running.stage import MANIFEST

SHARED = ("model.dtype", "model.attention")
DECIDING = {
    "sft": ("sft.lora", "sft.per_device_train_batch_size", "sft.max_pixels", "sft.parallel"),
    "select": ("select.rollouts", "select.batch", "select.batch_pixels", "grpo.max_pixels", "grpo.max_new_tokens"),
    "grpo": (
        *("grpo.lora", "grpo.num_generations", "grpo.per_device_train_batch_size", "grpo.max_pixels"),
        *("grpo.max_new_tokens", "grpo.parallel", "grpo.engine"),
    ),
    "evaluate": ("evaluate.max_pixels", "evaluate.max_new_tokens", "evaluate.batch", "evaluate.batch_pixels"),
}
"""The settings that decide a stage's rate, beside the model's shape and, in RL, a process's share."""
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
    stages: dict[str, Rate] = {}
    cards: dict[str, Card] = {}

    @model_validator(mode="after")
    def check_device(self) -> "Measurements":
        if (self.device is None) != (not self.stages):
            raise ValueError("device and stages stand together")
        return self


class OwnStage(_Lenient):
    """A stage of an earlier run: its wall time, the largest process so far in 10^6 bytes, and its device."""

    seconds: float
    peak_memory_mb: float
    device: Annotated[str | None, Field(validation_alias=AliasPath("facts", "performance", "device"))] = None


class Manifest(_Lenient):
    """A results folder's manifest.json."""

    settings: dict[str, Any]
    stages: dict[str, OwnStage]


@dataclass(frozen=True)
class Measured:
    """The rehearsal's stages, shares of a peak and this recipe's own stages, as far as they hold, and notes on them."""

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
    found, own = read_file(Measurements, path), read_own(results, workload, machine)
    if found is None:
        return Measured({}, {}, own, (f"no {REHEARSAL}/{MEASUREMENTS} below {results}: nothing was measured on a GPU",))
    stages, of_stages = pick_rates(found, path, workload, machine)
    shares, of_shares = pick_shares(found.cards, workload, machine)
    return Measured(stages, shares, own, tuple(f"{path}: {note}" for note in (of_stages, of_shares) if note))


def read_own(results: Path, workload: Workload, machine: Machine) -> dict[str, OwnStage]:
    """The stages of this recipe's committed run, if it had these settings and this kind of device."""
    manifest = read_file(Manifest, results / workload.recipe.name / MANIFEST)
    # Other seeds leave what a stage costs as it is.
    settings = workload.recipe.model_dump(mode="json", exclude={"seeds"})
    if manifest is None or not agrees(manifest.settings, settings):
        return {}
    devices = {stage.device for stage in manifest.stages.values() if stage.device}
    return manifest.stages if all(machine.is_kind(device) for device in devices) else {}


def pick_rates(found: Measurements, path: Path, workload: Workload, machine: Machine) -> tuple[dict[str, Rate], str]:
    """The rehearsal's stages that hold, and where they are from or why they do not."""
    if found.device is None:
        return {}, ""
    if found.not_run or not machine.is_kind(found.device):
        return {}, f"measured on {found.device}, not on {machine.device}, so not used"
    manifest = read_file(Manifest, path.parent / MANIFEST)
    if manifest is None:
        raise UserError(f"{path.parent / MANIFEST}: no such file, and it says how {path.name} was measured; restore it")
    shapes = manifest.settings.get("source", {}).get("shapes")
    if shapes is None or read_shape(find_from_root(Path(shapes))) != workload.shape:
        return {}, "measured on a model of another shape, so not used"
    here, left = workload.recipe.model_dump(mode="json"), {}
    for stage in DECIDING:
        old, new = (list_deciding(stage, settings) for settings in (manifest.settings, here))
        if differing := [f"{key}={value}" for key, value in old.items() if value != new[key]]:
            left[stage] = f"{stage} with {', '.join(differing)}"
    others = f"; other settings, so not used: {'; '.join(left.values())}" if left else ""
    note = f"measured on {found.device}{others}"
    return {stage: rate for stage, rate in found.stages.items() if stage not in left}, note


def list_deciding(stage: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What decides a stage's rate, by its dotted key."""

    def look_up(key: str) -> Any:
        return reduce(lambda part, name: part.get(name, {}), key.split("."), settings)

    found = {key: look_up(key) for key in (*SHARED, *DECIDING[stage])}
    if stage == "grpo":
        found["grpo.prompts_per_step per process"] = look_up("grpo.prompts_per_step") / look_up("launch.processes")
    return found


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
