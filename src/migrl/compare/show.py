"""A comparison as tables: for the terminal, and as Markdown for a pull request."""

import re
from collections.abc import Iterator

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from migrl.compare.pairs import Cell, Comparison
from migrl.markdown_table import make_table
from migrl.report.text import escape_cell, name_task, reveal, show_interval, show_p, show_percent, show_points

RULES = (
    "Accuracy and delta (B − A) in percent: the mean over tasks, over all the mean over every task of every benchmark; "
    "95 % intervals by resampling image sets. Won: B hits what A misses.",
    "p: exact McNemar test of the samples won and lost, as if samples were independent: for information, the interval "
    "decides. Image, parse: samples where B names another image, or its answer was read with another status.",
)
SHOWN_CHANGES = 6
LABEL_WIDTH = 24  # a longer name must not push the numbers out of the table
SCORES = ("n", "A", "B", "B − A", "95 %")
COLUMNS = (*SCORES, "won", "lost", "both hit", "both miss", "p", "image", "parse")


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print both sides, the accuracies with their deltas, the counts of pairs, and what the columns mean."""

    def say(line: str, style: str = "") -> None:
        console.print(Text(reveal(line), style), soft_wrap=True)

    for line in list_head(comparison):
        say(line, "bold" if line == comparison.warning else "")
    for part in (slice(len(SCORES)), slice(len(SCORES), None)):  # side by side they are wider than a terminal
        numbers = [Column(name, justify="right", no_wrap=name == "p") for name in COLUMNS[part]]
        table = Table(Column("", no_wrap=True, max_width=LABEL_WIDTH), *numbers, box=SIMPLE)
        for benchmark, task, cell in list_cells(comparison):
            if not task:
                table.add_section()
            label = Text(f"  {reveal(name_task(task))}") if task else Text(reveal(benchmark or "all"), "bold")
            table.add_row(label, *map(Text, show_cell(cell)[part]))
        console.print(table)
    for line in list_changes(comparison):
        say(line)
    for line in RULES:
        say(line, "dim")


def render_markdown(comparison: Comparison) -> str:
    """The same as text with one Markdown table; whatever a peer wrote is inert in it."""
    rows = []
    for benchmark, task, cell in list_cells(comparison):
        name = escape_markdown(name_task(task)) if task else f"**{escape_markdown(benchmark or 'all')}**"
        rows.append((name, *map(escape_cell, show_cell(cell))))
    table = make_table(f"benchmark, task | {': | '.join(COLUMNS)}:", rows)
    head, changes = map(escape_markdown, list_head(comparison)), map(escape_markdown, list_changes(comparison))
    below = [f"{line}  " for line in (*changes, *RULES)]
    return "\n".join([*(f"{line}  " for line in head), "", *table, "", *below, ""])


def escape_markdown(text: str) -> str:
    """A text that is no markup in Markdown, not even a link or a picture, and fits a cell of a table."""
    return escape_cell(re.sub(r"([\\\\`*_\[\]!~])", r"\\\1", text))


def list_head(comparison: Comparison) -> list[str]:
    """What is compared, in sentences; a difference that was let through comes first."""
    head = [comparison.warning] if comparison.unlike else []
    return [*head, f"A: {comparison.a.title}", f"B: {comparison.b.title}", *comparison.notes]


def list_cells(comparison: Comparison) -> Iterator[tuple[str, str, Cell]]:
    """Benchmark, task and cell of each line of a table; of a single benchmark there is no line for all."""
    several = len({benchmark for benchmark, _ in comparison.cells if benchmark}) > 1
    return ((*key, cell) for key, cell in comparison.cells.items() if any(key) or several)


def list_changes(comparison: Comparison) -> list[str]:
    """How many texts are the same, and how often a status became which other one, the most frequent first."""
    lines, texts = [], comparison.texts
    if texts is not None:
        share = texts["others_share"]
        begin = "" if share is None else f"; the others share the first {share:.0%} (median) of A's words"
        lines.append(f"completions: {texts['equal']:,} of {texts['n']:,} are the same text{begin}")
    changes = [f"{change.replace('->', '→')} {count}" for change, count in comparison.overall.statuses.items()]
    more = f", and {len(changes) - SHOWN_CHANGES} more kinds" if len(changes) > SHOWN_CHANGES else ""
    return [*lines, f"parse status, A → B: {', '.join(changes[:SHOWN_CHANGES])}{more}"] if changes else lines


def show_cell(cell: Cell) -> tuple[str, ...]:
    """The texts of `COLUMNS`."""
    images = "–" if cell.images_changed is None else f"{cell.images_changed:,}"
    return (
        f"{cell.n:,}",
        show_percent(cell.accuracy_a),
        show_percent(cell.accuracy_b),
        show_points(cell.delta),
        show_interval(vars(cell), show_points) or "–",
        *(f"{count:,}" for count in (cell.wins, cell.losses, cell.both_hit, cell.both_miss)),
        show_p(cell.mcnemar_p),
        images,
        f"{sum(cell.statuses.values()):,}",
    )
