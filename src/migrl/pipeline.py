"""The spine: which stages there are, in which order, and what each reads.

    fetch -> synthesize -> sft -> merge -> select -> grpo -> evaluate -> report

Optional stages come where the recipe asks for them: those of its arms before evaluate, `pass_rates` after it.
Every stage is one file in `migrl/stages` with one entry, `run(context)`. Stages meet through files
only. A stage's key covers the recipe sections named here and the digests of the stages it reads, so
changing `grpo.learning_rate` re-runs grpo, evaluate and report and nothing before.

For each further training seed of a recipe the trained stages and evaluate run again, on the same data, in a folder of
that seed. They are the same stages, and their keys differ by the seed alone: one that is added re-runs no other's.
"""

import importlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, BinaryIO

from migrl.files import hash_file, take_lock
from migrl.grounding.prompts import hash_prompts
from migrl.recipe import Arm, HubSource, PromptedTeacher, Recipe
from migrl.running.preflight import check_first
from migrl.running.stage import StageContext, StageWork
from migrl.running.stage_folder import run_stage
from migrl.running.watch.signals import stop_on_signals
from migrl.synthesis.teachers.prompts import hash_teacher_prompts


@dataclass(frozen=True)
class Stage:
    """Name, what it reads, and the recipe sections or keys that decide its result.

    `prompts` says whether the texts of prompts.py decide it too. `seed` is the further training seed that it runs for,
    None in the main chain.
    """

    name: str
    reads: tuple[str, ...]
    sections: tuple[str, ...]
    prompts: bool = True
    format: int = 1
    module: str = ""
    seed: int | None = None

    @property
    def place(self) -> str:
        """Its folder below `runs/<recipe>`."""
        return find_place(self.name, self.seed)

    @property
    def label(self) -> str:
        """What people are told it is."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    def recipe_for(self, recipe: Recipe) -> Recipe:
        """The recipe as this stage is to read it."""
        return recipe if self.seed is None else recipe.with_training_seed(self.seed)


SELECT_SECTIONS = ("sampling", "select", "grpo.max_new_tokens", "grpo.max_pixels", "model")
GRPO_SECTIONS = ("sampling", "grpo", "model", "launch")
STAGES = (
    Stage("fetch", (), ("source", "model.path", "model.revision", "model.sha256"), prompts=False, format=2),
    # A teacher is asked with texts of its own, which are in the key below.
    Stage("synthesize", ("fetch",), ("synthesize", "sft.max_pixels", "model.frame", "model.min_pixels"), prompts=False),
    Stage("sft", ("fetch", "synthesize"), ("sft", "model", "launch")),
    Stage("merge", ("fetch", "sft"), ("sft.max_pixels", "model")),
    Stage("select", ("fetch", "merge"), SELECT_SECTIONS),
    Stage("grpo", ("fetch", "merge", "select"), GRPO_SECTIONS),
    Stage("evaluate", ("fetch", "merge", "grpo"), ("evaluate", "model"), format=2),
    Stage(
        "report",
        ("fetch", "synthesize", "sft", "merge", "select", "grpo", "evaluate"),
        ("name", "claims", "resamples"),
        prompts=False,
        format=3,
    ),
)

# Optional arms, off unless `evaluate.arms` names them. The same stage code, other inputs.
EXTRA_STAGES: dict[Arm, tuple[Stage, ...]] = {
    "sft_direct": (
        Stage("sft_direct", ("fetch", "synthesize"), ("sft", "model", "launch"), module="sft"),
        Stage("merge_direct", ("fetch", "sft_direct"), ("sft.max_pixels", "model"), module="merge"),
    ),
    "rl_no_cold_start": (
        Stage("select_base", ("fetch",), SELECT_SECTIONS, module="select"),
        Stage("grpo_no_cold_start", ("fetch", "select_base"), GRPO_SECTIONS, module="grpo"),
    ),
    "rl_no_selection": (Stage("grpo_no_selection", ("fetch", "merge"), GRPO_SECTIONS, module="grpo"),),
}

SHARED_STAGES = ("fetch", "synthesize")
"""What every training seed starts from."""

# Planned only where the recipe has the section `pass_rates`: the RL arm beside select's count.
PASS_RATES = Stage("pass_rates", ("fetch", "merge", "select", "grpo"), (*SELECT_SECTIONS, "pass_rates"))

LONG_STAGES = ("synthesize", "sft", "select", "grpo", "pass_rates", "evaluate")
"""Stages that end at their next step or batch when a signal asks them to; the others die of it and begin anew."""

ARM_STAGES: dict[Arm, tuple[str, ...]] = {
    "base": (),
    "sft": ("merge",),
    "rl": ("merge", "grpo"),
    "sft_direct": ("merge_direct",),
    "rl_no_cold_start": ("grpo_no_cold_start",),
    "rl_no_selection": ("merge", "grpo_no_selection"),
}
"""The stages whose weights an arm is made of, beside the base model."""


def plan_stages(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe in order: those of its optional arms before `evaluate`, those of further seeds after it.

    Report reads all of them, also for what they cost, and each under the name of its place, such as `seed_2/evaluate`.
    """
    *front, evaluate, report = STAGES
    extra = [stage for arm in recipe.evaluate.arms for stage in EXTRA_STAGES.get(arm, ())]
    made = [stage.name for stage in (*front, *extra) if stage.name.startswith(("merge", "grpo"))]
    needed = {name for arm in recipe.evaluate.arms for name in ARM_STAGES[arm]}
    # Only what the arms need, so that the base model can be evaluated before anything is trained.
    reads = ("fetch", *(name for name in made if name in needed))
    counted = [] if recipe.pass_rates is None else [PASS_RATES]
    main = [*front, *extra, replace(evaluate, reads=reads)]
    chain = [stage for stage in main if stage.name not in SHARED_STAGES]
    further = [replace(stage, seed=seed) for seed in recipe.seeds for stage in chain]
    planned = [*main, *counted, *further]
    return [*planned, replace(report, reads=tuple(stage.place for stage in planned))]


def run_pipeline(
    recipe: Recipe,
    runs: Path,
    *,
    only: str | None = None,
    force: bool = False,
    tell: Callable[[str, str], None] = lambda name, what: None,
) -> Path:
    """Run every stage whose result is not there yet, or just `only`, for every seed; return the last stage's folder.

    `tell(label, event)` is called with a stage's label and the events "start", "skip" and "done".
    """
    home = folder = runs / recipe.name
    stages = [stage for stage in plan_stages(recipe) if only in (None, stage.name)]
    with lock_folder(home):
        for stage in stages:
            folder, own = home / stage.place, stage.recipe_for(recipe)
            folder.parent.mkdir(exist_ok=True)  # a request to stop is left there
            work = prepare_stage(stage, recipe, home)
            work = replace(work, run=check_first(stage.name, own, work.run, alone=only is not None))
            tell(stage.label, "start")
            long = (stage.module or stage.name) in LONG_STAGES
            with stop_on_signals(folder.parent, stage.label) if long else nullcontext():
                ran = run_stage(work, own, folder, force=force)
            tell(stage.label, "done" if ran else "skip")
    return folder


def lock_folder(folder: Path) -> BinaryIO:
    """Hold `folder` against a second run until the file is closed or this process ends, however it ends.

    Raises:
        UserError: another run is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return take_lock(folder / ".lock", f"{folder}: another run is at work there; wait for it, or use --runs DIR")


def find_place(name: str, seed: int | None) -> str:
    """A stage's folder below `runs/<recipe>`, such as `grpo` or, for a further seed, `seed_2/grpo`."""
    return name if seed is None else f"seed_{seed}/{name}"


def prepare_stage(stage: Stage, recipe: Recipe, home: Path) -> StageWork:
    """Bind a stage to a recipe and to its folders under `home` (`runs/<recipe>`)."""
    recipe = stage.recipe_for(recipe)
    settings = recipe.model_dump(mode="json")
    sections: dict[str, Any] = {key: reduce(getitem, key.split("."), settings) for key in stage.sections}
    if stage.prompts:
        sections["prompts"] = hash_prompts()
    if stage.name == "fetch" and isinstance(recipe.source, HubSource):
        from migrl.data.download import SOURCES_FILE  # loads what a download needs, which no other command does

        sections["catalog"] = hash_file(recipe.source.catalog or SOURCES_FILE)
    teacher = recipe.local_teacher
    if stage.name == "fetch" and teacher is not None:
        sections["teacher"] = {"model": teacher.model, "revision": teacher.revision, "sha256": teacher.sha256}
    if stage.name == "synthesize" and isinstance(recipe.synthesize.teacher, PromptedTeacher):
        sections["teacher_prompts"] = hash_teacher_prompts()
    if stage.name == "evaluate" and recipe.training_seed is not None:
        sections["training_seed"] = recipe.training_seed  # its rows say it
    if stage.name == "report":
        from migrl.claims.verdicts import list_judging_files  # loads what statistics need, which few commands do

        sections["judged_by"] = [hash_file(path) for path in list_judging_files(recipe)]

    def run(context: StageContext) -> dict[str, Any]:
        module = importlib.import_module(f"migrl.stages.{stage.module or stage.name}")
        facts: dict[str, Any] = module.run(context)
        return facts

    seeds = {name: None if name in SHARED_STAGES else stage.seed for name in stage.reads}
    inputs = {name: home / find_place(name, seed) for name, seed in seeds.items()}
    return StageWork(stage.name, stage.format, sections, inputs, run)
