"""Write the report: one HTML file that needs nothing else, a short Markdown twin, and the figures.

Everything a model wrote is hostile until shown otherwise. It reaches the page as escaped text only,
invisible and direction-changing characters are spelled out, and the page's own content policy
forbids every script but the one filter, by hash, and every request to anywhere.
"""

import base64
import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from migrl.answers import READABLE, STATUSES
from migrl.report.figures import (
    Plot,
    draw_forest,
    draw_grpo_curves,
    draw_pass_rates,
    draw_sft_curve,
    draw_tasks,
    name_arm,
)
from migrl.report.gallery import build_gallery

PAPER = "arXiv 2507.00748"
ARM_ORDER = ("base", "sft", "sft_direct", "rl", "rl_no_cold_start", "rl_no_selection")
BADGES = {
    "reproduced": ("✓", "good"),
    "direction only": ("↗", "fair"),
    "not reproduced": ("✗", "bad"),
    "inconclusive": ("?", "open"),
    "not run": ("–", "none"),
}
_HERE = Path(__file__).parent
_UNSHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, format (bidi, zero width), lone surrogate, odd line ends


@dataclass(frozen=True)
class ReportLogs:
    """What training left behind: rows of both logs, the pass-rate histogram, the synthesis filters' counts.

    Empty or None means that the stage was not run, and the report says so.
    """

    grpo: list[dict[str, Any]]
    sft: list[dict[str, Any]]
    pass_rates: dict[str, Any] | None
    filters: dict[str, Any] | None


@dataclass(frozen=True)
class ScoreLine:
    """One arm on one benchmark; `score` is its entry in scores.json, `n` the number of samples."""

    benchmark: str
    arm: str
    score: Mapping[str, Any]
    n: int


def write_report(
    *,
    rows: list[dict[str, Any]],
    scores: dict[str, Any],
    claims: list[dict[str, Any]],
    logs: ReportLogs,
    images_root: Path,
    facts: dict[str, Any],
    out: Path,
) -> None:
    """Write `out`/report.html, `out`/report.md and `out`/figures/*.png. Equal inputs give equal bytes.

    Args:
        rows: evaluation sample rows (samples.jsonl).
        scores: arm -> benchmark -> score (scores.json), in percent.
        claims: verdicts (claims.json), in percentage points.
        logs: what the training stages logged.
        images_root: the folder that the rows' image paths are relative to.
        facts: provenance; nested mappings are flattened. `recipe` and `dirty` also show at the top.
        out: folder to write into; made if needed.

    Raises:
        UserError: an image of a shown sample is missing or unreadable, or a sample comes twice.
    """
    seen = dict.fromkeys([*scores, *(row["arm"] for row in rows)])
    arms = [arm for arm in ARM_ORDER if arm in seen] + sorted(arm for arm in seen if arm not in ARM_ORDER)
    lines = list_score_lines(scores, arms)
    benchmarks = list(dict.fromkeys(line.benchmark for line in lines))
    gallery = build_gallery(rows, arms, images_root)
    forest = draw_forest(claims)
    task_plots = {name: draw_tasks(name, scores, arms) for name in benchmarks}
    curves = [*draw_grpo_curves(logs.grpo), *draw_sft_curve(logs.sft)]
    histogram = draw_pass_rates(logs.pass_rates) if logs.pass_rates else None

    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    for plot in (forest, *task_plots.values(), *curves, histogram):
        if plot:
            (figures / f"{plot.name}.png").write_bytes(plot.light_png)

    script = (_HERE / "filter.js").read_text(encoding="utf-8")
    page = _environment().get_template("template.html")
    html = page.render(
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        paper=PAPER,
        recipe=facts.get("recipe", "unnamed"),
        dirty=bool(facts.get("dirty")),
        facts=flatten(facts),
        claims=claims,
        badges=BADGES,
        arms=arms,
        lines=lines,
        benchmarks=benchmarks,
        scores=scores,
        statuses=STATUSES,
        readable=READABLE,
        forest=forest,
        task_plots=task_plots,
        curves=curves,
        histogram=histogram,
        logs=logs,
        gallery=gallery,
    )
    (out / "report.html").write_text(html, encoding="utf-8", newline="\n")
    (out / "report.md").write_text(write_markdown(claims, lines, facts), encoding="utf-8", newline="\n")


def list_score_lines(scores: Mapping[str, Any], arms: Sequence[str]) -> list[ScoreLine]:
    """Scores by benchmark, then arm. `n` is the score's own, or the sum over its tasks."""
    benchmarks = dict.fromkeys(benchmark for arm in arms for benchmark in scores.get(arm, {}))
    lines = []
    for benchmark in benchmarks:
        for arm in arms:
            if (score := scores.get(arm, {}).get(benchmark)) is not None:
                tasks = score.get("tasks", {}).values()
                lines.append(ScoreLine(benchmark, arm, score, score.get("n") or sum(task["n"] for task in tasks)))
    return lines


def write_markdown(claims: Sequence[Mapping[str, Any]], lines: Sequence[ScoreLine], facts: Mapping[str, Any]) -> str:
    """Verdict table and score table for terminals and pull requests."""
    revision = f", revision {facts['git_revision']}" if facts.get("git_revision") else ""
    dirty = " (with uncommitted changes)" if facts.get("dirty") else ""
    text = [f"# Reproduction of {PAPER}: recipe {_cell(facts.get('recipe', 'unnamed'))}{_cell(revision)}{dirty}", ""]
    text += ["| claim | delta (points) | n | verdict | expected |", "|---|---:|---:|---|---:|"]
    for claim in claims:
        delta = f"{show_points(claim.get('delta'))} {show_interval(claim, show_points)}".strip()
        sign = BADGES.get(claim["verdict"], ("", ""))[0]
        cells = [
            claim["statement"],
            delta,
            claim.get("n"),
            f"{sign} {claim['verdict']}",
            show_points(claim.get("expected")),
        ]
        text.append(f"| {' | '.join(map(_cell, cells))} |")
    text += ["", "| benchmark | arm | accuracy (%) | official rule | n | unreadable | truncated |"]
    text += ["|---|---|---:|---:|---:|---:|---:|"]
    for line in lines:
        accuracy = f"{show_percent(line.score.get('macro'))} {show_interval(line.score, show_percent)}".strip()
        unreadable = sum(count for status, count in line.score.get("ledger", {}).items() if status not in READABLE)
        truncated = show_rate(line.score.get("truncation_rate"))
        official = show_percent((line.score.get("compat") or {}).get("macro"))
        cells = [line.benchmark, name_arm(line.arm), accuracy, official, line.n, unreadable, truncated]
        text.append(f"| {' | '.join(map(_cell, cells))} |")
    text += [
        "",
        "Accuracy is the mean over tasks, with its 95 % interval. The official rule reads the first box anywhere and "
        "does not look at the image chosen. Figures and samples: report.html.",
        "",
    ]
    return "\n".join(text)


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


def show_points(value: Any) -> str:
    """A signed difference with one decimal; a text stays as it is, and nothing is a dash."""
    return f"{value:+.1f}".replace("-", "−") if _is_number(value) else str(value) if value else "–"


def show_percent(value: Any) -> str:
    """A percentage with one decimal, without the sign; nothing is a dash."""
    return f"{value:.1f}" if _is_number(value) else "–"


def show_rate(value: Any) -> str:
    """A rate in percent."""
    return f"{value:.1f}\N{NO-BREAK SPACE}%" if _is_number(value) else "–"


def show_interval(record: Mapping[str, Any], show: Any) -> str:
    """`[low, high]` of a record, empty if it has none."""
    bounds = (record.get("low"), record.get("high"))
    return f"[{show(bounds[0])}, {show(bounds[1])}]" if all(map(_is_number, bounds)) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _cell(value: Any) -> str:
    text = str(reveal("–" if value is None else str(value)))
    for char, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(char, safe)
    return text


def _encode_png(plot: Plot, theme: str) -> str:
    data = plot.light_png if theme == "light" else plot.dark_png
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=reveal,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "points": show_points,
        "percent": show_percent,
        "rate": show_rate,
        "arm": name_arm,
        "png": _encode_png,
        "flat": flatten,
        "points_interval": lambda record: show_interval(record, show_points),
        "percent_interval": lambda record: show_interval(record, show_percent),
    }
    return environment
