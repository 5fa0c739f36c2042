"""Tables of README.md and results/README.md, generated from claims.yaml and the committed claims.json files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrl.claims.claims import Claim, load_claims
from migrl.errors import UserError
from migrl.files import read_json, write_text
from migrl.markdown_table import make_table

START, END = "<!-- verdicts:start -->", "<!-- verdicts:end -->"
READINGS_START, READINGS_END = "<!-- readings:start -->", "<!-- readings:end -->"
ENGINES_START, ENGINES_END = "<!-- engines:start -->", "<!-- engines:end -->"
NOT_RUN = "not run"
PAIRED = {
    "float32": "vllm against transformers, float32",
    "bfloat16": "vllm against transformers, bfloat16",
    "transformers": "transformers, bfloat16 against float32",
    "vllm": "vllm, bfloat16 against float32",
}
"""Of each comparison in results/engines what is compared: B against A."""


def render_verdicts(results: Path) -> str:
    """The claims with a number, and the other recipes' directions, as rows of a table; without a run 'not run'.

    The remaining ones, what a figure of the paper shows, stand in the results folder of their recipe.
    """
    rows = []
    for claim, entry in _pair_shown(results):
        cells = (*_judge(claim, entry), *show_measured(entry), describe_power(entry), describe_scope(entry))
        rows.append((f"`{claim.id}`", *cells))
    head = "claim | verdict | paper: | ours, 95 % interval: | n: | power | compares"
    return "\n".join(make_table(head, rows))


def render_short(results: Path) -> str:
    """The same claims in their own words, with verdict and difference alone."""
    rows = [(claim.statement, *_judge(claim, entry), show_measured(entry)[0]) for claim, entry in _pair_shown(results)]
    return "\n".join(make_table("claim | verdict | paper: | ours:", rows))


def _pair_shown(results: Path) -> list[tuple[Claim, dict[str, Any]]]:
    return [pair for pair in _pair_claims(results) if pair[0].recipe != "paper" or pair[0].expected is not None]


def _judge(claim: Claim, entry: Mapping[str, Any]) -> tuple[str, str]:
    verdict = entry["verdict"] if entry["verdict"] == NOT_RUN else f"**{entry['verdict']}**"
    return verdict, "direction" if claim.expected is None else f"{claim.expected:+.2f}"


def render_readings(results: Path) -> str:
    """Every alternative reading as a row of a markdown table."""
    rows = [
        (f"`{claim.id}`", reading["verdict"], reading["differs"], *show_measured(reading))
        for claim, entry in _pair_claims(results)
        for reading in entry["readings"]
    ]
    return "\n".join(make_table("claim | verdict | read otherwise | ours, 95 % interval: | n:", rows))


def render_engines(results: Path) -> str:
    """What `make engines` compared: the same weights and questions, answered by two engines or in two precisions."""
    rows = []
    for name, title in PAIRED.items():
        found = read_json(results / "engines" / f"{name}.json")
        texts, cell = found["texts"], found["all"]
        share = "–" if texts["others_share"] is None else f"{texts['others_share']:.0%}"
        counts = (f"{texts['equal']:,} of {texts['n']:,}", share, str(cell["wins"]), str(cell["losses"]))
        rows.append((title, *counts, show_measured(cell)[0]))
    head = "B against A | equal texts: | the others begin alike for: | won: | lost: | accuracy, 95 % interval:"
    return "\n".join(make_table(head, rows))


def describe_scope(entry: Mapping[str, Any]) -> str:
    """What is compared, in short."""
    average = "" if entry["averaging"] == "macro" else f", {entry['averaging']} average"
    return f"{entry['minuend']} − {entry['subtrahend']} on {', '.join(entry['benchmarks'])}{average}"


def show_measured(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Delta with its interval, and n, of a claim or a reading; dashes where nothing was measured.

    Tasks that a reading has to leave out are named beside its n.
    """
    if entry["delta"] is None:
        return "–", "–"
    left_out = entry.get("tasks_left_out")
    n = f"{entry['n']}, without {', '.join(left_out)}" if left_out else str(entry["n"])
    if entry["low"] is None:
        return f"{entry['delta']:+.1f}", n
    return f"{entry['delta']:+.1f} ({entry['low']:+.1f} to {entry['high']:+.1f})", n


def describe_power(entry: Mapping[str, Any]) -> str:
    """What the benchmark can show at its size; from its design where it was not run."""
    power = entry["power"]
    if power is None:
        return "–"
    shown = f"≥ {power['detectable']:.1f}"
    return shown if power["claimed"] is None else f"{shown}; {100 * power['claimed']:.0f} %"


def _pair_claims(results: Path) -> list[tuple[Claim, dict[str, Any]]]:
    """Each claim with its entry in the claims.json of its recipe.

    Raises:
        UserError: a results folder has no entry for a claim: it was written for other claims.
    """
    pairs = []
    for claim in load_claims():
        path = results / claim.recipe / "claims.json"
        entry = next((entry for entry in read_json(path) if entry["id"] == claim.id), None)
        if entry is None:
            raise UserError(f"{path}: holds no claim {claim.id!r}; run `migrl not-run`, or the report stage, again")
        pairs.append((claim, entry))
    return pairs


def update_readmes(readme: Path, results: Path) -> None:
    """Replace the tables between their markers, in the README and in that of the results.

    Raises:
        UserError: a marker is missing, or as the tables.
    """
    _replace_tables(readme, [(START, END, render_short(results))])
    tables = [
        (START, END, render_verdicts(results)),
        (READINGS_START, READINGS_END, render_readings(results)),
        (ENGINES_START, ENGINES_END, render_engines(results)),
    ]
    _replace_tables(results / "README.md", tables)


def _replace_tables(readme: Path, tables: list[tuple[str, str, str]]) -> None:
    text = readme.read_text(encoding="utf-8")
    for start, end, table in tables:
        if start not in text or end not in text:
            raise UserError(f"{readme}: the markers {start} and {end} are missing; put them where the table belongs")
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
    write_text(readme, text)
