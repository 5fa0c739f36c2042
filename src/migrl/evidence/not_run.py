"""The results folder of a recipe that has not been run: its claims, and "not run" in every measured cell.

It is written from the recipe and claims.yaml alone, so that nobody has to guess whether a number is missing or
lost. A real run replaces all of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from migrl.claims.claims import load_claims, load_levels, select_claims
from migrl.claims.verdicts import judge_claims, judge_levels
from migrl.errors import UserError
from migrl.evidence.readme_tables import describe_power, describe_scope
from migrl.evidence.seal import STATING_FILES
from migrl.files import write_json, write_text
from migrl.recipe import HubSource, Recipe, WorldSource
from migrl.running.stage import MANIFEST

NOT_RUN = "not run"


def write_not_run(recipe: Recipe, folder: Path) -> None:
    """Write `claims.json`, `levels.json` and `README.md` into a folder.

    Raises:
        UserError: the recipe carries no claims.
    """
    claims = select_claims(load_claims(), recipe.claims)
    if not claims:
        raise UserError(f"recipe {recipe.name!r}: it carries no claims, so there is nothing to state")
    folder.mkdir(parents=True, exist_ok=True)
    entries, levels = judge_claims(claims, []), judge_levels(load_levels(), [])
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
    arms = recipe.evaluate.arms
    lines = [
        f"# Recipe {recipe.name}: {NOT_RUN}",
        "",
        f"Nothing was measured. Written by `migrl not-run --recipe {recipe.name}` from `reproduce/claims.yaml` and",
        f"`reproduce/recipes/{recipe.name}.yaml`. `migrl reproduce --recipe {recipe.name}` puts its evidence in place.",
        "",
        "| claim | attested | compares | paper | ours | 95 % interval | n | verdict | power |",
        "|---|---|---|---:|---:|---:|---:|---|---|",
    ]
    for entry in entries:
        paper = "direction" if entry["expected"] is None else f"{entry['expected']:+.2f}"
        cells = (", ".join(entry["attested"]), describe_scope(entry), paper, *[NOT_RUN] * 4, describe_power(entry))
        lines.append(f"| `{entry['id']}` | {' | '.join(cells)} |")
    lines += [
        "",
        "Power, from the size of the benchmark (`reproduce/designs.yaml`, `results/calibration`): the smallest true",
        'difference that 95 % of runs would show to be above 0; how often a run says "reproduced" if the claim holds.',
    ]
    lines += ["", "| claim | read otherwise | ours | n | verdict |", "|---|---|---:|---:|---|"]
    for entry in entries:
        lines += [f"| `{entry['id']}` | {r['differs']} |" + f" {NOT_RUN} |" * 3 for r in entry["readings"]]
    lines += ["", "Claims that the recipe cannot judge:", ""]
    lines += [
        f"- `{entry['id']}`: {entry['reason']}." for entry in entries if not entry["reason"].startswith("no rows")
    ]
    lines += ["", "Scores that a third-party index of results states, to compare with:", ""]
    lines += ["| on | average | stated (%) | ours | note |", "|---|---|---:|---:|---|"]
    for level in levels:
        where = level["benchmark"] + (f", {level['task']}" if level["task"] else "")
        note = level["note"] or level["gap"]
        lines.append(f"| {where} | {level['averaging']} | {level['stated']:.2f} | {NOT_RUN} | {note} |")
    lines += ["", f"| accuracy (%) on | {' | '.join(arms)} |", "|---|" + "---:|" * len(arms)]
    lines += [f"| `{name}` |" + f" {NOT_RUN} |" * len(arms) for name in list_benchmarks(recipe)]
    return "\n".join([*lines, ""])


def list_benchmarks(recipe: Recipe) -> tuple[str, ...]:
    """The benchmarks that a recipe evaluates on; a prepared folder tells them only when it is there."""
    if isinstance(recipe.source, HubSource):
        return recipe.source.benchmarks
    return tuple(recipe.source.eval_per_task) if isinstance(recipe.source, WorldSource) else ()
