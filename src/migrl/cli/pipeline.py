"""Commands that run stages, or say what running them would cost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from migrl.cli.shared import Force, Overrides, RecipeName, Results, Runs, Seed, app, console, find_recipe, run_stages
from migrl.cli.tables import print_claims, print_estimate, print_inspections, print_measurements, print_scores
from migrl.errors import UserError
from migrl.evidence.measurements import read_cards, write_cards
from migrl.evidence.publication import check_target, replace_results
from migrl.evidence.seal import check_manifest, check_place
from migrl.files import read_json
from migrl.pipeline import PASS_RATES, STAGES, plan_stages
from migrl.recipe import SEEDED_SECTIONS, HubSource, Recipe, dump_whole
from migrl.recipe.arms import name_kind


@app.command()
def reproduce(
    recipe: RecipeName = "tiny",
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    force: Force = False,
    seed: Seed = None,
    overrides: Overrides = None,
) -> None:
    """Run the whole pipeline; finished stages are skipped. Ends with the verdict table, or a rehearsal's costs."""
    check_place(results, runs)
    seeds = [] if seed is None else [f"{section}.seed={seed}" for section in SEEDED_SECTIONS]
    settings = find_recipe(recipe, [*seeds, *(overrides or [])])
    target = results / settings.name
    check_target(target)
    if results.resolve().is_relative_to((runs / settings.name).resolve()):
        raise UserError(f"--results {results}: lies in the folder of the run's stages; name another")
    report = run_stages(settings, runs, force=force)
    publish_report(report, target)
    if settings.claims == "none":
        print_measurements(target, console)
        console.print(f"report: {target / 'report.md'}", markup=False, soft_wrap=True)
        return
    print_claims(target, console)
    console.print(f"report: {target / 'report.html'}", markup=False, soft_wrap=True)


def publish_report(report: Path, target: Path) -> None:
    """Make a recipe's results equal to the report stage's, `evidence.json` as `manifest.json`, and seal them.

    What `make gpu` measured there stays.

    Raises:
        UserError: as `replace_results`.
    """
    with replace_results(target) as made:
        for name in (*read_json(report / "evidence.json")["files"], "evidence.json"):
            copy = made / ("manifest.json" if name == "evidence.json" else name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(report / name, copy)
        changed = check_manifest(made)
        if changed:
            raise UserError(f"{report}: {changed[0]}: it changed while it was published; start again")
        cards = read_cards(target)
        if cards:
            write_cards(made, cards)


@app.command()
def fetch(
    recipe: RecipeName = "tiny",
    runs: Runs = Path("runs"),
    force: Force = False,
    offline: Annotated[
        Path | None, typer.Option("--offline", help="A folder with the files; no network is used.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Recount what was fetched and list missing images.")] = False,
    overrides: Overrides = None,
) -> None:
    """Bring data and base model, or with --check recount what is there."""
    settings = find_recipe(
        recipe, [*(overrides or []), *([f"source.offline={json.dumps(str(offline))}"] if offline else [])]
    )
    if check:
        check_downloads(settings)
    else:
        run_stages(settings, runs, only="fetch", force=force)


def check_downloads(settings: Recipe) -> None:
    """Print what the downloads hold; a wrong count or a missing image ends in an error, after all were listed."""
    from migrl.data.hub_source import inspect_downloads, refuse_faults

    if not isinstance(settings.source, HubSource):
        raise UserError(f"recipe {settings.name!r}: its source is not fetched from the Hub; there is nothing to check")
    inspections = inspect_downloads(settings.source)
    print_inspections(inspections, console)
    refuse_faults(inspections)


def make_stage_command(name: str) -> Callable[..., None]:
    """The command `migrl <stage>`: that stage alone, from its inputs' finished folders."""

    def command(
        recipe: RecipeName = "tiny", runs: Runs = Path("runs"), force: Force = False, overrides: Overrides = None
    ) -> None:
        run_alone(name, find_recipe(recipe, overrides), runs, force)

    command.__doc__ = f"Run stage {name} alone."
    return command


class Commands(TyperGroup):
    """The commands that are listed, and one for every stage that an arm of a recipe's own may have."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # of typer's own copy of click
        listed = super().get_command(ctx, cmd_name)
        if listed is not None or name_kind(cmd_name) == cmd_name:
            return listed
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name)(make_stage_command(cmd_name))
        return typer.main.get_command(alone)


def run_alone(name: str, settings: Recipe, runs: Path, force: bool) -> None:
    """Run one stage from its inputs' finished folders."""
    if name not in [stage.name for stage in plan_stages(settings)]:
        remedy = "set pass_rates.samples" if name == PASS_RATES.name else "add its arm to evaluate.arms"
        raise UserError(f"stage {name}: not part of recipe {settings.name!r}; {remedy}")
    run_stages(settings, runs, only=name, force=force)
    for stage in plan_stages(settings) if name == "evaluate" else []:
        if stage.name == name:
            if settings.seeds:
                console.print(f"{stage.label}:")
            print_scores(runs / settings.name / stage.place, settings.served, console)


DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only count requests and tokens, and what they would cost; send nothing.")
]


@app.command()
def synthesize(
    recipe: RecipeName = "tiny",
    runs: Runs = Path("runs"),
    force: Force = False,
    dry_run: DryRun = False,
    overrides: Overrides = None,
) -> None:
    """Run stage synthesize alone, or estimate what its teacher would cost."""
    settings = find_recipe(recipe, overrides)
    if not dry_run:
        run_alone("synthesize", settings, runs, force)
        return
    from migrl.synthesis.teachers.estimate import estimate_teacher

    print_estimate(estimate_teacher(settings, runs / settings.name), console)


@app.command()
def evaluate(
    recipe: RecipeName = "tiny",
    runs: Runs = Path("runs"),
    force: Force = False,
    dry_run: DryRun = False,
    overrides: Overrides = None,
) -> None:
    """Run stage evaluate alone, or estimate what the arms that someone serves would cost."""
    settings = find_recipe(recipe, overrides)
    if not dry_run:
        run_alone("evaluate", settings, runs, force)
        return
    from migrl.stages.evaluate import estimate_servers

    for estimate in estimate_servers(settings, runs / settings.name):
        print_estimate(estimate, console)


for _stage in (stage for stage in STAGES if stage.name not in ("fetch", "synthesize", "evaluate")):
    # Those have commands with options of their own.
    app.command(_stage.name)(make_stage_command(_stage.name))
app.info.cls = Commands


@app.command()
def plan(
    recipe: RecipeName = "paper",
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    gpus: Annotated[int | None, typer.Option("--gpus", help="GPUs in all, instead of those found; 0 for none.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="What they are, such as H100 or A100 40GB.")] = None,
    gpu_memory: Annotated[float | None, typer.Option("--gpu-memory", help="GB of each.")] = None,
    price: Annotated[float | None, typer.Option("--price", help="What a GPU-hour costs, in any currency.")] = None,
    formulas: Annotated[bool, typer.Option("--formulas", help="Show where every part of a figure is from.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    overrides: Overrides = None,
) -> None:
    """Print what every stage costs on this machine, with formulas; exit 1 if something cannot fit."""
    from migrl.plan.build import build_plan
    from migrl.plan.machine import GpuOptions
    from migrl.plan.print import print_plan
    from migrl.plan.refuse import raise_refusals

    settings = find_recipe(recipe, overrides)
    made = build_plan(settings, runs, results, GpuOptions(gpus, gpu_memory, gpu), price)
    if as_json:
        print(json.dumps(made.to_json(), indent=1))
    else:
        print_plan(made, console, formulas=formulas)
    raise_refusals(settings, list(made.refusals))


@app.command("recipe")
def show_recipe(recipe: RecipeName = "tiny", overrides: Overrides = None) -> None:
    """Print a recipe with every default and override applied, as JSON."""
    console.print_json(json.dumps(dump_whole(find_recipe(recipe, overrides))))
