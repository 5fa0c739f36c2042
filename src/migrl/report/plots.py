"""Training curves and histograms of pass rates: laid out here, drawn by plot.html in the page and as SVG files."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from migrl.recipe.arms import name_kind
from migrl.report.forest import list_ticks

Log = Sequence[Mapping[str, Any]]
Points = list[tuple[float, float]]
Ticks = tuple[tuple[float, str], ...]
"""Positions with their texts."""

LEFT, RIGHT, TOP, BOTTOM = 48, 382, 42, 210  # the area of the marks, in units of plot.html's 390 x 250
SMOOTHING_REACH = 5  # the running mean takes this many rows on either side, so that it does not lag
SMOOTHED_ROWS = 40  # logs longer than this get a running mean over the raw line
CURVES = {
    "grpo": (
        ("reward", "reward", "mean reward"),
        ("hit_reward", "hit reward", "hit reward"),
        ("kl", "KL", "KL to the cold start"),
        ("zero_variance", "fraction of groups", "groups of zero variance"),
        ("completion_length", "tokens", "completion length"),
        ("truncation", "fraction", "truncated completions"),
    ),
    "sft": (("loss", "loss per token", "SFT loss"),),
}
"""For each kind of training what is drawn of its log: the key, its unit, and what it is."""
MAIN_TITLES = {"grpo": "GRPO", "sft": "Cold start"}


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: `count` stands above it; `kind` is its class in plot.css."""

    x: float
    y: float
    width: float
    height: float
    count: int
    kind: str


@dataclass(frozen=True)
class Plot:
    """A figure whose positions are in units of plot.html. `alt` says in words what is seen.

    `lines` are (class in plot.css, points), `legend` the names of the two series of `bars`, if there are two.
    """

    name: str
    title: str
    alt: str
    x_label: str
    y_label: str
    x_ticks: Ticks
    y_ticks: Ticks
    lines: tuple[tuple[str, str], ...] = ()
    bars: tuple[Bar, ...] = ()
    legend: tuple[str, ...] = ()


def draw_curves(logs: Mapping[str, Log]) -> list[Plot]:
    """A plot for each quantity that a training logged, over steps; what was never logged has none.

    Args:
        logs: by the name of the stage. Those of other arms, such as `grpo_rl_kl0`, have the main arm's behind them.
    """
    plots = []
    for stage, log in logs.items():
        kind = name_kind(stage)
        title, behind = (MAIN_TITLES[kind], ()) if stage == kind else (f"{stage} (grey: {kind})", logs.get(kind, ()))
        for key, unit, what in CURVES[kind]:
            points = _read_points(log, key)
            if points:
                name = f"{stage}_{key}"
                plots.append(_draw_curve(points, _read_points(behind, key), name, unit, f"{title}: {what}"))
    return plots


def _read_points(log: Log, key: str) -> Points:
    points = [
        (float(row["step"]), float(row[key]))
        for row in log
        if isinstance(row.get(key), int | float) and isinstance(row.get("step"), int | float)
    ]
    points = [point for point in points if math.isfinite(point[1])]
    return points * (2 if len(points) == 1 else 1)  # a line to itself is a dot


def _draw_curve(points: Points, behind: Points, name: str, unit: str, title: str) -> Plot:
    steps, values = ([point[place] for point in (*points, *behind)] for place in (0, 1))
    x, x_ticks = _make_scale(min(steps), max(steps), LEFT, RIGHT, margin=0.02, least_step=1)
    y, y_ticks = _make_scale(min(values), max(values), BOTTOM, TOP, margin=0.05)

    def trace(line: Points) -> str:
        return " ".join(f"{x(step)},{y(height)}" for step, height in line)

    grey = _smooth(behind) if behind else points if len(points) > SMOOTHED_ROWS else []
    lines = [*([("raw", trace(grey))] if grey else []), ("mean", trace(_smooth(points)))]
    (first, start), (last, end) = points[0], points[-1]
    alt = f"{title}, from {start:.3g} at step {first:.0f} to {end:.3g} at step {last:.0f}."
    return Plot(name, title, alt, "step", unit, x_ticks, y_ticks, tuple(lines))


def draw_pass_rates(pass_rates: Mapping[str, Any]) -> Plot:
    """How many samples of the RL pool were hit in 0..k of their k rollouts, at selection; 0 and k carry no signal.

    Args:
        pass_rates: `k`, and `counts` of the whole pool.
    """
    counts = _count_hits(pass_rates, int(pass_rates["k"]))
    title = f"At selection, before RL: the whole pool, {sum(counts):,} samples"
    return _draw_histogram("pass_rates", title, {"": counts})


def draw_pass_rates_after(after: Mapping[str, Any]) -> Plot:
    """The same before and after RL, side by side.

    Args:
        after: `k`, `samples`, and `counts` of `before` and `after` RL on the same samples.
    """
    series = {f"{time} RL": _count_hits(after[time], int(after["k"])) for time in ("before", "after")}
    title = f"Before and after RL: {after['samples']:,} samples of the pool"
    return _draw_histogram("pass_rates_after", title, series)


def _count_hits(pass_rates: Mapping[str, Any], k: int) -> list[int]:
    return [int(pass_rates["counts"].get(str(hits), 0)) for hits in range(k + 1)]


def _draw_histogram(name: str, title: str, series: Mapping[str, Sequence[int]]) -> Plot:
    k = max(map(len, series.values())) - 1
    x, _ = _make_scale(-0.5, k + 0.5, LEFT, RIGHT)
    y, y_ticks = _make_scale(0, 1.12 * max(max(counts) for counts in series.values()), BOTTOM, TOP, least_step=1)
    width = 0.78 / len(series)
    bars = []
    for place, counts in enumerate(series.values()):
        for hits, count in enumerate(counts):
            left = hits + (place - len(series) / 2) * width
            size = (round(x(left + 0.96 * width) - x(left), 1), round(BOTTOM - y(count), 1))
            kind = f"series-{place + 2 - len(series)}{'' if 0 < hits < k else ' no-signal'}"
            bars.append(Bar(x(left), y(count), *size, count, kind))
    spoken = "; ".join(
        f"{words} " * bool(words) + ", ".join(f"{count} at {hits}/{k}" for hits, count in enumerate(counts))
        for words, counts in series.items()
    )
    alt = f"{title}. Histogram of pass rates: {spoken}."
    x_ticks = tuple((x(hits), f"{hits}/{k}") for hits in range(k + 1))
    x_label = "hits in the rollouts of one sample (hollow: no signal)"
    legend = tuple(series) if len(series) > 1 else ()
    return Plot(name, title, alt, x_label, "samples", x_ticks, y_ticks, bars=tuple(bars), legend=legend)


def _make_scale(
    low: float, high: float, start: float, end: float, *, margin: float = 0.0, least_step: float = 0.0
) -> tuple[Callable[[float], float], Ticks]:
    """Value -> position, `low` at `start` and `high` at `end` but for a margin (a share of the span); and ticks."""
    free = margin * (high - low) or 0.5 * (high == low)
    low, high = low - free, high + free

    def place(value: float) -> float:
        return round(start + (end - start) * (value - low) / (high - low), 1)

    return place, tuple((place(tick), f"{tick:g}") for tick in list_ticks(low, high, least_step))


def _smooth(points: Points) -> Points:
    """The running mean of a long log; a short one as it is."""
    if len(points) <= SMOOTHED_ROWS:
        return points
    windows = (points[max(0, i - SMOOTHING_REACH) : i + SMOOTHING_REACH + 1] for i in range(len(points)))
    means = (sum(value for _, value in window) / len(window) for window in windows)
    return [(step, mean) for (step, _), mean in zip(points, means, strict=True)]
