"""Training curves: what reinforcement learning and the cold start logged at each step."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from migrl.report.canvas import Plot, Theme, render_plot

SMOOTHING_REACH = 5  # the running mean takes this many rows on either side, so that it does not lag
SMOOTHED_ROWS = 40  # logs longer than this get a running mean over the raw line
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
    return render_plot(name, alt, (3.9, 2.5), paint, dark=True)


def _running_mean(values: Sequence[float]) -> list[float]:
    windows = (values[max(0, i - SMOOTHING_REACH) : i + SMOOTHING_REACH + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]
