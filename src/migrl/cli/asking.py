"""Commands to look at things: one question to a model, and the report of a run that is still going on."""

from pathlib import Path
from typing import Annotated

import typer

from migrl.cli.shared import RecipeName, Runs, app, console, find_recipe
from migrl.errors import UserError
from migrl.recipe import Recipe
from migrl.recipe.arms import ARMS
from migrl.running.stage import StageContext


@app.command()
def ask(
    words: Annotated[list[str], typer.Argument(metavar="IMAGE... QUESTION", help="Pictures, then the question.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="Folder of a model; without it an arm of the recipe's run answers.")
    ] = None,
    arm: Annotated[str, typer.Option("--arm", help="Which arm of the run.")] = "rl",
    recipe: RecipeName = "tiny",
    runs: Runs = Path("runs"),
    out: Annotated[Path, typer.Option("--out", help="Where the chosen picture goes, with the box.")] = Path(
        "answer.png"
    ),
) -> None:
    """Ask for a box in one of some pictures, as the recipe's evaluation asks, and draw the answer."""
    if len(words) < 2:
        raise UserError('ask: one picture at least, then the question: migrl ask left.png right.png "Where is it?"')
    *names, question = words
    pictures = [Path(name) for name in names]
    settings = find_recipe(recipe, None)
    from migrl.engines.asking import ask_model, draw_answer  # loads torch, for seconds
    from migrl.models.loading import Weights
    from migrl.running.preflight import needs_gpu, refuse_without_gpu
    from migrl.training.weights import find_weights

    if needs_gpu("evaluate", settings, whole=False):
        refuse_without_gpu("evaluate", settings)
    check_pictures(pictures, out)
    weights = Weights(model) if model else find_weights(find_run(settings, runs, arm), arm)
    reply = ask_model(settings, weights, pictures, question)
    console.print(reply.completion.text.strip(), markup=False, soft_wrap=True)
    if reply.picture is None or reply.box_px is None:
        raise UserError(f"ask: no box to draw: the reading of this reply is {reply.answer.status!r}")
    draw_answer(reply, out)
    box = ", ".join(f"{value:.0f}" for value in reply.box_px)
    console.print(
        f"image {reply.answer.image}, {reply.picture}: [{box}] px, drawn in {out}", markup=False, soft_wrap=True
    )


@app.command()
def view(
    run: Annotated[Path, typer.Argument(help="Folder of a recipe's stages, such as runs/tiny.")],
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open it in a browser.")] = True,
) -> None:
    """Build the report of a run from what is there so far, and open it; a finished run's own is opened as it is."""
    import webbrowser

    from migrl.stages.view import find_report

    page = find_report(run).absolute()
    console.print(f"report: {page}", markup=False, soft_wrap=True)
    if show and not webbrowser.open(page.as_uri()):
        console.print("no browser here; open the file elsewhere")


def check_pictures(pictures: list[Path], out: Path) -> None:
    """All are there, and none would be written over.

    Raises:
        UserError: naming the one that is not, or would be.
    """
    for path in pictures:
        if path.absolute() == out.absolute():
            raise UserError(f"--out {out}: is one of the pictures; name another file")
        if not path.is_file():
            raise UserError(f"{path}: no such picture; correct the path (the last word is the question)")


def find_run(recipe: Recipe, runs: Path, arm: str) -> StageContext:
    """The finished stages of a run that hold an arm's weights.

    Raises:
        UserError: no such arm, one that someone serves, or a stage that has not run.
    """
    known = [*ARMS, *(name for name in recipe.arms if name not in recipe.served)]
    if arm not in known:
        raise UserError(f"--arm {arm}: recipe {recipe.name!r} has the arms {', '.join(known)}; name one, or a --model")
    home = runs / recipe.name
    inputs = {name: home / name for name in ("fetch", *recipe.find_arm(arm).weights)}
    for name, folder in inputs.items():
        if not folder.is_dir():
            raise UserError(
                f"{folder}: not there, and --arm {arm} needs it; run `migrl {name} --recipe {recipe.name}`, "
                "or name a --model"
            )
    return StageContext("ask", recipe, inputs, home)
