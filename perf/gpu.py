"""What the paper recipe's expensive parts cost on this GPU, in less than seven minutes: `make gpu`.

    python perf/gpu.py --seconds 400             # or: make gpu ARGS="--seconds 200"
    python perf/gpu.py --tiny                    # shrunken, on any machine: does the kit itself work?
    python perf/gpu.py --only sft sft.per_device_train_batch_size=4

The 7B's shapes with random weights, built on the GPU; nothing is downloaded, and nothing large is written. Parts come
in the order of their value. Each figure goes into `results/rehearsal/measurements.json`, where `migrl plan` reads it,
as soon as it is measured; what was cut off, or not reached, is measured by the next call. A part that does not fit the
card, or fails, says so, and the others go on.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from kit.attention import measure_attention
from kit.bench import Bench, replace_part
from kit.budget import Budget, OutOfTime
from kit.ceilings import measure_ceilings
from kit.generation import measure_greedy, measure_rollouts
from kit.training import measure_grpo, measure_sft
from rich import box
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from migrl.errors import UserError
from migrl.evidence.measurements import MEASUREMENTS, add_part, read_cards
from migrl.evidence.publication import replace_results
from migrl.files import name_aside
from migrl.plan.advice import change_recipe
from migrl.progress import show_progress
from migrl.recipe import Recipe, load_recipe
from migrl.report.gpu_parts import COLUMNS, Part, list_rows
from migrl.running.launch import choose_gpu
from migrl.running.metering import release_memory

ROOT = Path(__file__).resolve().parents[1]
FLASH = "flash_attention_2"
NEW_TOKENS = 256
TINY_RESULTS = Path("runs/gpu_tiny/rehearsal")
TINY = (
    *("model.dtype=float32", "model.attention=sdpa", "source.shapes=reproduce/tiny_base/config.json"),
    *("source.images=[1,2,3]", "source.sizes=[[84,56],[56,84]]", "source.pictures=4", "source.question_tokens=24"),
    *("source.thought_tokens=32", "source.cot_samples=24", "source.eval_samples=6", "sft.max_pixels=9600"),
    *(
        "grpo.max_pixels=9600",
        "grpo.num_generations=4",
        "grpo.per_device_train_batch_size=4",
        "select.rollouts=4",
        "evaluate.max_pixels=9600",
    ),
    "evaluate.batch=6",
)


@dataclass(frozen=True)
class Sizes:
    """How much work the parts that no recipe describes are given."""

    steps: int = 6
    side: int = 8192
    copied: int = 4_000_000_000
    new_tokens: int = NEW_TOKENS


@dataclass(frozen=True)
class Job:
    """A part that waits to be measured."""

    name: str
    attention: str
    measure: Callable[[Bench, str], Iterator[Part]]


def main() -> None:
    """Measure what is not measured yet, and print the table."""
    options = read_options()
    tiny = options.tiny
    os.environ["CUDA_VISIBLE_DEVICES"] = choose_gpu(os.environ.get("CUDA_VISIBLE_DEVICES"))  # before CUDA is asked for
    if not tiny and not torch.cuda.is_available():
        raise UserError("perf/gpu.py: no GPU here; `python perf/gpu.py --tiny` runs the kit shrunken on a processor")
    logging.set_verbosity_error()
    budget = Budget(options.seconds - (time.time() - psutil.Process().create_time()))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    folder = options.results or (TINY_RESULTS if tiny else ROOT / "results" / "rehearsal")
    sizes = Sizes(steps=2, side=512, copied=50_000_000, new_tokens=12) if tiny else Sizes()
    recipe = choose_recipe(sizes, [*(TINY if tiny else ()), *options.overrides])
    set_torn_aside(folder, console)
    with TemporaryDirectory() as data:
        bench = Bench(recipe, Path(data))
        bench.draw()
        jobs = [job for job in list_jobs(bench, sizes, folder) if job.name.startswith(options.only)]
        run_jobs(jobs, bench, folder, budget, fresh=options.fresh)
    print_card(folder, bench.device, console)
    parts = {job.name: find_part(folder, bench.device, job.name) for job in jobs}
    missing = [name for name, part in parts.items() if part is None or not (part.complete or part.skipped)]
    if missing:
        console.print(f"not measured within {options.seconds:g} s: {', '.join(missing)}; the same command goes on")
    if recipe.model.attention != FLASH and not tiny:
        console.print(f"{FLASH}: the package flash_attn is not here, so nothing was measured with it")
    console.print(f"figures and conditions: {folder / MEASUREMENTS}")
    sys.exit(1 if any(part and part.skipped for part in parts.values()) else 0)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=400, help="stop by then")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, for seconds")
    parser.add_argument("--fresh", action="store_true", help="measure again what is measured already")
    parser.add_argument("--only", default="", help="parts whose name begins so")
    parser.add_argument("--results", type=Path, help="the folder of measurements.json")
    parser.add_argument(
        "overrides", nargs="*", help="keys of the recipe rehearsal, such as sft.per_device_train_batch_size=4"
    )
    return parser.parse_args()


def choose_recipe(sizes: Sizes, overrides: list[str]) -> Recipe:
    """The rehearsal's recipe, one micro-batch a step, with the kernel that is there."""
    kernel = [] if find_spec("flash_attn") else ["model.attention=sdpa"]
    fixed = ["sft.parallel=none", "grpo.parallel=none", *kernel]
    fixed += [f"grpo.max_new_tokens={sizes.new_tokens}", f"evaluate.max_new_tokens={sizes.new_tokens}"]
    recipe = load_recipe(ROOT / "reproduce/recipes/rehearsal.yaml", [*fixed, *overrides])
    prompts = max(1, recipe.grpo.per_device_train_batch_size // recipe.grpo.num_generations)
    return change_recipe(
        recipe, {"sft.batch": recipe.sft.per_device_train_batch_size, "grpo.prompts_per_step": prompts}
    )


def list_jobs(bench: Bench, sizes: Sizes, folder: Path) -> list[Job]:
    """Every part, the most valuable first: what bounds all others, then what most of the plan's hours are made of."""

    def measure_with_formulas(
        measure: Callable[..., Iterator[Part]], **choice: object
    ) -> Callable[..., Iterator[Part]]:
        def run(bench: Bench, attention: str) -> Iterator[Part]:
            card = read_cards(folder).get(bench.device)
            ceilings = card.parts["ceilings"].figures if card and "ceilings" in card.parts else {}
            yield from measure(bench, attention, bench.plan_for(attention, ceilings), **choice)

        return run

    middle, others = bench.pictures, [count for count in bench.recipe.source.images if count != bench.pictures]
    rollouts = {count: measure_with_formulas(measure_rollouts, pictures=count) for count in bench.recipe.source.images}
    sft = measure_with_formulas(measure_sft, steps=sizes.steps)
    grpo = measure_with_formulas(measure_grpo, steps=sizes.steps)
    chosen = bench.recipe.model.attention
    stock = replace(bench, recipe=change_recipe(bench.recipe, {"grpo.group_prefix": False}))
    jobs = [
        Job("ceilings", chosen, partial(measure_ceilings, side=sizes.side, copied=sizes.copied)),
        Job(f"rollouts, {middle} pictures", chosen, rollouts[middle]),
        Job("grpo", chosen, grpo),
        Job("sft", chosen, sft),
        Job("grpo, stock trl", chosen, lambda _, attention: grpo(stock, attention)),
        Job("attention of a pack", "sdpa", measure_attention),
        Job("evaluate", chosen, measure_with_formulas(measure_greedy)),
        Job("rollouts, adapter", chosen, measure_with_formulas(measure_rollouts, pictures=middle, adapter=True)),
        *(Job(f"rollouts, {count} pictures", chosen, rollouts[count]) for count in sorted(others)),
    ]
    if chosen == FLASH:
        jobs += [Job("grpo, sdpa", "sdpa", grpo), Job("sft, sdpa", "sdpa", sft)]
        jobs += [Job(f"rollouts, {middle} pictures, sdpa", "sdpa", rollouts[middle])]
    return jobs


def run_jobs(jobs: list[Job], bench: Bench, folder: Path, budget: Budget, *, fresh: bool) -> None:
    """Measure every job that is not in the file, as far as the time goes."""
    with show_progress("parts", len(jobs)) as progress:
        for done, job in enumerate(jobs):
            progress.tell(done, job.name)
            try:
                with budget.watch():
                    run_job(job, bench, folder, fresh=fresh)
            except OutOfTime:
                break
            progress.tell(done + 1, job.name)


def run_job(job: Job, bench: Bench, folder: Path, *, fresh: bool) -> None:
    """Measure one part, unless the file has all of it, and write each record at once; a failure is a record, too."""
    release_memory()
    memory = bench.gpu_bytes / 1e9
    records = job.measure(bench, job.attention)
    planned = next(records)
    known = find_part(folder, bench.device, job.name)
    if not fresh and known and known.complete and known.conditions == planned.conditions:
        return
    try:
        for part in records:
            publish_part(folder, bench.device, memory, job.name, part)
        return
    except torch.OutOfMemoryError as error:
        skipped = f"it does not fit the {memory:.0f} GB of this card ({shorten(error)})"
    except Exception as error:
        traceback.print_exc()
        skipped = f"it failed: {type(error).__name__}: {shorten(error)}"
    if not (known and known.complete):
        publish_part(folder, bench.device, memory, job.name, replace_part(planned, skipped=skipped))


def publish_part(folder: Path, device: str, memory_gb: float, name: str, part: Part) -> None:
    """Put one part into the results, which are whole before and after."""
    with replace_results(folder, keep=True) as made:
        add_part(made, device, memory_gb, name, part)


def shorten(error: Exception) -> str:
    """The first line of an error."""
    return (str(error).strip().splitlines() or ["no words"])[0]


def find_part(folder: Path, device: str, name: str) -> Part | None:
    """A part of the file."""
    card = read_cards(folder).get(device)
    return card.parts.get(name) if card else None


def set_torn_aside(folder: Path, console: Console) -> None:
    """Begin a new file where the old one cannot be read; it stays beside it."""
    path = folder / MEASUREMENTS
    try:
        read_cards(folder)
    except UserError as error:
        aside = name_aside(folder.with_name(f"{folder.name}.{MEASUREMENTS}"), "tmp")  # which the tree passes over
        path.replace(aside)
        console.print(f"{error}\nIt is now {aside}; all parts are measured anew.")


def print_card(folder: Path, device: str, console: Console) -> None:
    """The table of this device, without the column that says in words what was timed."""
    card = read_cards(folder).get(device)
    first, words, *others = COLUMNS
    table = Table(first, title=device, title_justify="left", box=box.SIMPLE)
    for column in others:
        table.add_column(column, no_wrap=True, justify="right")
    for name, part in card.parts.items() if card else ():
        for label, what, *cells in list_rows(name, part, card):
            if label == name:  # it was not measured
                console.print(f"{name}: {what}")
            else:
                table.add_row(label, *cells)
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
