"""The command `migrl`. Errors a user can mend are one message and exit code 1, never a traceback."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from migrl.boxes import Frame
from migrl.errors import UserError, explain_full_disk, is_disk_full
from migrl.evidence import read_json
from migrl.pipeline import EXTRA_STAGES, STAGES, plan_stages, run_pipeline
from migrl.recipe import SEEDED_SECTIONS, HubSource, Recipe, load_recipe
from migrl.show import print_claims, print_detection_report, print_inspections, print_report, print_scores

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Rebuild the numbers of arXiv 2507.00748: multi-image grounding in MLLMs via reinforcement learning.",
)
console = Console(highlight=False)

RecipeName = Annotated[str, typer.Option("--recipe", help="Name of a recipe in reproduce/recipes, or a YAML file.")]
Runs = Annotated[Path, typer.Option("--runs", help="Where stages keep their working state.")]
Results = Annotated[Path, typer.Option("--results", help="Where the evidence goes, a folder per recipe.")]
Force = Annotated[bool, typer.Option("--force", help="Run again although the result is there.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Set every seed of the recipe: world, training, sampling.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Recipe keys to change, such as grpo.steps=5.")]


def find_recipe(name: str, overrides: list[str] | None) -> Recipe:
    """Load a recipe by name (from reproduce/recipes of the source tree) or by path."""
    if name.endswith((".yaml", ".yml")):
        return load_recipe(Path(name), overrides)
    folder = Path("reproduce/recipes")
    if not folder.is_dir():
        folder = Path(__file__).resolve().parents[2] / "reproduce" / "recipes"
    return load_recipe(folder / f"{name}.yaml", overrides)


def tell_progress(recipe: Recipe) -> Callable[[str, str], None]:
    """A teller that prints one line a stage with its place in the order and its time."""
    names = [stage.name for stage in plan_stages(recipe)]
    started: dict[str, float] = {}

    def tell(name: str, event: str) -> None:
        place = f"[{names.index(name) + 1}/{len(names)}] {name}"
        if event == "start":
            started[name] = time.monotonic()
        elif event == "skip":
            console.print(f"{place}: already done, skipped")
        else:
            console.print(f"{place}: done in {time.monotonic() - started[name]:.1f} s")

    return tell


@app.command()
def reproduce(
    recipe: RecipeName = "tiny",
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    force: Force = False,
    seed: Seed = None,
    overrides: Overrides = None,
) -> None:
    """Run the whole pipeline; finished stages are skipped. Ends with the verdict table."""
    seeds = [] if seed is None else [f"{section}.seed={seed}" for section in SEEDED_SECTIONS]
    settings = find_recipe(recipe, [*seeds, *(overrides or [])])
    report = run_pipeline(settings, runs, force=force, tell=tell_progress(settings))
    target = results / settings.name
    publish_report(report, target)
    print_claims(target, console)
    console.print(f"report: {target / 'report.html'}")


def publish_report(report: Path, target: Path) -> None:
    """Make the results folder equal to the report stage's; `evidence.json` becomes its `manifest.json`, last."""
    names = [*read_json(report / "evidence.json")["files"], "evidence.json"]
    for name in names:
        copy = target / ("manifest.json" if name == "evidence.json" else name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report / name, copy.with_name(copy.name + ".tmp"))
        copy.with_name(copy.name + ".tmp").replace(copy)
    for path in target.rglob("*"):
        if path.is_file() and path.relative_to(target).as_posix() not in {*names, "manifest.json"}:
            path.unlink()


@app.command()
def claims(folder: Annotated[Path, typer.Argument(help="A results folder, such as results/tiny.")]) -> None:
    """Print the verdict table of committed evidence."""
    print_claims(folder, console)


@app.command()
def readme(results: Results = Path("results"), path: Path = Path("README.md")) -> None:
    """Write the verdict table of the committed results into the README."""
    from migrl.readme import update_readme

    update_readme(path, results)


@app.command()
def verify(folder: Annotated[Path, typer.Argument(help="A results folder, such as results/tiny.")]) -> None:
    """Recompute scores and verdicts from the raw completions; exit 1 on any difference."""
    from migrl.verify import verify_results

    differences = verify_results(folder)
    for difference in differences:
        console.print(f"different: {difference}", markup=False)
    if differences:
        raise UserError(f"{folder}: {len(differences)} differences; the evidence was changed or made by other code")
    console.print(f"{folder}: every score and verdict follows from the samples")


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="Such as mig_bench, lisa_val, blink, mmiu, muirbench, mc_bench.")],
    annotations: Annotated[Path, typer.Option("--annotations", help="The published file, or folder of parquet files.")],
    predictions: Annotated[Path, typer.Option("--predictions", help='Lines {"uid": ..., "completion": "raw text"}.')],
    parser: Annotated[
        str, typer.Option("--parser", help="How replies are read; compat is the official rule.")
    ] = "compat",
    frame: Annotated[Frame, typer.Option("--frame", help="What the numbers of a reply mean.")] = "permille",
    images: Annotated[Path | None, typer.Option("--images", help="Folder that image paths start from.")] = None,
    min_pixels: Annotated[int, typer.Option("--min-pixels", help="Of the resizing, for --frame resized_px.")] = 3136,
    max_pixels: Annotated[int, typer.Option("--max-pixels", help="Of the resizing.")] = 12_845_056,
    cut_answer: Annotated[bool, typer.Option("--cut-answer", help="Read the last answer block only.")] = False,
    details: Annotated[
        Path | None, typer.Option("--details", help="Write one line an item: what was read, hit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Score anyone's raw outputs as the benchmark's authors do, or strictly."""
    from migrl.rescore import ScoreSettings, rescore_detections, rescore_file

    if benchmark == "mc_bench":
        report = rescore_detections(annotations, predictions)
        print(json.dumps(report, indent=1)) if as_json else print_detection_report(report, console)
        return

    settings = ScoreSettings(parser, frame, min_pixels, max_pixels, cut_answer)
    report = rescore_file(benchmark, annotations, predictions, settings, images or annotations.parent, details)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report, console)


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
        run_pipeline(settings, runs, only="fetch", force=force, tell=tell_progress(settings))


def check_downloads(settings: Recipe) -> None:
    """Print what the downloads hold; a wrong count or a missing image ends in an error, after all were listed."""
    from migrl.data.hub_source import inspect_downloads, refuse_faults

    if not isinstance(settings.source, HubSource):
        raise UserError(f"recipe {settings.name!r}: its source is not fetched from the Hub; there is nothing to check")
    inspections = inspect_downloads(settings.source)
    print_inspections(inspections, console)
    refuse_faults(inspections)


@app.command("lmms-eval")
def lmms_eval(
    data: Annotated[Path, typer.Option("--data", help="Prepared data, such as runs/paper/fetch/data.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write, for lmms-eval --include_path.")],
    frame: Annotated[Frame, typer.Option("--frame", help="What the numbers of a reply mean.")] = "resized_px",
    min_pixels: Annotated[int | None, typer.Option("--min-pixels", help="As the model is loaded with.")] = None,
    max_pixels: Annotated[int | None, typer.Option("--max-pixels", help="As the model is loaded with.")] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Do not ask the model to think first.")] = False,
    resized_twice: Annotated[
        bool, typer.Option("--resized-twice", help="For the adapters qwen2_vl, qwen2_5_vl.")
    ] = False,
) -> None:
    """Write the grounding benchmarks as tasks for lmms-eval."""
    from migrl.lmms_tasks import write_tasks

    names = write_tasks(
        data,
        out,
        frame=frame,
        style="direct" if direct else "think",
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        resized_twice=resized_twice,
    )
    console.print(f"lmms-eval --include_path {out} --tasks {','.join(names)}", markup=False, soft_wrap=True)


def add_stage_command(name: str) -> None:
    """Register `migrl <stage>`: that stage alone, from its inputs' finished folders."""

    def command(
        recipe: RecipeName = "tiny", runs: Runs = Path("runs"), force: Force = False, overrides: Overrides = None
    ) -> None:
        settings = find_recipe(recipe, overrides)
        if name not in [stage.name for stage in plan_stages(settings)]:
            raise UserError(f"stage {name}: not part of recipe {settings.name!r}; add its arm to evaluate.arms")
        folder = run_pipeline(settings, runs, only=name, force=force, tell=tell_progress(settings))
        if name == "evaluate":
            print_scores(folder, console)

    command.__doc__ = f"Run stage {name} alone."
    app.command(name)(command)


for _stage in (*STAGES[1:], *(stage for stages in EXTRA_STAGES.values() for stage in stages)):
    add_stage_command(_stage.name)


@app.command("recipe")
def show_recipe(recipe: RecipeName = "tiny", overrides: Overrides = None) -> None:
    """Print a recipe with every default and override applied, as JSON."""
    console.print_json(json.dumps(find_recipe(recipe, overrides).model_dump(mode="json")))


def main() -> None:
    """Entry point."""
    try:
        app()
    except UserError as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if not is_disk_full(error):
            raise
        sys.exit(f"error: {explain_full_disk(error, 'the runs folder')}")
