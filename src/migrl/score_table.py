"""The report of `migrl score` as a table for terminals."""

from typing import Any

from rich.console import Console
from rich.table import Table


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print what was scored and how, one line a task, the averages, and the parse ledger."""
    rule = "" if report["rule"] == report["parser"] else f" ({report['rule']})"
    how = [f"parser {report['parser']}{rule}"]
    how += [f"frame {report['frame']}"] if "frame" in report else []
    how += ["last answer block only"] if report["cut_answer"] else []
    console.print(f"{report['benchmark']}, {report['version']}: {report['n']} items, {', '.join(how)}")
    boxed = "acc_50" in report["metrics"]
    table = Table("task", *(_right(name) for name in ("n", "accuracy", "95 % interval")))
    if boxed:
        for name in ("IoU 0.3", "IoU 0.7", "mean IoU"):
            table.add_column(name, justify="right")
    for task, cell in report["tasks"].items():
        more = [_show(cell["acc_30"]), _show(cell["acc_70"]), _show(cell["mean_iou"])] if boxed else []
        table.add_row(task, str(cell["n"]), _show(cell["accuracy"]), _span(cell["low"], cell["high"]), *more)
    table.add_section()
    main = report["metrics"]["acc_50" if boxed else "accuracy"]
    for name, low, high in (("macro", "low", "high"), ("micro", "micro_low", "micro_high")):
        others = ("acc_30", "acc_70", "mean_iou") if boxed else ()
        more = [_show(report["metrics"][other][name]) for other in others]
        table.add_row(name, str(report["n"]), _show(main[name]), _span(main[low], main[high]), *more)
    for name, cell in report["subsets"].items():
        table.add_row(f"macro, {name}", str(cell["n"]), _show(cell["macro"]), _span(cell["low"], cell["high"]))
    console.print(table)
    ledger = ", ".join(f"{status} {count}" for status, count in report["ledger"].items() if count)
    console.print(f"replies: {ledger}; readable {_show(report['parse_rate'])} %")
    known = (("right image", report["image_accuracy"]), ("truncated", report["truncation_rate"]))
    console.print("".join(f"{name}: {_show(value)} %\n" for name, value in known if value is not None), end="")
    for kind, count in report["defects"].items():
        console.print(f"annotations: {count} x {kind}")


def _right(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.1f} to {high:.1f}"
