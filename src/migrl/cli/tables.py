"""What the command prints: verdicts, scores, rescoring reports, and what was fetched, as tables for terminals."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from migrl.errors import UserError
from migrl.files import read_json

if TYPE_CHECKING:
    from migrl.data.hub_source import Inspection
    from migrl.engines.server.estimate import Estimate


def print_claims(folder: Path, console: Console) -> None:
    """Print the verdict table of a results folder.

    Raises:
        UserError: its `claims.json` is missing or no list of judged claims.
    """
    table = Table(
        "claim", "delta", "95 % interval", "n", "verdict", title=f"{folder.name} recipe", title_justify="left"
    )
    path = folder / "claims.json"
    try:
        claims = read_json(path)
        if not isinstance(claims, list):
            raise TypeError(f"a JSON {type(claims).__name__}")
        for claim in claims:
            table.add_row(*map(escape, list_claim_cells(claim)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: not a list of judged claims ({error!r}); restore the file") from error
    console.print(table)


def list_claim_cells(claim: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """A judged claim's id, delta, interval, number of samples and verdict."""
    if claim["delta"] is None:
        return str(claim["id"]), "-", "-", "-", str(claim["verdict"])
    interval = f"{claim['low']:+.1f} to {claim['high']:+.1f}"
    return str(claim["id"]), f"{claim['delta']:+.1f}", interval, str(claim["n"]), str(claim["verdict"])


def print_measurements(folder: Path, console: Console) -> None:
    """Print what the stages of a rehearsal cost."""
    from migrl.evidence.measurements import COLUMNS, MEASURED, MEASUREMENTS, list_cells

    data = read_json(folder / MEASUREMENTS)
    table = Table("stage", *COLUMNS.values(), title=f"{folder.name} on {data['device']}", title_justify="left")
    for name in MEASURED:
        table.add_row(name, *list_cells(name, data))
    console.print(table)


def print_scores(folder: Path, served: Collection[str], console: Console) -> None:
    """Print the accuracies of an evaluate stage's folder: a look before the report, or without training at all.

    `served` are the arms that a server answers for.
    """
    from migrl.scoring.comparable import index_rows
    from migrl.scoring.detections import MEANING
    from migrl.scoring.rows import load_rows
    from migrl.scoring.scores import compute_scores

    table = Table("arm", "benchmark", "macro", "95 % interval", "micro", "official rule", "readable")
    scores = compute_scores(index_rows(load_rows(folder / "samples.jsonl"), served))
    for arm, benchmarks in scores.items():
        for benchmark, cell in benchmarks.items():
            official = f"{cell['compat']['macro']:.1f}" if "compat" in cell else "-"
            macro, micro, readable = (f"{cell[key]:.1f}" for key in ("macro", "micro", "parse_rate"))
            table.add_row(arm, benchmark, macro, _span(cell["low"], cell["high"]), micro, official, f"{readable} %")
    console.print(table)
    listed = [
        (arm, name, cell["detections"]) for arm in scores for name, cell in scores[arm].items() if "detections" in cell
    ]
    for arm, name, found in listed:
        console.print(f"{name}, {arm}: any number of boxes")
        print_detection_report(found, console)
    if listed:
        console.print(MEANING)


def print_inspections(inspections: "Iterable[Inspection]", console: Console) -> None:
    """Print what the downloads hold, then every missing picture on a line of its own."""
    table = Table("benchmark", "version", "records", "expected", "missing images", "changed files", "known defects")
    for found in inspections:
        defects = ", ".join(f"{count} x {kind}" for kind, count in found.defects.items())
        expected = "unknown" if found.expected is None else found.expected
        counts = (found.records, expected, len(found.missing), len(found.changed))
        table.add_row(found.name, found.version, *map(str, counts), defects)
    console.print(table)
    for found in inspections:
        for what, names in (("missing", found.missing), ("changed", found.changed)):
            for name in names:
                console.print(f"{what}: {found.name}: {name}", markup=False, soft_wrap=True)


def print_estimate(estimate: "Estimate", console: Console) -> None:
    """Print what a model would be asked, and a server's bill."""
    found = estimate
    table = Table(Column(""), Column("estimate", justify="right"), Column("how"), box=SIMPLE)
    table.add_row("samples", f"{found.samples:,}", f"{found.pictures:,} pictures")
    table.add_row("requests", f"{found.requests - found.answered:,}", f"{found.answered:,} more are answered already")
    table.add_row("input tokens", f"{found.text_tokens + found.picture_tokens:,}", "the whole prompt each time")
    table.add_row("  of pictures", f"{found.picture_tokens:,}", "as the fetched model counts them")
    table.add_row("output tokens", f"{found.output_tokens:,}", found.output_rule)
    table.add_row("  at most", f"{found.output_limit:,}", f"max_new_tokens={found.max_new_tokens} each")
    for label, tokens in (("bill", found.output_tokens), ("  at most", found.output_limit)):
        bill = found.compute_bill(tokens)
        how = "in the currency of price_per_million_..., repeated attempts apart" if label == "bill" else ""
        table.add_row(label, "-" if bill is None else f"{bill:,.2f}", how if bill is not None else "no prices stated")
    console.print(f"{found.title}: nothing was sent", markup=False)
    console.print(table)


def print_report(report: dict[str, Any], console: Console) -> None:
    """Print what was scored and how, one line per task, the averages, and the parse ledger."""
    rule = "" if report["rule"] == report["parser"] else f" ({report['rule']})"
    how = [f"parser {report['parser']}{rule}"]
    how += [f"frame {report['frame']}"] if "frame" in report else []
    how += ["last answer block only"] if report["cut_answer"] else []
    console.print(f"{report['benchmark']}, {report['version']}: {report['n']} items, {', '.join(how)}")
    boxed = "acc_50" in report["metrics"]
    others = {"acc_30": "IoU 0.3", "acc_70": "IoU 0.7", "mean_iou": "mean"} if boxed else {}
    names = ("n", "accuracy", "95 %", *others.values())
    columns = [Column(name, justify="right", no_wrap=True) for name in names]
    table = Table(Column("task", no_wrap=True), *columns, box=SIMPLE)
    for task, cell in report["tasks"].items():
        more = [_show(cell[other]) for other in others]
        table.add_row(task, str(cell["n"]), _show(cell["accuracy"]), _span(cell["low"], cell["high"]), *more)
    table.add_section()
    main = report["metrics"]["acc_50" if boxed else "accuracy"]
    for name, low, high in (("macro", "low", "high"), ("micro", "micro_low", "micro_high")):
        more = [_show(report["metrics"][other][name]) for other in others]
        table.add_row(name, str(report["n"]), _show(main[name]), _span(main[low], main[high]), *more)
    for name, cell in report["subsets"].items():
        table.add_row(f"macro, {name}", str(cell["n"]), _show(cell["macro"]), _span(cell["low"], cell["high"]))
    console.print(table)
    ledger = ", ".join(f"{status} {count}" for status, count in report["ledger"].items() if count)
    console.print(f"replies: {ledger}; readable {_show(report['parse_rate'])} %")
    known = (("right image", report["image_accuracy"]), ("truncated", report["truncation_rate"]))
    console.print("".join(f"{name}: {_show(value)} %\n" for name, value in known if value is not None), end="")
    if report["published_items"] not in (None, report["n"] + report["defects"].get("no_answer", 0)):
        console.print(f"annotations: {report['n']} items, the published file has {report['published_items']}: a part")
    for kind, count in report["defects"].items():
        console.print(f"annotations: {count} x {kind}")


def print_detection_report(report: dict[str, Any], console: Console) -> None:
    """Print MC-Bench's two scores, overall and by text style, or by task."""
    table = Table("style", *(Column(name, justify="right") for name in ("pairs", "AP50", "", "pair accuracy", "")))
    for style, cell in (*report["styles"].items(), ("all", report)):
        ap50 = (_show(cell["ap50"]), _span(cell["ap50_low"], cell["ap50_high"]))
        table.add_row(style, str(cell["n"]), *ap50, _show(cell["pair_accuracy"]), _span(cell["low"], cell["high"]))
    console.print(table)


def _show(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.1f} to {high:.1f}"
