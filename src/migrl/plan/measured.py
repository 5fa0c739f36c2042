"""Measurements that hold for a plan: this recipe's own run, the rehearsal's, and the shares of a peak of `make gpu`.

A run's stage tells its time where all settings are the plan's, and its rate where those are that decide it, on the same
kind of GPU and shape of model. What is not used is named.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasPath, BaseModel, Field, ValidationError

from migrl.errors import UserError
from migrl.evidence.measurements import read_cards
from migrl.files import explain_fault, find_from_root
from migrl.models.shapes import read_shape
from migrl.plan.assumptions import Efficiency
from migrl.plan.machine import Machine
from migrl.plan.workload import REHEARSAL, Workload
from migrl.recipe import Recipe, RehearsalSource
from migrl.report.gpu_parts import Part
from migrl.running.gpu_peaks import GPUS_FILE, Gpu
from migrl.running.stage import MANIFEST

SHARED = ("model.dtype", "model.attention")
VLLM = ("vllm.tensor_parallel_size", "vllm.max_num_seqs")
DECIDING = {
    "sft": ("sft.lora", "sft.per_device_train_batch_size", "sft.max_pixels", "sft.parallel"),
    "select": (
        *("select.engine", "select.rollouts", "select.batch", "select.batch_pixels", "grpo.max_pixels"),
        *("grpo.max_new_tokens", *VLLM),
    ),
    "grpo": (
        *("grpo.lora", "grpo.num_generations", "grpo.per_device_train_batch_size", "grpo.max_pixels"),
        *("grpo.max_new_tokens", "grpo.parallel", "grpo.engine", "grpo.vllm_mode", "grpo.group_prefix"),
    ),
    "evaluate": (
        *("evaluate.engine", "evaluate.max_pixels", "evaluate.max_new_tokens", "evaluate.batch"),
        *("evaluate.batch_pixels", *VLLM),
    ),
}
"""The settings that decide a stage's rate, beside the model's shape and, in RL, a process's prompts per step."""


class Performance(BaseModel, frozen=True):
    """Tokens per second of all processes, and the most that one held in tensors on its GPU (GB)."""

    device: str
    processes: int = 1
    tokens_per_second: float | None = None
    peak_memory_gb: float | None = None


class RunStage(BaseModel, frozen=True):
    """A stage of a run: its wall time, the largest process so far in 10^6 bytes, and its performance."""

    seconds: float
    peak_memory_mb: float
    performance: Annotated[Performance | None, Field(validation_alias=AliasPath("facts", "performance"))] = None


class Run(BaseModel, frozen=True):
    """A results folder's manifest.json; keys that a plan does not need are left alone, here and in its parts."""

    settings: dict[str, Any]
    stages: dict[str, RunStage]


@dataclass(frozen=True)
class Measured:
    """Stages with all settings of the plan by their place, rates by the kind of stage, shares of a peak, and notes."""

    own: dict[str, RunStage] = field(default_factory=dict)
    rates: dict[str, Performance] = field(default_factory=dict)
    shares: dict[str, Efficiency] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_measured(results: Path, workload: Workload, machine: Machine) -> Measured:
    """Look for measurements that hold for this plan below `results`.

    Raises:
        UserError: a file of measurements that is broken.
    """
    here, notes = workload.recipe, list[str]()
    own, rates = dict[str, RunStage](), dict[str, Performance]()
    for path in dict.fromkeys(results / name / MANIFEST for name in (here.name, REHEARSAL)):
        run = read_run(path)
        if run is None:
            continue
        found = {stage: made.performance for stage, made in run.stages.items() if made.performance}
        others = [made.device for made in found.values() if not machine.is_kind(made.device)]
        try:
            there = Recipe.model_validate(run.settings)
        except ValidationError as error:
            notes.append(f"{path}: not used, as its settings are no recipe's today ({explain_fault(error)})")
            continue
        if others:
            notes.append(f"{path}: measured on {others[0]}, not on {machine.device}, so not used")
        elif not has_shape(there, workload):
            notes.append(f"{path}: measured on a model of another shape, so not used")
        # Other seeds leave what a stage costs as it is.
        elif there.model_dump(exclude={"seeds"}) == here.model_dump(exclude={"seeds"}):
            own = run.stages
        else:
            differing = {kind: list_differences(kind, there, here) for kind in DECIDING if kind in found}
            rates = {kind: found[kind] for kind, keys in differing.items() if not keys} | rates
            left = "; ".join(f"{kind} with {', '.join(keys)}" for kind, keys in differing.items() if keys)
            notes.append(f"{path}: measured" + (f"; other settings, so not used: {left}" if left else ""))
    shares, note = pick_shares(results / REHEARSAL, workload, machine)
    notes += [note] if note else []
    return Measured(own, rates, shares, tuple(notes) or (f"nothing was measured on a GPU below {results}",))


def has_shape(there: Recipe, workload: Workload) -> bool:
    """Whether a recipe's model is as large as the plan's."""
    if isinstance(there.source, RehearsalSource):
        return replace(workload, recipe=there).shape == workload.shape
    return there.model.path == workload.recipe.model.path


def list_differences(kind: str, there: Recipe, here: Recipe) -> list[str]:
    """What decides a stage's rate and is not the same in two recipes, as `key=value` of the first."""
    looks = [(key, attrgetter(key)) for key in (*SHARED, *DECIDING[kind])]
    found = [f"{key}={look(there)}" for key, look in looks if look(there) != look(here)]
    shares = [some.grpo.prompts_per_step / some.launch.processes for some in (there, here)]
    return found + ([f"{shares[0]:g} prompts per process"] if kind == "grpo" and shares[0] != shares[1] else [])


def pick_shares(folder: Path, workload: Workload, machine: Machine) -> tuple[dict[str, Efficiency], str]:
    """The lowest and highest share of each kind that `make gpu` measured, where they are from, and what is left out.

    Raises:
        UserError: more than the whole peak was reached, so the peak in gpus.yaml is wrong.
    """
    measured = {device: card for device, card in read_cards(folder).items() if card.memory_gb}
    known = {device: card for device, card in measured.items() if machine.is_kind(device)}
    if machine.kind is None or not known:
        devices = ", ".join(measured)
        return {}, f"parts measured on {devices}, not on {machine.device}, so not used" if devices else ""
    found: dict[str, list[float]] = {}
    others, model = set(), workload.recipe.model
    for part in (part for card in known.values() for part in card.parts.values()):
        conditions = part.conditions
        if (conditions.dtype, conditions.attention) != (model.dtype, model.attention):
            others.add(f"{conditions.dtype} with {conditions.attention}")
        elif read_shape(find_from_root(Path(conditions.shapes))) != workload.shape:
            others.add(conditions.shapes)
        else:
            for bound, share in list_shares(part, machine.kind[1]):
                found.setdefault(bound, []).append(share)
    note = f"parts measured on {', '.join(known)}" + (f"; not used: {', '.join(sorted(others))}" if others else "")
    return {bound: Efficiency(range=(min(some), max(some)), basis="measured") for bound, some in found.items()}, note


def list_shares(part: Part, gpu: Gpu) -> Iterator[tuple[str, float]]:
    """What each figure of a part reached of the GPU's peak in FLOP/s, or in bytes per second."""
    for figure in part.figures.values():
        if figure.bound is not None and figure.work is not None:
            share = figure.work / figure.median / (gpu.tflops * 1e12 if figure.flops else gpu.bandwidth_gb * 1e9)
            if share > 1:
                raise UserError(
                    f"{GPUS_FILE}: {figure.bound} was measured at {share:.2f} of the peak it has for {gpu.names[0]}; "
                    "correct gpus there"
                )
            yield figure.bound, share


def read_run(path: Path) -> Run | None:
    """Read a manifest of results; None if there is none.

    Raises:
        UserError: no JSON, or not of this form; it names the file and the key.
    """
    if not path.is_file():
        return None
    try:
        return Run.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: {explain_fault(error)}; delete it, or restore it from the repository") from error
