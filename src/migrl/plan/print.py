"""A plan as text for terminals of 80 columns and more: a table, each stage's formulas, the sums and the verdict."""

from collections import Counter

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from migrl.plan.build import Plan, StagePlan
from migrl.plan.costs import show_hours
from migrl.plan.memory import Memory
from migrl.plan.timing import Duration

GB = 1e9


def print_plan(plan: Plan, console: Console, *, formulas: bool) -> None:
    """Print a plan; `formulas` adds where each part of a peak is from, and what is assumed of every split."""
    machine = plan.machine
    what = f"{machine.gpus} x {machine.device}, {machine.gpu_bytes / GB:.1f} GB each" if machine.gpus else "no GPU"
    host = f"{machine.cores} cores, {machine.host_bytes / GB:.0f} GB of memory"
    _say(console, f"recipe {plan.recipe} on {what} ({machine.found}); this machine: {host}")
    for note in plan.notes:
        _say(console, note)
    console.print(_make_table(plan))
    for stage in plan.stages:
        _print_stage(stage, plan, console, formulas=formulas)
    if formulas:
        _say(console, "prompts")
        for split, source in plan.prompts.items():
            _say(console, f"{split}: {source}", indent=2)
    _print_totals(plan, console)


def _make_table(plan: Plan) -> Table:
    right = [Column(name, justify="right") for name in ("GPU-hours", "wall time", "GPU GB", "disk GB", "download GB")]
    table = Table(Column("stage", no_wrap=True), *right, box=SIMPLE)
    for stage in plan.stages:
        duration = stage.cost.duration
        peak = stage.peak.device if stage.peak and plan.machine.gpus else None
        table.add_row(
            stage.name + (" (done)" if stage.done else ""),
            "-" if duration is None or not duration.gpus else show_range(duration.gpu_hours),
            "-" if duration is None else show_hours(duration.hours),
            "-" if peak is None else f"{peak.total / GB:.1f}",
            "-" if not stage.disk.items else show_gb(stage.disk.count(), stage.disk.unknown),
            "-" if not stage.disk.download else show_gb(stage.disk.download, stage.disk.unknown),
        )
    return table


def _print_stage(stage: StagePlan, plan: Plan, console: Console, *, formulas: bool) -> None:
    cost = stage.cost
    console.print(Text(stage.name, style="bold"), Text(cost.words), soft_wrap=False)
    _say(console, f"time    {explain_duration(cost.duration, cost.why_none)}", indent=2)
    if stage.peak is not None and stage.peak.device is not None:
        _say(console, f"memory  {explain_memory(stage.peak.device, plan)}", indent=2)
        if stage.measured_memory_gb is not None:
            _say(console, f"measured in the rehearsal: {stage.measured_memory_gb:.1f} GB in tensors", indent=10)
        if formulas:
            for part in stage.peak.device.parts:
                _say(console, f"{part.name} {part.bytes / GB:.2f} GB: {part.words}", indent=10)
        host = stage.peak.host
        _say(console, f"host    {host.bytes / GB:.1f} GB: {host.words}", indent=2)
        if stage.measured_host_gb is not None:
            words = "measured in an earlier run of this recipe, the largest process so far"
            _say(console, f"{stage.measured_host_gb:.1f} GB, {words}", indent=10)
    for item in stage.disk.items:
        passing = ", gone at the end" if item.passing else ""
        fetched = ", downloaded" if item.downloads else ""
        _say(console, f"disk    {item.name} {show_gb(item.bytes)} GB{fetched}{passing}: {item.words}", indent=2)
    if stage.disk.download:
        hours = stage.disk.download * 8 / (plan.network_gbit * 1e9) / 3600
        _say(
            console,
            f"network {show_gb(stage.disk.download)} GB at {plan.network_gbit:g} Gbit/s: {hours:.1f} h",
            indent=2,
        )
    if stage.disk.unknown:
        _say(console, f"unknown {explain_unknown(stage.disk.unknown, formulas=formulas)}", indent=2)


def explain_unknown(names: tuple[str, ...], *, formulas: bool) -> str:
    """What has no stated size: every name, or how many of each repository."""
    if formulas:
        return f"in no sum: {', '.join(names)}"
    owners = Counter(name.split(":")[0] for name in names)
    counts = [f"{owner} ({number} files)" if number > 1 else owner for owner, number in owners.items()]
    return f"in no sum: {', '.join(counts)}"


def explain_duration(duration: Duration | None, why_none: str) -> str:
    """A time with its formula, and what it rests on."""
    if duration is None:
        return f"not estimated: {why_none}"
    mark = "assumed, not measured: " if duration.basis == "assumed" else ""
    return f"{mark}{duration.words} = {show_hours(duration.hours)}"


def explain_memory(memory: Memory, plan: Plan) -> str:
    """A peak as a sum of its parts."""
    parts = " + ".join(f"{part.name} {part.bytes / GB:.1f}" for part in memory.parts if part.bytes >= 0.05 * GB)
    have = f" of {plan.machine.gpu_bytes / GB:.1f}" if plan.machine.gpus else ""
    total = f"{memory.total / GB:.1f}{have} GB" if memory.total >= 0.05 * GB else f"{memory.total / 1e6:.0f} MB"
    return f"{total} in {memory.phase}{f': {parts}' if parts else ''}; a formula, not measured"


def _print_totals(plan: Plan, console: Console) -> None:
    totals = plan.totals
    unknown = f" and {totals.unknown_files} files of unknown size" if totals.unknown_files else ""
    without = f" without {', '.join(totals.without_hours)}" if totals.without_hours else ""
    gpu_hours = f"{show_range(totals.gpu_hours)} GPU-hours, " if plan.machine.gpus else ""
    count = len(plan.refusals)
    verdict = "fits" if not count else f"does not fit: {count} refusal{'s' * (count > 1)}"
    hours = f"{gpu_hours}{show_hours(totals.hours)} of wall time{without}" if totals.hours[1] else "no times"
    line = f"total: {hours}; disk {show_gb(totals.disk)} GB; download {show_gb(totals.download)} GB{unknown}; {verdict}"
    console.print(Text(line, style="bold"))


def show_range(span: tuple[float, float]) -> str:
    """A range of hours, with a digit behind the point where it is short."""
    low, high = (f"{value:.1f}" if value < 10 else f"{value:,.0f}" for value in span)
    return low if low == high else f"{low}-{high}"


def show_gb(size: float, unknown: tuple[str, ...] = ()) -> str:
    """GB; a plus says that files of unknown size come on top."""
    more = "+" if unknown else ""
    if not size:
        return f"0{more}"
    return f"{size / GB:.1f}{more}" if size >= 0.05 * GB else f"{size / GB:.3f}{more}"


def _say(console: Console, text: str, indent: int = 0) -> None:
    console.print(Padding(Text(text), (0, 0, 0, indent), expand=False))
