"""A recipe's whole plan: every stage with its cost, peak, disk and download, the totals, and what does not fit."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from migrl.pipeline import Stage, plan_stages
from migrl.plan.advice import can_share, change_recipe, list_processes
from migrl.plan.assumptions import load_assumptions
from migrl.plan.checks import list_arm_faults, list_frame_faults, list_length_faults
from migrl.plan.costs import Duration
from migrl.plan.disk import Disk, plan_disk, read_free, refuse_disk
from migrl.plan.machine import GpuOptions, Machine, choose_machine
from migrl.plan.measured import Measured, read_measured
from migrl.plan.peak import Peak, plan_peak
from migrl.plan.refuse import refuse_machine, refuse_memory
from migrl.plan.times import time_rate, time_work
from migrl.plan.work import list_work
from migrl.plan.workload import Workload
from migrl.recipe import HubSource, Recipe
from migrl.recipe.arithmetic import list_batch_faults
from migrl.running.stage import MANIFEST

UNTRAINED = ("fetch", "evaluate")  # the stages of a recipe without training data
NO_PEAK = "gpus.yaml has no peak and no bandwidth for it"
NO_FORMULA = "no formula for a processor, and not measured with these settings"


@dataclass(frozen=True)
class StagePlan:
    """One stage: `words` say what it does, `why_none` why it has no duration. A finished one needs no more disk."""

    name: str
    words: str
    duration: Duration | None
    why_none: str
    peak: Peak | None
    disk: Disk
    done: bool
    measured: tuple[str, ...]


@dataclass(frozen=True)
class Totals:
    """Sums over the stages, low and high; stages without a figure are named, not guessed."""

    gpu_hours: tuple[float, float]
    hours: tuple[float, float]
    money: tuple[float, float] | None
    without_hours: tuple[str, ...]
    disk: float
    download: float
    unknown_files: int


@dataclass(frozen=True)
class Plan:
    """What `migrl plan` prints; it fits if there are no refusals. It is made for so many `processes`."""

    recipe: str
    machine: Machine
    processes: int
    stages: tuple[StagePlan, ...]
    totals: Totals
    prompts: dict[str, str]
    notes: tuple[str, ...]
    refusals: tuple[str, ...]
    network_gbit: float

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON data; bytes are bytes, durations seconds."""
        return {**TypeAdapter(Plan).dump_python(self, mode="json"), "fits": not self.refusals}


def build_plan(recipe: Recipe, runs: Path, results: Path, options: GpuOptions, price: float | None = None) -> Plan:
    """Plan every stage of a recipe for the machine that is found or given, at so much per GPU-hour.

    Raises:
        UserError: options or files that cannot be read; what does not fit is in the plan's refusals.
    """
    assumptions = load_assumptions()
    machine = choose_machine(recipe, options, assumptions)
    workload = Workload(recipe, assumptions, runs / recipe.name)
    refusals, notes = [*list_batch_faults(recipe), *refuse_machine(workload, machine)], []
    if machine.gpus < recipe.launch.processes and (legal := list_processes(recipe, machine.gpus)):
        recipe = change_recipe(recipe, {"launch.processes": legal[0]})
        notes.append(f"what follows is planned with launch.processes={legal[0]}")
    workload = replace(workload, recipe=recipe)
    measured = read_measured(results, workload, machine)
    efficiency = assumptions.efficiency.model_copy(update=measured.shares)
    workload = replace(workload, assumptions=assumptions.model_copy(update={"efficiency": efficiency}))
    refusals += list_frame_faults(workload) + list_length_faults(workload)
    stages = []
    for stage in plan_stages(recipe):
        if not recipe.trains and stage.name not in UNTRAINED:
            continue
        changed = stage.recipe_for(recipe)
        own = workload if changed is recipe else replace(workload, recipe=changed)
        if stage.arm and stage.seed is None:
            refusals += list_arm_faults(stage.arm, own, {stage.name})
        made = plan_stage(stage, own, machine, measured)
        stages.append(made)
        # A further seed needs what the main chain does, and pass_rates what select does. What was refused as a whole
        # needs no second reason.
        refused = not can_share(stage.kind, own, machine) or (recipe.model.needs_gpu and not machine.gpus)
        if made.peak and stage.seed is None and stage.kind != "pass_rates" and not refused:
            refusals += refuse_memory(stage.name, stage.kind, made.peak, own, machine)
    notes = [*(measured.notes if machine.gpus else ()), *notes, *list_notes(workload, machine)]
    needs = {str(runs): (count_bytes(stages, "runs"), *read_free(runs))}
    if isinstance(recipe.source, HubSource):
        downloads = recipe.source.downloads
        needs[str(downloads)] = (count_bytes(stages, "downloads"), *read_free(downloads))
    full = refuse_disk(needs)
    if machine.knows_host:
        refusals += full
    else:
        notes += [f"not this machine's {fault}" for fault in full]
    return Plan(
        recipe.name,
        machine,
        recipe.launch.processes,
        tuple(stages),
        add_up(stages, price),
        {split: prompts.source for (split, _), prompts in workload.measured.items()},
        tuple(notes),
        tuple(dict.fromkeys(refusals)),
        assumptions.network_gbit,
    )


def plan_stage(stage: Stage, workload: Workload, machine: Machine, measured: Measured) -> StagePlan:
    """One stage; an earlier run of this very recipe goes before the rehearsal's rate, and that before any formula."""
    kind = stage.kind
    work, peak, done = list_work(kind, workload), plan_peak(kind, workload, machine), workload.home / stage.place
    rate = measured.rates.get("select" if kind == "pass_rates" else kind)
    own = measured.own.get(stage.place)
    if own is None and kind != "evaluate":  # that of a further seed has fewer arms
        own = measured.own.get(stage.name)
    gpus, known, why_none = workload.gpus if machine.gpus else 0, [], work.why_no_time
    if own:
        words = f"{own.seconds:,.0f} s, measured in an earlier run of this recipe"
        duration: Duration | None = Duration(own.seconds, own.seconds, gpus, words, "measured")
        known = [f"{own.peak_memory_mb / 1000:.1f} GB on the host, measured in an earlier run, the largest so far"]
        rate = own.performance
    elif rate and rate.tokens_per_second and not why_none:
        duration = time_rate(work, rate.tokens_per_second / rate.processes, workload.gpus, gpus)
    else:
        duration = None if why_none else time_work(kind, work, workload, machine)
        why_none = why_none or (NO_PEAK if machine.gpus else NO_FORMULA)
    if rate and rate.peak_memory_gb:
        known.append(f"{rate.peak_memory_gb:.1f} GB in tensors on the GPU, measured")
    is_done = (done / MANIFEST).is_file()
    disk = Disk() if is_done else plan_disk(kind, work, workload)
    return StagePlan(stage.label, work.describe(), duration, why_none, peak, disk, is_done, tuple(known))


def count_bytes(stages: list[StagePlan], folder: str | None = None) -> float:
    """What the stages write in all; what is only there for a while counts once, at its largest."""
    kept = sum(stage.disk.count(passing=False, folder=folder) for stage in stages)
    return kept + max((stage.disk.count(passing=True, folder=folder) for stage in stages), default=0.0)


def add_up(stages: list[StagePlan], price: float | None) -> Totals:
    """Sums over the stages, and the money at so much per GPU-hour."""
    durations = [stage.duration for stage in stages if stage.duration is not None]
    low, high = (sum(duration.gpu_hours[end] for duration in durations) for end in (0, 1))
    return Totals(
        gpu_hours=(low, high),
        hours=(sum(duration.hours[0] for duration in durations), sum(duration.hours[1] for duration in durations)),
        money=None if price is None else (low * price, high * price),
        without_hours=tuple(stage.name for stage in stages if stage.duration is None),
        disk=count_bytes(stages),
        download=sum(stage.disk.download for stage in stages),
        unknown_files=sum(len(stage.disk.unknown) for stage in stages if stage.name == "fetch"),
    )


def list_notes(workload: Workload, machine: Machine) -> list[str]:
    """What the reader should know about the figures."""
    notes, model, grpo = list[str](), workload.recipe.model, workload.recipe.grpo
    if grpo.engine == "vllm" and grpo.vllm_mode == "server":
        notes.append("grpo.vllm_mode=server: other GPUs make the rollouts, in no sum")
    if served := [arm for arm in workload.recipe.evaluate.arms if arm in workload.recipe.served]:
        notes.append(f"{', '.join(served)}: a server's time and money; `migrl evaluate --dry-run` prints the bill")
    if machine.gpus > workload.gpus:
        notes.append(f"{machine.gpus - workload.gpus} of {machine.gpus} GPUs stay idle")
    if machine.kind is not None and model.attention != "flash_attention_2":
        notes.append(
            f"assumed times are those of flash attention: with model.attention={model.attention} the vision tower "
            "works on a picture's windows one after the other, which nobody has timed"
        )
    if machine.gpus and model.dtype != "bfloat16":
        notes.append(f"no times: the peaks in reproduce/gpus.yaml are of bfloat16, not {model.dtype}")
    elif machine.gpus and machine.kind is None:
        notes.append(f"no times: reproduce/gpus.yaml does not know {machine.device}; add its peak and bandwidth there")
    return notes
