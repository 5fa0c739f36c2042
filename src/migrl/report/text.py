"""How values read in a report: numbers, intervals, facts, and texts in which nothing hides.

Everything a model wrote is hostile until shown otherwise: `reveal` spells out what would not show or
would reorder the text around it, and `escape_cell` makes any text inert in a cell of a Markdown table.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any

from markupsafe import Markup

from migrl.recipe.arms import ARMS

PAPER = "arXiv 2507.00748"
BADGES = {
    "reproduced": ("✓", "good"),
    "direction only": ("↗", "fair"),
    "not reproduced": ("✗", "bad"),
    "inconclusive": ("?", "open"),
    "not run": ("–", "none"),
}
"""Verdict -> the sign before it, and the tone that the page colours it in."""

_UNSHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), lone surrogate, odd line ends


def order_arms(arms: Collection[str]) -> list[str]:
    """Arms as the pages list them: those that every recipe has in their order, then others by name."""
    return [arm for arm in ARMS if arm in arms] + sorted(arm for arm in arms if arm not in ARMS)


def name_arm(arm: str) -> str:
    """The name of an arm that a reader sees; a recipe's own arms are called as it calls them."""
    return ARMS[arm].title if arm in ARMS else arm


def name_task(task: str) -> str:
    """The name of a task that a reader sees."""
    return task.replace("_", " ")


def flatten(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Facts as (dotted name, text) pairs, in their order."""
    flat: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            flat += flatten(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            flat.append((f"{prefix}{key}", text))
    return flat


def reveal(value: Any) -> Any:
    """Spell out characters that would not show or would reorder the text around them, such as U+202E."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(
        f"\\u{{{ord(char):x}}}" if unicodedata.category(char) in _UNSHOWN and char not in "\n\t" else char
        for char in value
    )


def show_points(value: Any, decimals: int = 1) -> str:
    """A signed difference, with one decimal unless told; a text stays as it is, and nothing is a dash."""
    if not is_number(value):
        return str(value) if value else "–"
    text = f"{value:+.{decimals}f}"
    return text.replace("-", "−") if float(text) else text[1:]  # a zero has no sign


def show_claimed(value: Any) -> str:
    """A difference as the paper prints it: two decimals, the last one only where it says something."""
    text = show_points(value, 2)
    return text[:-1] if is_number(value) and text.endswith("0") else text


def show_percent(value: Any) -> str:
    """A percentage with one decimal, without the sign; nothing is a dash."""
    return f"{value:.1f}" if is_number(value) else "–"


def show_rate(value: Any) -> str:
    """A rate in percent."""
    return f"{value:.1f}\N{NO-BREAK SPACE}%" if is_number(value) else "–"


def show_interval(record: Mapping[str, Any], show: Callable[[Any], str]) -> str:
    """`[low, high]` of a record, empty if it has none."""
    bounds = (record.get("low"), record.get("high"))
    return f"[{show(bounds[0])}, {show(bounds[1])}]" if all(map(is_number, bounds)) else ""


def show_p(value: Any) -> str:
    """A p value with two digits that count; below a thousandth only that, and nothing is a dash."""
    if not is_number(value):
        return "–"
    return "< 0.001" if value < 1e-3 else f"{value:.2g}"


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def escape_cell(value: Any) -> str:
    """Any value as inert text in a cell of a Markdown table: no markup, no link, no picture."""
    text = str(reveal("–" if value is None else str(value)))
    for char, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("](", "]\\("), ("\n", " ")):
        text = text.replace(char, safe)
    return text
