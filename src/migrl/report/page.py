"""The frame of a page: one HTML file with its style and its one script inside, and no way out of it.

Values reach a page as escaped text only, with whatever would not show spelled out. The content policy
forbids every script but the page's own, by hash, and every request to anywhere.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from migrl.report.explorer import link_samples
from migrl.report.plots import Plot
from migrl.report.text import (
    BADGES,
    flatten,
    name_arm,
    name_task,
    reveal,
    show_claimed,
    show_interval,
    show_p,
    show_percent,
    show_points,
    show_rate,
)
from migrl.report.words import tell_attested, tell_choice, tell_details, tell_dissent, tell_power

HERE = Path(__file__).parent
PLOT_STYLE = "plot.css"
STYLES = ("style.css", PLOT_STYLE, "explorer.css")


def render_page(template: str, values: Mapping[str, Any], *, scripts: Sequence[str] = ()) -> str:
    """A whole page as text. Equal values give equal text.

    Args:
        template: file name of a template in this folder that extends `frame.html`.
        values: what the template names, with `title`.
        scripts: file names in this folder, which make the page's only script; without any, none is allowed to run.
    """
    code = _read_files(*scripts)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    own = {
        "style": _read_files(*STYLES),
        "script": code,
        "policy": f"'sha256-{digest}'" if scripts else "'none'",
    }
    return make_environment().get_template(template).render(**own, **values)


def render_plot(plot: Plot) -> str:
    """A plot of the page as an SVG file that stands alone, in the light colours."""
    template: Any = make_environment().get_template("plot.html").module
    return str(template.svg(plot, _read_files(PLOT_STYLE)))


def _read_files(*names: str) -> Markup:
    return Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in names))


def make_environment() -> jinja2.Environment:
    """Templates of this folder with autoescape on; an unknown name is an error, not an empty text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=reveal,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "badges": BADGES,
        "link_samples": link_samples,
        "tell_attested": tell_attested,
        "tell_choice": tell_choice,
        "tell_details": tell_details,
        "tell_dissent": tell_dissent,
        "tell_power": tell_power,
    }
    environment.filters |= {
        "points": show_points,
        "claimed": show_claimed,
        "percent": show_percent,
        "rate": show_rate,
        "p": show_p,
        "arm": name_arm,
        "task": name_task,
        "flat": flatten,
        "points_interval": lambda record: show_interval(record, show_points),
        "percent_interval": lambda record: show_interval(record, show_percent),
    }
    return environment
