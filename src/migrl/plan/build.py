"""A recipe's whole plan: every stage with its cost, peak, disk and download, the totals, and what does not fit."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from migrl.pipeline import Stage, plan_stages
from migrl.plan.assumptions import load_assumptions
from migrl.plan.changes import can_share, change_recipe, list_processes
from migrl.plan.checks import list_batch_faults, list_length_faults
from migrl.plan.costs import Cost, plan_cost, time_seconds
from migrl.plan.disk import Disk, is_done, plan_disk, read_free
from migrl.plan.machine import GpuOptions, Machine, choose_machine
from migrl.plan.measured import Measured, read_measured
from migrl.plan.peaks import Peak, plan_peak
from migrl.plan.refuse import refuse_disk, refuse_machine, refuse_memory
from migrl.plan.workload import Workload
from migrl.recipe import HubSource, Recipe

UNTRAINED = ("fetch", "evaluate")  # the stages of a recipe without training data


@dataclass(frozen=True)
class StagePlan:
    """One stage. `disk` is nothing where the stage is finished already.

    Measured are the tensors on the rehearsal's GPU, and this recipe's largest process in an earlier run.
    """

    name: str
    cost: Cost
    peak: Peak | None
    disk: Disk
    done: bool
    measured_memory_gb: float | None
    measured_host_gb: float | None


@dataclass(frozen=True)
class Totals:
    """Sums over the stages, low and high; stages without a figure are named, not guessed."""

    gpu_hours: tuple[float, float]
    hours: tuple[float, float]
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
        data = {**asdict(self), "fits": not self.refusals}
        kind = self.machine.kind
        data["machine"]["kind"] = None if kind is None else {"name": kind[0], **kind[1].model_dump(mode="json")}
        for stage, plan in zip(data["stages"], self.stages, strict=True):
            if plan.peak is not None and plan.peak.device is not None:
                stage["peak"]["device"]["total"] = plan.peak.device.total
            stage["disk"]["download"] = plan.disk.download
        return data


def build_plan(recipe: Recipe, runs: Path, results: Path, options: GpuOptions) -> Plan:
    """Plan every stage of a recipe for the machine that is found or given.

    Raises:
        UserError: options or files that cannot be read; what does not fit is in the plan's refusals.
    """
    assumptions = load_assumptions()
    machine = choose_machine(recipe, options, assumptions)
    workload = Workload(recipe, assumptions, runs / recipe.name)
    faults = [*list_batch_faults(recipe), *refuse_machine(workload, machine)]
    asked, recipe = recipe.launch.processes, reduce_processes(recipe, machine)
    workload = replace(workload, recipe=recipe)
    measured = read_measured(results, workload, machine)
    efficiency = assumptions.efficiency.model_copy(update=measured.shares)
    workload = replace(workload, assumptions=assumptions.model_copy(update={"efficiency": efficiency}))
    stages, more, needs_gpu = [], [], recipe.model.needs_gpu
    for stage in plan_stages(recipe):
        if not workload.recipe.trains and stage.name not in UNTRAINED:
            continue
        changed, kind = stage.recipe_for(recipe), stage.kind
        own = workload if changed is recipe else replace(workload, recipe=changed)
        peak = plan_peak(kind, own, machine)
        # A further seed needs what the main chain does, and pass_rates what select does.
        # What was refused as a whole needs no second reason.
        refused = (needs_gpu and not machine.gpus) or (kind == "synthesize" and not can_share(own, machine))
        if peak is not None and stage.seed is None and kind != "pass_rates" and not refused:
            more += refuse_memory(stage.name, kind, peak, own, machine)
        stages.append(plan_stage(stage, peak, own, machine, measured))
    faults += [*list_length_faults(workload), *more]
    full = refuse_disk(count_disk(workload, stages, runs))
    notes = list_notes(workload, machine, measured)
    if recipe.launch.processes < asked:
        notes.append(f"what follows is planned with launch.processes={recipe.launch.processes}")
    if machine.knows_host:
        faults += full
    else:
        notes += [f"not this machine's disk: {fault}" for fault in full]
    return Plan(
        recipe=recipe.name,
        machine=machine,
        processes=recipe.launch.processes,
        stages=tuple(stages),
        totals=add_up(stages, workload),
        prompts=describe_prompts(workload),
        notes=tuple(notes),
        refusals=tuple(dict.fromkeys(faults)),
        network_gbit=assumptions.network_gbit,
    )


def plan_stage(stage: Stage, peak: Peak | None, workload: Workload, machine: Machine, measured: Measured) -> StagePlan:
    """One stage; what was measured of this very recipe goes before any formula."""
    kind = stage.kind
    cost = plan_cost(kind, workload, machine, measured)
    own = measured.own.get(stage.place)
    if own is None and kind != "evaluate":  # that of a further seed has fewer arms
        own = measured.own.get(stage.name)
    if own is not None:
        cost = Cost(cost.words, time_seconds(own.seconds, workload.gpus if machine.gpus else 0))
    elif machine.gpus == 0 and cost.duration is None and peak is not None:
        cost = Cost(cost.words, why_none="no formula for a processor, and not measured with these settings")
    done = is_done(workload.home, stage.place)
    rehearsed = measured.stages.get(kind)
    memory = rehearsed.peak_memory_gb if rehearsed else None
    host = own.peak_memory_mb / 1000 if own else None
    return StagePlan(stage.label, cost, peak, Disk() if done else plan_disk(kind, workload), done, memory, host)


def count_disk(workload: Workload, stages: list[StagePlan], runs: Path) -> dict[str, tuple[float, int, int]]:
    """Bytes that are needed, device and free bytes, for the runs folder and the downloads."""
    source = workload.recipe.source
    kept = sum(stage.disk.count(passing=False, folder="runs") for stage in stages)
    passing = max((stage.disk.count(passing=True, folder="runs") for stage in stages), default=0.0)
    needs = {str(runs): (kept + passing, *read_free(runs))}
    if isinstance(source, HubSource):
        needed = sum(stage.disk.count(folder="downloads") for stage in stages)
        needs[str(source.downloads)] = (needed, *read_free(source.downloads))
    return needs


def add_up(stages: list[StagePlan], workload: Workload) -> Totals:
    """Sums; what is only there for a while counts once, at its largest."""
    durations = [stage.cost.duration for stage in stages if stage.cost.duration is not None]
    kept = sum(stage.disk.count(passing=False) for stage in stages)
    passing = max((stage.disk.count(passing=True) for stage in stages), default=0.0)
    return Totals(
        gpu_hours=(sum(d.gpu_hours[0] for d in durations), sum(d.gpu_hours[1] for d in durations)),
        hours=(sum(d.hours[0] for d in durations), sum(d.hours[1] for d in durations)),
        without_hours=tuple(stage.name for stage in stages if stage.cost.duration is None),
        disk=kept + passing,
        download=sum(stage.disk.download for stage in stages),
        unknown_files=sum(len(stage.disk.unknown) for stage in stages if stage.name == "fetch"),
    )


def describe_prompts(workload: Workload) -> dict[str, str]:
    """Where the lengths of every split's prompts are from."""
    recipe = workload.recipe
    splits = {"cot": recipe.sft.max_pixels, "rl": recipe.grpo.max_pixels} if workload.recipe.trains else {}
    splits |= dict.fromkeys(workload.list_benchmarks(), recipe.evaluate.max_pixels)
    return {split: workload.measure(split, pixels).source for split, pixels in splits.items()}


def reduce_processes(recipe: Recipe, machine: Machine) -> Recipe:
    """The recipe with as many processes as the GPUs and the batches allow, if it has more than there are GPUs."""
    if not 0 < machine.gpus < recipe.launch.processes:
        return recipe
    legal = list_processes(recipe, machine.gpus)
    return change_recipe(recipe, {"launch.processes": legal[0]}) if legal else recipe


def list_notes(workload: Workload, machine: Machine, measured: Measured) -> list[str]:
    """What the reader should know about the figures."""
    notes = list(measured.notes) if machine.gpus else []
    if machine.gpus > workload.gpus:
        idle = machine.gpus - workload.gpus
        notes.append(f"{idle} of {machine.gpus} GPUs stay idle: launch.processes={workload.gpus}")
    attention = workload.recipe.model.attention
    if machine.kind is not None and attention != "flash_attention_2":
        notes.append(
            f"assumed times are those of flash attention: with model.attention={attention} the vision tower works on a "
            "picture's windows one after the other, which nobody has timed"
        )
    if machine.gpus and workload.recipe.model.dtype != "bfloat16":
        notes.append(f"no times: the peaks in reproduce/gpus.yaml are of bfloat16, not {workload.recipe.model.dtype}")
    elif machine.gpus and machine.kind is None:
        notes.append(f"no times: reproduce/gpus.yaml does not know {machine.device}; add its peak and bandwidth there")
    return notes
