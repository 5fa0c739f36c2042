"""What `make gpu` measures: its records as they stand in `measurements.json`, what follows from them, and their table.

A card has parts, a part has figures. A figure keeps its times and the work that was done in them; rates, shares and
ratios are computed from these wherever they are shown or used.
"""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Field

from migrl.files import Strict
from migrl.markdown_table import make_table

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Bound = Literal["train_lora", "prefill", "decode_transformers", "decode_adapter"]
"""The efficiency of reproduce/plan.yaml that a figure measures."""
COLUMNS = ("part", "what", "s", "spread", "n", "tokens/s", "rate", "of ceiling", "plan's formula", "measured by it")
DEFINITIONS = {
    "s": "median of the timed repetitions, after a warm-up; spread: (largest - smallest) / median",
    "rate": "FLOPs that the model needs (models/flops.py: neither padding nor recomputation) or bytes that must be "
    "read (decoding: weights and cache at every step), by the time; of a copy, bytes read and written",
    "of ceiling": "the rate by what the largest matrix product, or copy, reached on the same card; MFU for training",
    "plan's formula": "seconds by `migrl plan`'s assumed efficiencies, or GB in tensors (its reserve left out)",
    "measured by it": "the measured time or peak (max_memory_allocated) by the formula's",
}


class Formula(Strict):
    """What `migrl plan` computes for the same work, in seconds from low to high."""

    low: Positive
    high: Positive
    words: str


class Figure(Strict):
    """One thing that was timed: seconds of each repetition, and the work of one of them. Bytes are those moved."""

    what: str
    seconds: Annotated[tuple[Positive, ...], Field(min_length=1)]
    flops: Positive | None = None
    bytes: Positive | None = None
    tokens: Count | None = None
    items: Count | None = None
    bound: Bound | None = None
    formula: Formula | None = None

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """How far the repetitions lie apart, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def work(self) -> float | None:
        """FLOPs, or bytes where memory bounds it."""
        return self.flops or self.bytes


class Conditions(Strict):
    """What a part was measured with. Two parts may stand beside each other only where these are the same."""

    dtype: str
    attention: str
    shapes: str
    settings: dict[str, Any]
    driver: str | None
    versions: dict[str, str | None]


class Part(Strict):
    """A part that was measured, or why it was not; `complete` unless it was cut off. GB are 10^9 bytes in tensors."""

    conditions: Conditions
    revision: str | None
    dirty: bool | None
    complete: bool
    figures: dict[str, Figure] = {}
    peak_memory_gb: float | None = None
    formula_memory_gb: float | None = None
    skipped: str | None = None


class Card(Strict):
    """One device by its name, as it calls itself; `memory_gb` 0 is a processor, which speaks for no GPU."""

    memory_gb: float
    parts: dict[str, Part] = {}

    def find_ceiling(self, figure: Figure) -> float | None:
        """The most that the card reached in FLOPs or bytes per second, whichever bounds the figure."""
        ceilings = self.parts.get("ceilings")
        known = ceilings.figures.get("matmul" if figure.flops else "copy") if ceilings else None
        return known.work / known.median if known and known.work else None


def render_cards(cards: Mapping[str, Card]) -> list[str]:
    """The parts of every card as Markdown; without a card a table that says "not run"."""
    lines = ["## Parts, one by one", ""]
    head = " | ".join([*COLUMNS[:2], *(f"{name}:" for name in COLUMNS[2:])])
    if not any(card.memory_gb for card in cards.values()):
        lines += ["**Not run on a GPU so far.** `make gpu` times each part alone, in less than seven minutes."]
    for device, card in cards.items():
        rows = [row for name, part in card.parts.items() for row in list_rows(name, part, card)]
        lines += [*describe_card(device, card), "", *make_table(head, rows), ""]
    if not cards:
        names = ("ceilings", "rollouts", "grpo", "sft", "evaluate")
        lines += ["", *make_table(head, ((name, *["not run"] * (len(COLUMNS) - 1)) for name in names)), ""]
    return [*lines, *(f"- `{name}`: {text}." for name, text in DEFINITIONS.items())]


def describe_card(device: str, card: Card) -> Iterator[str]:
    """What was measured on, with one line for each set of versions."""
    yield f"**{device}**" + (f", {card.memory_gb:.0f} GB" if card.memory_gb else ": no figure here speaks for a GPU")
    said = set()
    for part in card.parts.values():
        conditions = part.conditions
        versions = ", ".join(f"{name} {version}" for name, version in conditions.versions.items() if version)
        dirty = " with uncommitted changes" if part.dirty else ""
        said.add(
            f"- driver {conditions.driver or 'none'}, {versions}; {conditions.dtype}, {conditions.shapes}; "
            f"revision {part.revision}{dirty}"
        )
    yield from ("", *sorted(said))


def list_rows(name: str, part: Part, card: Card) -> Iterator[tuple[str, ...]]:
    """The cells of a part's rows, by COLUMNS: each figure, then the peak, or why nothing was measured."""
    empty = ("–",) * (len(COLUMNS) - 2)
    if part.skipped is not None:
        yield (name, f"not measured: {part.skipped}", *empty)
    for label, figure in part.figures.items():
        cut = "" if part.complete else " (cut off)"
        yield (f"{name}: {label}{cut}", figure.what, *list_cells(figure, card))
    if part.peak_memory_gb is not None:
        formula, ratio = part.formula_memory_gb, "–"
        if formula:
            ratio = f"{part.peak_memory_gb / formula:.2f}"
        shown = "–" if formula is None else f"{formula:.1f} GB"
        yield (f"{name}: peak", f"{part.peak_memory_gb:.1f} GB in tensors", *empty[2:], shown, ratio)


def list_cells(figure: Figure, card: Card) -> tuple[str, ...]:
    """A figure's cells from the median on."""
    seconds, work, ceiling = figure.median, figure.work, card.find_ceiling(figure)
    tokens = f"{figure.tokens / seconds:,.0f}" if figure.tokens else "–"
    unit = "TFLOP/s" if figure.flops else "GB/s"
    rate = f"{work / seconds / (1e12 if figure.flops else 1e9):,.3g} {unit}" if work else "–"
    share = f"{100 * work / seconds / ceiling:.1f} %" if work and ceiling else "–"
    formula, ratio = "–", "–"
    if figure.formula is not None:
        low, high = figure.formula.low, figure.formula.high
        formula = show_span(low, high, "s")
        ratio = show_span(seconds / high, seconds / low, "")
    return (
        f"{seconds:.4g}",
        f"{100 * figure.spread:.0f} %",
        str(len(figure.seconds)),
        tokens,
        rate,
        share,
        formula,
        ratio,
    )


def show_span(low: float, high: float, unit: str) -> str:
    """A range in three figures, or one number where its ends are the same."""
    text = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g}-{high:.3g}"
    return f"{text} {unit}".strip()
