"""Figures of the results: deltas of the claims, accuracies of the tasks, pass rates before and after RL."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from migrl.report.canvas import Plot, Theme, clean_label, render_plot
from migrl.report.text import is_number, name_arm, show_points

READING_STEP = 0.17  # of the distance between two claims


def draw_forest(claims: Sequence[Mapping[str, Any]]) -> Plot | None:
    """Deltas of the claims with 95 % intervals around a zero line, first claim on top; None if none was run.

    A diamond marks the expected delta. Other readings of a claim are lighter marks below it.
    """
    run = [claim for claim in claims if is_number(claim.get("delta"))]
    if not run:
        return None
    readings = [[one for one in claim.get("readings") or () if is_number(one.get("delta"))] for claim in run]
    places = [0.0]
    for some in readings[:-1]:
        places.append(places[-1] + 1 + READING_STEP * len(some))
    end = places[-1] + READING_STEP * len(readings[-1])

    def paint(axes: Axes, theme: Theme) -> None:
        axes.axvline(0, color=theme.ink, linewidth=1)
        for y, claim, others in zip(places, run, readings, strict=True):
            low, delta, high = _bounds(claim)
            decided = low > 0 or high < 0
            axes.plot([low, high], [y, y], color=theme.accent, linewidth=2.2, solid_capstyle="round")
            axes.plot(delta, y, "o", color=theme.accent, markerfacecolor=theme.accent if decided else theme.background)
            text = f"{show_points(delta)} [{show_points(low)}, {show_points(high)}]"
            note = axes.annotate(text, (delta, y), (0, 8), textcoords="offset points", ha="center", color=theme.ink)
            note.set_bbox({"facecolor": theme.background, "edgecolor": "none", "pad": 0.5})
            if is_number(claim.get("expected")):
                axes.plot(claim["expected"], y, "D", color=theme.ink, markerfacecolor="none", markersize=7)
            for k, other in enumerate(others, start=1):
                low, delta, high = _bounds(other)
                place = y + 0.12 + k * READING_STEP
                axes.plot([low, high], [place, place], color=theme.muted, linewidth=1, alpha=0.75)
                axes.plot(delta, place, "o", color=theme.muted, markersize=3)
        axes.set_yticks(places, [clean_label(str(claim["id"])) for claim in run])
        axes.set_ylim(end + 0.5, -0.75)
        axes.margins(x=0.12)
        axes.set_xlabel("difference in percentage points, 95 % interval")
        axes.grid(axis="x", color=theme.grid)

    spoken = (f"{claim['id']} {show_points(claim['delta'])}" for claim in run)
    size = (5.2, 0.75 + 0.5 * (end + 1))
    return render_plot("forest", f"Forest plot of the deltas: {', '.join(spoken)}.", size, paint, dark=False)


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
            axes.barh(places, means, thickness * 0.92, color=colour, label=clean_label(name_arm(arm)))
            for place, mean, (_, cell) in zip(places, means, rows, strict=True):
                end = mean
                if cell.get("low") is not None and cell.get("high") is not None:
                    end = float(cell["high"])
                    (line,) = axes.plot([float(cell["low"]), end], [place, place], color=theme.ink, linewidth=1.1)
                    line.set_path_effects([withStroke(linewidth=2.8, foreground=theme.background)])
                axes.annotate(
                    f"{mean:.0f}", (end, place), (3, 0), textcoords="offset points", va="center", color=theme.muted
                )
        axes.set_yticks(range(len(tasks)), [clean_label(task) for task in tasks])
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("accuracy in percent, 95 % interval")
        axes.grid(axis="x", color=theme.grid)
        _legend(axes, theme)

    names = ", ".join(map(name_arm, shown))
    alt = f"Accuracy of each task of {benchmark} for {names}."
    height = 1.0 + len(tasks) * (0.16 * len(shown) + 0.1)
    return render_plot(f"tasks_{_file_stem(benchmark)}", alt, (4.5, height), paint, dark=False)


def draw_pass_rates(pass_rates: Mapping[str, Any], after: Mapping[str, Any] | None = None) -> Plot:
    """How many samples of the RL pool were hit in 0..k of their k rollouts; 0 and k carry no signal.

    Args:
        pass_rates: `k` and `counts` of the whole pool, at selection.
        after: `k`, `samples`, and `counts` of `before` and `after` RL on the same samples; drawn side by side.
    """
    if after is not None:
        k = int(after["k"])
        series = [(name, _count_hits(after[name], k)) for name in ("before", "after")]
        title = f"Before and after RL: {after['samples']:,} samples of the pool"
    else:
        k = int(pass_rates["k"])
        series = [("", _count_hits(pass_rates, k))]
        title = f"At selection, before RL: the whole pool, {sum(series[0][1]):,} samples"
    width = 0.78 / len(series)

    def paint(axes: Axes, theme: Theme) -> None:
        colours = (theme.muted, theme.accent) if len(series) > 1 else (theme.accent,)
        for place, ((name, counts), colour) in enumerate(zip(series, colours, strict=True)):
            for hits, count in enumerate(counts):
                useful = 0 < hits < k
                x = hits + (place - (len(series) - 1) / 2) * width
                face, words = colour if useful else theme.background, f"{name} RL" if name and hits == 1 else None
                bar = axes.bar(x, count, width * 0.96, facecolor=face, edgecolor=colour, label=words)
                bar.patches[0].set_hatch("" if useful else "////")
                axes.annotate(f"{count}", (x, count), (0, 3), textcoords="offset points", ha="center", color=theme.ink)
        axes.set_xticks(range(k + 1), [f"{hits}/{k}" for hits in range(k + 1)])
        axes.margins(y=0.14)
        axes.set_xlabel("hits in the rollouts of one sample (hatched: no signal)")
        axes.set_ylabel("samples")
        axes.grid(axis="y", color=theme.grid)
        axes.set_title(title, loc="left", color=theme.ink, fontsize=10, pad=22 if len(series) > 1 else 6)
        if len(series) > 1:
            _legend(axes, theme)

    spoken = "; ".join(
        f"{name + ' RL ' if name else ''}" + ", ".join(f"{count} at {hits}/{k}" for hits, count in enumerate(counts))
        for name, counts in series
    )
    stem = "pass_rates" if after is None else "pass_rates_after"
    return render_plot(stem, f"{title}. Histogram of pass rates: {spoken}.", (4.5, 2.6), paint, dark=True)


def _count_hits(pass_rates: Mapping[str, Any], k: int) -> list[int]:
    return [int(pass_rates["counts"].get(str(hits), 0)) for hits in range(k + 1)]


def _bounds(record: Mapping[str, Any]) -> tuple[float, float, float]:
    """Low, delta and high; a missing bound is the delta itself."""
    delta = float(record["delta"])
    low, high = (float(record[key]) if is_number(record.get(key)) else delta for key in ("low", "high"))
    return low, delta, high


def _legend(axes: Axes, theme: Theme) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, labelcolor=theme.ink, fontsize=9.5)


def _file_stem(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._") or "unnamed"
