"""Commands on results: verdicts, their check, scores of anyone's outputs, and publishing. None needs a GPU."""

import json
from pathlib import Path
from typing import Annotated

import typer

from migrl.cli.shared import RecipeName, Results, Runs, app, console, find_recipe
from migrl.cli.tables import print_claims, print_detection_report, print_report
from migrl.errors import UserError
from migrl.files import read_json
from migrl.grounding.boxes import PIXEL_FACTOR, Frame


@app.command()
def claims(folder: Annotated[Path, typer.Argument(help="A results folder, such as results/tiny.")]) -> None:
    """Print the verdict table of committed evidence."""
    print_claims(folder, console)


@app.command()
def readme(results: Results = Path("results"), path: Path = Path("README.md")) -> None:
    """Write the tables of the committed results into README.md and results/README.md."""
    from migrl.evidence.readme_tables import update_readmes

    update_readmes(path, results)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A results folder, or one recipe's folder in it.")] = Path("results"),
) -> None:
    """Check every file's hash and recompute every number from the raw completions; exit 1 on any difference."""
    from migrl.evidence.verify import verify as verify_path

    found = verify_path(path)
    for check in found.checks:
        if check.done:
            console.print(f"{path / check.place}: {check.done}", markup=False, soft_wrap=True)
    for difference in found.differences:
        console.print(f"different: {difference}", markup=False, soft_wrap=True)
    if found.differences:
        raise UserError(
            f"{path}: {len(found.differences)} differences; the evidence was changed or made by other code: restore it "
            "or run `migrl reproduce` again; `migrl seal` takes what was changed on purpose beside the recipes' folders"
        )
    console.print(f"no difference{f'; root {found.root}' if found.root else ''}", soft_wrap=True)


@app.command()
def seal(
    results: Annotated[Path, typer.Argument(help="A results folder, with a folder for each recipe.")] = Path("results"),
) -> None:
    """Write tree.json anew, which names all files of the results, and say what changed since the last time.

    The only command that takes what others changed: `migrl reproduce` and `migrl not-run` seal their own folder.
    """
    from migrl.evidence.publication import lock_results, refuse_strangers
    from migrl.evidence.seal import TREE, check_manifest, check_whole, find_sealed, write_tree

    check_whole(results)
    if not (results / TREE).exists():
        refuse_strangers(results)
    with lock_results(results):
        broken = [f"{name}: {said}" for name in find_sealed(results) for said in check_manifest(results / name)]
        if broken:
            raise UserError(f"{results}: {broken[0]} ({len(broken)} in all); restore it or run `migrl reproduce` again")
        for change in write_tree(results):
            console.print(change, markup=False, soft_wrap=True)
    console.print(f"{results / TREE}: root {read_json(results / TREE)['root']}", markup=False, soft_wrap=True)


@app.command()
def rescore(
    folder: Annotated[Path, typer.Argument(help="Reference runs of one recipe, such as results/reference_runs/tiny.")],
) -> None:
    """Read the kept completions of reference runs by today's rules, and write their scores and claims anew."""
    from migrl.stages.report import rescore_references

    for line in rescore_references(folder):
        console.print(line, markup=False, soft_wrap=True)


@app.command("not-run")
def state_not_run(recipe: RecipeName = "paper", results: Results = Path("results")) -> None:
    """Write the results folder of a recipe that has not been run: its claims, with nothing measured."""
    from migrl.evidence.not_run import refuse_evidence, write_not_run
    from migrl.evidence.publication import replace_results

    settings = find_recipe(recipe, None)
    refuse_evidence(results / settings.name)
    with replace_results(results / settings.name) as made:
        refuse_evidence(results / settings.name)
        write_not_run(settings, made)
    print_claims(results / settings.name, console)


@app.command()
def publish(
    to: Annotated[str, typer.Option("--to", help="OWNER/NAME of the model; the data set becomes OWNER/NAME-data.")],
    recipe: RecipeName = "tiny",
    runs: Runs = Path("runs"),
    results: Results = Path("results"),
    out: Annotated[Path | None, typer.Option("--out", help="Built here; else in runs/<recipe>/publish.")] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Also whole weights, with the adapters folded in.")] = False,
    allow_dirty: Annotated[bool, typer.Option("--allow-dirty", help="Publish a run of uncommitted code.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send it; without this nothing leaves the machine.")] = False,
    private: Annotated[bool, typer.Option("--private/--public", help="Who may see new repositories.")] = True,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="Holds a token that may write.")] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="Another Hub than the public one.")] = None,
    lfs: Annotated[bool, typer.Option("--lfs", help="For a Hub without xet storage.")] = False,
) -> None:
    """Build cards, weights, data and evidence for the Hub and list every file; with --yes also send them."""
    from migrl.publish import UploadSettings, find_token, prepare_repositories, upload_repositories

    def tell(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    settings = find_recipe(recipe, None)
    token = find_token(token_file, endpoint) if yes else None
    place = out or runs / settings.name / "publish"
    repositories = prepare_repositories(settings, runs, results, to, place, merged=merged, allow_dirty=allow_dirty)
    for repository in repositories:
        for line in repository.describe():
            tell(line)
    if token is None:
        tell("dry run: nothing was sent; look at the folders, then add --yes")
    else:
        upload_repositories(repositories, UploadSettings(token, private, endpoint, lfs), tell)


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
    pixel_factor: Annotated[
        int, typer.Option("--pixel-factor", min=1, help="Side in px of the model's tokens.")
    ] = PIXEL_FACTOR,
    cut_answer: Annotated[bool, typer.Option("--cut-answer", help="Read the last answer block only.")] = False,
    details: Annotated[
        Path | None, typer.Option("--details", help="Write one line per item: what was read, hit.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Score anyone's raw outputs as the benchmark's authors do, or strictly."""
    from migrl.scoring.rescore import ScoreSettings, rescore_detections, rescore_file

    if benchmark == "mc_bench":
        report = rescore_detections(annotations, predictions)
        print(json.dumps(report, indent=1)) if as_json else print_detection_report(report, console)
        return

    settings = ScoreSettings(parser, frame, min_pixels, max_pixels, cut_answer, pixel_factor)
    report = rescore_file(benchmark, annotations, predictions, settings, images or annotations.parent, details)
    if as_json:
        print(json.dumps(report, indent=1))
    else:
        print_report(report, console)


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
    from migrl.lmms_tasks import GroundingTask, write_tasks

    task = GroundingTask(data, frame, "direct" if direct else "think", min_pixels, max_pixels, resized_twice)
    names = write_tasks(task, out)
    console.print(f"lmms-eval --include_path {out} --tasks {','.join(names)}", markup=False, soft_wrap=True)
