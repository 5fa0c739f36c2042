"""The results folder of a recipe that has not been run: its claims, and "not run" in every measured cell.

It is written from the recipe and claims.yaml alone, so that nobody has to guess whether a number is missing or
lost. A real run replaces all of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrl.claims.claims import load_claims, load_levels, select_claims, select_levels
from migrl.claims.verdicts import judge_claims, judge_levels
from migrl.errors import UserError
from migrl.evidence.readme_tables import NOT_RUN, describe_power, describe_scope
from migrl.evidence.seal import STATING_FILES
from migrl.files import write_json, write_text
from migrl.markdown_table import make_table
from migrl.recipe import HubSource, Recipe, WorldSource
from migrl.running.stage import MANIFEST
from migrl.scoring.comparable import ComparableRows

_DIRECTIONS = "Directions alone: the paper states no number of this recipe's model, so none is a target here."


def write_not_run(recipe: Recipe, folder: Path) -> None:
    """Write `claims.json`, `levels.json` and `README.md` into a folder.

    Raises:
        UserError: the recipe carries no claims.
    """
    claims = select_claims(load_claims(), recipe.claims)
    if not claims:
        raise UserError(f"recipe {recipe.name!r}: it carries no claims, so there is nothing to state")
    folder.mkdir(parents=True, exist_ok=True)
    nothing = ComparableRows({})
    entries = judge_claims(claims, nothing)
    levels = judge_levels(select_levels(load_levels(), recipe.claims), nothing)
    write_json(folder / "claims.json", entries)
    write_json(folder / "levels.json", levels)
    page = render_not_run(recipe, entries, levels)
    write_text(folder / "README.md", page)


def refuse_evidence(folder: Path) -> None:
    """Refuse to declare a run undone.

    Raises:
        UserError: the folder holds evidence of one.
    """
    for name in (MANIFEST, *STATING_FILES):
        if name != "claims.json" and (folder / name).exists():
            raise UserError(f"{folder}: holds the evidence of a run ({name}); remove it by hand if it has to go")


def render_not_run(recipe: Recipe, entries: Sequence[dict[str, Any]], levels: Sequence[dict[str, Any]]) -> str:
    """The folder's page: what is claimed, what a run would measure, and what it could show."""
    claims, readings, gaps, stated = [], [], [], []
    for entry in entries:
        paper = "direction" if entry["expected"] is None else f"{entry['expected']:+.2f}"
        name, attested, scope = f"`{entry['id']}`", ", ".join(entry["attested"]), describe_scope(entry)
        claims.append((name, attested, scope, paper, *[NOT_RUN] * 4, describe_power(entry)))
        readings += [(name, reading["differs"], *[NOT_RUN] * 3) for reading in entry["readings"]]
        gaps += [] if entry["reason"].startswith("no rows") else [f"- {name}: {entry['reason']}."]
    for level in levels:
        where = level["benchmark"] + (f", {level['task']}" if level["task"] else "")
        note = level["note"] or level["gap"]
        stated.append((where, level["averaging"], f"{level['stated']:.2f}", NOT_RUN, note))
    arms = recipe.evaluate.arms
    accuracies = [(f"`{name}`", *[NOT_RUN] * len(arms)) for name in list_benchmarks(recipe)]
    lines = [
        f"# Recipe {recipe.name}: {NOT_RUN}",
        "",
        f"Nothing was measured. Written by `migrl not-run --recipe {recipe.name}` from `reproduce/claims.yaml` and",
        f"`reproduce/recipes/{recipe.name}.yaml`. `migrl reproduce --recipe {recipe.name}` puts its evidence in place.",
        "",
        *([] if any(entry["expected"] for entry in entries) else [_DIRECTIONS, ""]),
        *make_table("claim | attested | compares | paper: | ours: | 95 % interval: | n: | verdict | power", claims),
        "",
        "Power, from the size of the benchmark (`reproduce/designs.yaml`, `results/calibration`): the smallest true",
        'difference that 95 % of runs would show to be above 0; how often a run says "reproduced" if the claim holds.',
        "",
        *make_table("claim | read otherwise | ours: | n: | verdict", readings),
        "",
        *_head("Claims that the recipe cannot judge:", gaps),
        *_head(
            "Scores that a third-party index of results states, to compare with:",
            make_table("on | average | stated (%): | ours: | note", stated) if stated else [],
        ),
        *make_table(" | ".join(["accuracy (%) on", *(f"{arm}:" for arm in arms)]), accuracies),
        "",
    ]
    return "\n".join(lines)


def _head(title: str, lines: Sequence[str]) -> list[str]:
    """A part of the page under its title; nothing where there is nothing to list."""
    return [title, "", *lines, ""] if lines else []


def list_benchmarks(recipe: Recipe) -> tuple[str, ...]:
    """The benchmarks that a recipe evaluates on; a prepared folder tells them only when it is there."""
    if isinstance(recipe.source, HubSource):
        return recipe.source.benchmarks
    return tuple(recipe.source.eval_per_task) if isinstance(recipe.source, WorldSource) else ()
