"""The results folder of a recipe that has not been run: its claims, and "not run" in every measured cell.

It is written from the recipe and claims.yaml alone, so that nobody has to guess whether a number is missing or
lost. A real run replaces all of it.
"""

from collections.abc import Sequence
from pathlib import Path

from migrl.claims import Claim, judge_claims, load_claims, select_claims
from migrl.errors import UserError
from migrl.evidence import MANIFEST, write_json
from migrl.recipe import HubSource, Recipe, WorldSource

NOT_RUN = "not run"


def write_not_run(recipe: Recipe, folder: Path) -> None:
    """Write `claims.json` and `README.md`.

    Raises:
        UserError: the recipe carries no claims, or the folder holds evidence of a run.
    """
    claims = select_claims(load_claims(), recipe.claims)
    if not claims:
        raise UserError(f"recipe {recipe.name!r}: it carries no claims, so there is nothing to state")
    if (folder / MANIFEST).exists():
        raise UserError(f"{folder}: holds the evidence of a run; it is kept, remove it by hand if it has to go")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "claims.json", judge_claims(claims, []))
    (folder / "README.md").write_text(render_not_run(recipe, claims), encoding="utf-8", newline="\n")


def render_not_run(recipe: Recipe, claims: Sequence[Claim]) -> str:
    """The folder's page: what is claimed, and what a run would measure."""
    arms = recipe.evaluate.arms
    lines = [
        f"# Recipe {recipe.name}: {NOT_RUN}",
        "",
        f"Nothing was measured. Written by `migrl not-run --recipe {recipe.name}` from `reproduce/claims.yaml` and",
        f"`reproduce/recipes/{recipe.name}.yaml`. `migrl reproduce --recipe {recipe.name}` puts its evidence in place.",
        "",
        "| claim | compares | paper | ours | 95 % interval | n | verdict |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for claim in claims:
        paper = "direction" if claim.expected is None else f"{claim.expected:+.2f}"
        compares = f"{claim.minuend} − {claim.subtrahend} on {', '.join(claim.benchmarks)}"
        lines.append(f"| `{claim.id}` | {compares} | {paper} |" + f" {NOT_RUN} |" * 4)
    lines += ["", f"| accuracy (%) on | {' | '.join(arms)} |", "|---|" + "---:|" * len(arms)]
    lines += [f"| `{name}` |" + f" {NOT_RUN} |" * len(arms) for name in list_benchmarks(recipe)]
    return "\n".join([*lines, ""])


def list_benchmarks(recipe: Recipe) -> tuple[str, ...]:
    """The benchmarks that a recipe evaluates on; a prepared folder tells them only when it is there."""
    if isinstance(recipe.source, HubSource):
        return recipe.source.benchmarks
    return tuple(recipe.source.eval_per_task) if isinstance(recipe.source, WorldSource) else ()
