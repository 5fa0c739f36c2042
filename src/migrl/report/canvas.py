"""The canvas of the figures: matplotlib's object API (no pyplot, no global state), two themes, equal bytes.

Every figure is rendered in a light and a dark theme: the page shows the one that suits the reader's
screen, and the light one is also a file. Equal inputs give equal bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 180
COLOURS = 64  # of the stored palette: a figure is lines and text, and a page embeds many


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
    """One rendered figure: file stem, what it says in words, its PNG, its size in CSS px.

    `dark_png` is empty for a figure that is only a file.
    """

    name: str
    alt: str
    light_png: bytes
    dark_png: bytes
    width: int
    height: int


Paint = Callable[[Axes, Theme], None]


def render_plot(name: str, alt: str, size_inch: tuple[float, float], paint: Paint, *, dark: bool) -> Plot:
    """Draw with `paint(axes, theme)`, also in the dark theme if asked; `alt` says in words what is seen."""
    light = _render_png(size_inch, paint, LIGHT)
    darker = _render_png(size_inch, paint, DARK) if dark else b""
    return Plot(name, alt, light, darker, round(size_inch[0] * 100), round(size_inch[1] * 100))


def _render_png(size_inch: tuple[float, float], paint: Paint, theme: Theme) -> bytes:
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
    small = BytesIO()
    with Image.open(png) as drawn:
        palette = drawn.convert("RGB").quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette.save(small, format="PNG", optimize=True)
    return small.getvalue()


def clean_label(name: str) -> str:
    """A name as matplotlib may draw it: a dollar sign would switch to formulas, and a wrong one stops the drawing."""
    return name.replace("_", " ").replace("$", r"\$")
