"""A plan as text for terminals of 80 columns and more: a table, each stage's formulas, the sums and the verdict."""

from collections import Counter

from rich.box import SIMPLE
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from migrl.plan.build import Plan, StagePlan

GB = 1e9


def print_plan(plan: Plan, console: Console, *, formulas: bool) -> None:
    """Print a plan; `formulas` adds where each part of a peak is from, and what is assumed of every split."""
    machine = plan.machine
    what = f"{machine.gpus} x {machine.device}, {machine.gpu_bytes / GB:.1f} GB each" if machine.gpus else "no GPU"
    host = f"{machine.cores} cores, {machine.host_bytes / GB:.0f} GB of memory"
    say(console, f"recipe {plan.recipe} on {what} ({machine.found}); this machine: {host}")
    for note in plan.notes:
        say(console, note)
    console.print(make_table(plan))
    for stage in plan.stages:
        console.print(Text(stage.name, style="bold"), Text(stage.words), soft_wrap=False)
        for line in describe_stage(stage, plan, formulas=formulas):
            say(console, line, indent=2)
    if formulas:
        say(console, "prompts")
        for split, source in plan.prompts.items():
            say(console, f"{split}: {source}", indent=2)
    console.print(Text(describe_totals(plan), style="bold"))


def make_table(plan: Plan) -> Table:
    """One line per stage."""
    right = [Column(name, justify="right") for name in ("GPU-hours", "wall time", "GPU GB", "disk GB", "download GB")]
    table = Table(Column("stage", no_wrap=True), *right, box=SIMPLE)
    for stage in plan.stages:
        duration, disk = stage.duration, stage.disk
        more = "+" * bool(disk.unknown)  # files of unknown size come on top
        table.add_row(
            stage.name + " (done)" * stage.done,
            "-" if duration is None or not duration.gpus else show_range(duration.gpu_hours),
            "-" if duration is None else show_hours(duration.hours),
            "-" if stage.peak is None or not plan.machine.gpus else f"{stage.peak.device.total / GB:.1f}",
            "-" if not disk.items else show_gb(disk.count()) + more,
            "-" if not disk.download else show_gb(disk.download) + more,
        )
    return table


def describe_stage(stage: StagePlan, plan: Plan, *, formulas: bool) -> list[str]:
    """Each figure of a stage with its formula."""
    duration, peak, disk = stage.duration, stage.peak, stage.disk
    mark = "assumed, not measured: " if duration and duration.basis == "assumed" else ""
    time = f"{mark}{duration.words} = {show_hours(duration.hours)}" if duration else f"not estimated: {stage.why_none}"
    lines = [f"time    {time}"]
    if peak is not None:
        large = [part for part in peak.device.parts if part.bytes >= 0.01 * peak.device.total]
        parts = " + ".join(f"{part.name} {show_gb(part.bytes)}" for part in large)
        have = f" of {show_gb(plan.machine.gpu_bytes)}" if plan.machine.gpus else ""
        total = f"{show_gb(peak.device.total)}{have} GB in {peak.device.phase}"
        lines.append(f"memory  {total}: {parts}; a formula, not measured")
        if formulas:
            lines += [f"        {part.name} {show_gb(part.bytes)} GB: {part.words}" for part in peak.device.parts]
        lines.append(f"host    {show_gb(peak.host.bytes)} GB: {peak.host.words}")
    lines += [f"known   {text}" for text in stage.measured]
    for item in disk.items:
        how = ", downloaded" * item.downloaded + ", gone at the end" * item.passing
        lines.append(f"disk    {item.name} {show_gb(item.bytes)} GB{how}: {item.words}")
    if disk.download:
        hours = disk.download * 8 / (plan.network_gbit * 1e9) / 3600
        lines.append(f"network {show_gb(disk.download)} GB at {plan.network_gbit:g} Gbit/s: {hours:.1f} h")
    if disk.unknown:
        owners = Counter(name.split(":")[0] for name in disk.unknown)
        counts = [f"{owner} ({number} files)" if number > 1 else owner for owner, number in owners.items()]
        lines.append(f"unknown in no sum: {', '.join(disk.unknown if formulas else counts)}")
    return lines


def describe_totals(plan: Plan) -> str:
    """The sums and the verdict."""
    totals, count = plan.totals, len(plan.refusals)
    hours = "no times"
    if totals.hours[1]:
        without = f" without {', '.join(totals.without_hours)}" if totals.without_hours else ""
        gpu_hours = f"{show_range(totals.gpu_hours)} GPU-hours, " if plan.machine.gpus else ""
        money = f"money {show_range(totals.money)}, " if totals.money else ""
        hours = f"{gpu_hours}{money}{show_hours(totals.hours)} of wall time{without}"
    unknown = f" and {totals.unknown_files} files of unknown size" if totals.unknown_files else ""
    verdict = "fits" if not count else f"does not fit: {count} refusal{'s' * (count > 1)}"
    return f"total: {hours}; disk {show_gb(totals.disk)} GB; download {show_gb(totals.download)} GB{unknown}; {verdict}"


def show_range(span: tuple[float, float]) -> str:
    """A range, with a digit behind the point where it is short."""
    low, high = (f"{value:.1f}" if value < 10 else f"{value:,.0f}" for value in span)
    return low if low == high else f"{low}-{high}"


def show_hours(hours: tuple[float, float]) -> str:
    """A range of hours, in minutes where it is short."""
    unit, factor = ("min", 60) if hours[1] < 1 else ("h", 1)
    low, high = (f"{value * factor:.1f}" for value in hours)
    return f"{low} {unit}" if low == high else f"{low}-{high} {unit}"


def show_gb(size: float) -> str:
    """GB, with more digits where it is little."""
    return "0" if not size else f"{size / GB:.1f}" if size >= 0.05 * GB else f"{size / GB:.3f}"


def say(console: Console, text: str, indent: int = 0) -> None:
    console.print(Padding(Text(text), (0, 0, 0, indent), expand=False))
