"""What the commands share: the app, its console, common options, and how a recipe is named."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from migrl.errors import OutOfMemory, UserError
from migrl.files import ROOT
from migrl.pipeline import plan_stages, run_pipeline
from migrl.plan.checks import check_arithmetic
from migrl.recipe import Recipe, load_recipe

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
Overrides = Annotated[list[str] | None, typer.Argument(help="Recipe keys to change, such as grpo.max_steps=5.")]


def find_recipe(name: str, overrides: list[str] | None) -> Recipe:
    """Load a recipe by name (from reproduce/recipes of the source tree) or by path."""
    if name.endswith((".yaml", ".yml")):
        return load_recipe(Path(name), overrides)
    folder = Path("reproduce/recipes")
    if not folder.is_dir():
        folder = ROOT / "reproduce" / "recipes"
    return load_recipe(folder / f"{name}.yaml", overrides)


def run_stages(recipe: Recipe, runs: Path, *, only: str | None = None, force: bool = False) -> Path:
    """Run every stage whose result is not there yet, or just `only`; return the last stage's folder.

    Raises:
        UserError: batches or prompts that cannot work out, told before hours are spent on the stages in front of the
            one they stop; or as a stage.
    """
    stages = [stage for stage in plan_stages(recipe) if only in (None, stage.name)]
    check_arithmetic(recipe, runs / recipe.name, [stage.name for stage in stages])
    try:
        return run_pipeline(recipe, runs, only=only, force=force, tell=tell_progress(recipe))
    except OutOfMemory as error:
        from migrl.plan.advice import explain_out_of_memory

        own = next(stage.recipe_for(recipe) for stage in stages if stage.name == error.stage)
        raise UserError(explain_out_of_memory(error.stage, own, error.said)) from error


def tell_progress(recipe: Recipe) -> Callable[[str, str], None]:
    """A teller that prints one line per stage with its place in the order and its time."""
    names = [stage.label for stage in plan_stages(recipe)]
    started: dict[str, float] = {}

    def tell(name: str, event: str) -> None:
        place = f"[{names.index(name) + 1}/{len(names)}] {name}"
        if event == "start":
            started[name] = time.monotonic()
        elif event == "skip":
            console.print(f"{place}: already done, skipped", soft_wrap=True)
        else:
            console.print(f"{place}: done in {time.monotonic() - started[name]:.1f} s", soft_wrap=True)

    return tell
