"""Figures of the report, drawn with matplotlib's object API (no pyplot, no global state).

Every figure is rendered twice, in a light and a dark theme: the page shows the one that suits the
reader's screen, and the light one is also a file. Equal inputs give equal bytes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

DPI = 180
SMOOTHING_REACH = 5  # the running mean takes this many rows on either side, so that it does not lag
SMOOTHED_ROWS = 40  # logs longer than this get a running mean over the raw line
ARM_NAMES = {
    "sft": "SFT",
    "sft_direct": "SFT, direct",
    "rl": "RL",
    "rl_no_cold_start": "RL, no cold start",
    "rl_no_selection": "RL, no selection",
}


def name_arm(arm: str) -> str:
    """The name of an arm that a reader sees."""
    return ARM_NAMES.get(arm, arm.replace("_", " "))


@dataclass(frozen=True)
class Theme:
    """Colours of one rendering. `arms` maps arms to colours; `others` is for arms without one."""

    background: str
    ink: str
    muted: str
    grid: str
    accent: str
    arms: Mapping[str, str]
    others: tuple[str, ...]

    def arm_colour(self, arm: str, index: int) -> str:
        return self.arms.get(arm, self.others[index % len(self.others)])


# Okabe and Ito's palette, which colour-blind readers can tell apart, lightened for the dark theme.
LIGHT = Theme(
    background="#ffffff",
    ink="#1d2430",
    muted="#667085",
    grid="#e4e7ec",
    accent="#0b5cad",
    arms={"base": "#98a2b3", "sft": "#0072b2", "rl": "#d55e00"},
    others=("#009e73", "#cc79a7", "#8a6d00", "#56b4e9"),
)
DARK = Theme(
    background="#171c25",
    ink="#e6eaf2",
    muted="#9aa5b8",
    grid="#303848",
    accent="#6cb4ff",
    arms={"base": "#8b95a7", "sft": "#56b4e9", "rl": "#ff8a3d"},
    others=("#2fcf9f", "#e39cc4", "#e6c84f", "#8ecbf0"),
)


@dataclass(frozen=True)
class Plot:
    """One rendered figure: file stem, what it says in words, its PNG in both themes, its size in CSS px."""

    name: str
    alt: str
    light_png: bytes
    dark_png: bytes
    width: int
    height: int


def draw_forest(claims: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Deltas of the claims with 95 % intervals around a zero line, first claim on top; None if none was run."""
    run = [claim for claim in claims if claim.get("delta") is not None]
    if not run:
        return None

    def paint(axes: Axes, theme: Theme) -> None:
        axes.axvline(0, color=theme.ink, linewidth=1)
        for y, claim in enumerate(run):
            delta = float(claim["delta"])
            low, high = (float(delta if claim.get(key) is None else claim[key]) for key in ("low", "high"))
            decided = low > 0 or high < 0
            axes.plot([low, high], [y, y], color=theme.accent, linewidth=2.2, solid_capstyle="round")
            axes.plot(delta, y, "o", color=theme.accent, markerfacecolor=theme.accent if decided else theme.background)
            text = f"{delta:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "\N{MINUS SIGN}")
            note = axes.annotate(text, (delta, y), (0, 8), textcoords="offset points", ha="center", color=theme.ink)
            note.set_bbox({"facecolor": theme.background, "edgecolor": "none", "pad": 0.5})
            expected = claim.get("expected")
            if isinstance(expected, int | float):
                axes.plot(expected, y, "D", color=theme.muted, markerfacecolor="none", markersize=6)
        axes.set_yticks(range(len(run)), [_label(str(claim["id"])) for claim in run])
        axes.set_ylim(len(run) - 0.5, -0.75)
        axes.margins(x=0.12)
        axes.set_xlabel("difference in percentage points, 95 % interval")
        axes.grid(axis="x", color=theme.grid)

    spoken = (f"{claim['id']} {float(claim['delta']):+.1f}" for claim in run)
    return _render("forest", f"Forest plot of the deltas: {', '.join(spoken)}.", (5.2, 0.75 + 0.5 * len(run)), paint)


def draw_tasks(benchmark: str, scores: Mapping[str, Any], arms: Sequence[str]) -> Plot | None:
    """Accuracy of every task of one benchmark with its 95 % interval, one bar an arm, in percent."""
    shown = [arm for arm in arms if benchmark in scores.get(arm, {})]
    tasks = list(dict.fromkeys(task for arm in shown for task in scores[arm][benchmark].get("tasks", {})))
    if not tasks:
        return None
    thickness = 0.8 / len(shown)

    def paint(axes: Axes, theme: Theme) -> None:
        for k, arm in enumerate(shown):
            cells = scores[arm][benchmark]["tasks"]
            rows = [(y, cells[task]) for y, task in enumerate(tasks) if task in cells]
            places = [y - 0.4 + (k + 0.5) * thickness for y, _ in rows]
            means = [float(cell["accuracy"]) for _, cell in rows]
            colour = theme.arm_colour(arm, k)
            axes.barh(places, means, thickness * 0.92, color=colour, label=_label(name_arm(arm)))
            for place, mean, (_, cell) in zip(places, means, rows, strict=True):
                end = mean
                if cell.get("low") is not None and cell.get("high") is not None:
                    end = float(cell["high"])
                    (line,) = axes.plot([float(cell["low"]), end], [place, place], color=theme.ink, linewidth=1.1)
                    line.set_path_effects([withStroke(linewidth=2.8, foreground=theme.background)])
                axes.annotate(
                    f"{mean:.0f}", (end, place), (3, 0), textcoords="offset points", va="center", color=theme.muted
                )
        axes.set_yticks(range(len(tasks)), [_label(task) for task in tasks])
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("accuracy in percent, 95 % interval")
        axes.grid(axis="x", color=theme.grid)
        _legend(axes, theme)

    names = ", ".join(map(name_arm, shown))
    alt = f"Accuracy of each task of {benchmark} for {names}; the numbers are in the table below."
    height = 1.0 + len(tasks) * (0.16 * len(shown) + 0.1)
    return _render(f"tasks_{_file_stem(benchmark)}", alt, (4.5, height), paint)


CURVES = (
    ("reward", "reward", "GRPO: mean reward"),
    ("hit_reward", "hit reward", "GRPO: hit reward"),
    ("kl", "KL", "GRPO: KL to the cold start"),
    ("zero_variance", "fraction of groups", "GRPO: groups of zero variance"),
    ("completion_length", "tokens", "GRPO: completion length"),
    ("truncation", "fraction", "GRPO: truncated completions"),
)


def draw_grpo_curves(log: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """One plot a logged quantity of RL training, over steps. A quantity that was never logged has none."""
    plots = (_draw_curve(log, key, f"grpo_{key}", unit, title) for key, unit, title in CURVES)
    return [plot for plot in plots if plot is not None]


def draw_sft_curve(log: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """The loss of the cold start over steps; empty if it was never logged."""
    plot = _draw_curve(log, "loss", "sft_loss", "loss per token", "Cold start: SFT loss")
    return [plot] if plot else []


def draw_pass_rates(pass_rates: Mapping[str, Any]) -> Plot:
    """How many samples of the RL pool were hit in 0..k of their k rollouts; 0 and k carry no signal."""
    k = int(pass_rates["k"])
    counts = [int(pass_rates["counts"].get(str(hits), 0)) for hits in range(k + 1)]

    def paint(axes: Axes, theme: Theme) -> None:
        for hits, count in enumerate(counts):
            useful = 0 < hits < k
            face = theme.accent if useful else theme.background
            bar = axes.bar(hits, count, 0.78, facecolor=face, edgecolor=theme.accent if useful else theme.muted)
            bar.patches[0].set_hatch("" if useful else "////")
            axes.annotate(f"{count}", (hits, count), (0, 3), textcoords="offset points", ha="center", color=theme.ink)
        axes.set_xticks(range(k + 1), [f"{hits}/{k}" for hits in range(k + 1)])
        axes.margins(y=0.14)
        axes.set_xlabel("hits in the rollouts of one sample (hatched: no signal, dropped)")
        axes.set_ylabel("samples")
        axes.grid(axis="y", color=theme.grid)

    spoken = ", ".join(f"{count} at {hits}/{k}" for hits, count in enumerate(counts))
    return _render("pass_rates", f"Histogram of pass rates: {spoken}.", (4.5, 2.5), paint)


def _draw_curve(log: Sequence[Mapping[str, Any]], key: str, name: str, unit: str, title: str) -> Plot | None:
    points = [
        (float(row["step"]), float(row[key]))
        for row in log
        if isinstance(row.get(key), int | float) and isinstance(row.get("step"), int | float)
    ]
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return None
    steps, values = [point[0] for point in points], [point[1] for point in points]
    smooth = len(values) > SMOOTHED_ROWS

    def paint(axes: Axes, theme: Theme) -> None:
        raw = theme.muted if smooth else theme.accent
        marker = "o" if len(values) == 1 else ""
        axes.plot(
            steps, values, color=raw, linewidth=0.8 if smooth else 1.6, alpha=0.55 if smooth else 1, marker=marker
        )
        if smooth:
            axes.plot(steps, _running_mean(values), color=theme.accent, linewidth=2)
        axes.set_title(title, loc="left", color=theme.ink)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(color=theme.grid)

    alt = f"{title}, from {values[0]:.3g} at step {steps[0]:.0f} to {values[-1]:.3g} at step {steps[-1]:.0f}."
    return _render(name, alt, (3.9, 2.5), paint)


def _running_mean(values: Sequence[float]) -> list[float]:
    windows = (values[max(0, i - SMOOTHING_REACH) : i + SMOOTHING_REACH + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _render(name: str, alt: str, size_inch: tuple[float, float], paint: Callable[[Axes, Theme], None]) -> Plot:
    light, dark = (_render_png(size_inch, paint, theme) for theme in (LIGHT, DARK))
    return Plot(name, alt, light, dark, round(size_inch[0] * 100), round(size_inch[1] * 100))


def _render_png(size_inch: tuple[float, float], paint: Callable[[Axes, Theme], None], theme: Theme) -> bytes:
    defaults = {**matplotlib.rcParamsDefault, "backend": matplotlib.rcParams["backend"]}
    with matplotlib.rc_context(defaults):  # a reader's own matplotlibrc must not change the evidence
        figure = Figure(figsize=size_inch, dpi=DPI, layout="constrained", facecolor=theme.background)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor=theme.background)
        paint(axes, theme)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.muted, length=0, labelsize=9.5)
        axes.tick_params(axis="y", labelcolor=theme.ink)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=theme.muted, fontsize=9.5)
        axes.title.set_fontsize(10.5)
        for text in axes.texts:
            text.set_fontsize(9)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
        png = BytesIO()
        figure.savefig(png, format="png", facecolor=theme.background, metadata={"Software": None})
    return png.getvalue()


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, labelcolor=theme.ink, fontsize=9.5)


def _label(name: str) -> str:
    # A dollar sign would switch matplotlib to formulas, and a wrong formula stops the drawing.
    return name.replace("_", " ").replace("$", r"\$")


def _file_stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "unnamed"
