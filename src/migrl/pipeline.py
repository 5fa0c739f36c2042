"""The spine: which stages there are, in which order, and what each reads.

    fetch -> synthesize -> sft -> merge -> select -> grpo -> evaluate -> report

Every stage is one file in `migrl/stages` with one entry, `run(context)`. Stages meet through files
only. A stage's key covers the recipe sections named here and the digests of the stages it reads, so
changing `grpo.learning_rate` re-runs grpo, evaluate and report and nothing before.
"""

import fcntl
import importlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, TextIO

from migrl.errors import UserError
from migrl.evidence import StageContext, StageWork, hash_file, run_stage
from migrl.plan.checks import check_arithmetic
from migrl.preflight import check_first
from migrl.prompts import hash_prompts
from migrl.recipe import Arm, HubSource, PromptedTeacher, Recipe
from migrl.teachers.prompts import hash_teacher_prompts
from migrl.watch.signals import stop_on_signals


@dataclass(frozen=True)
class Stage:
    """Name, what it reads, and the recipe sections or keys that decide its result."""

    name: str
    reads: tuple[str, ...]
    sections: tuple[str, ...]
    format: int = 1
    module: str = ""


SELECT_SECTIONS = ("select", "grpo.max_completion_tokens", "grpo.max_pixels", "model")
STAGES = (
    Stage("fetch", (), ("source", "model.path", "model.revision", "model.sha256")),
    Stage("synthesize", ("fetch",), ("synthesize", "sft.max_pixels", "model.frame", "model.min_pixels")),
    Stage("sft", ("fetch", "synthesize"), ("sft", "model", "launch")),
    Stage("merge", ("fetch", "sft"), ("sft.max_pixels", "model")),
    Stage("select", ("fetch", "merge"), SELECT_SECTIONS),
    Stage("grpo", ("fetch", "merge", "select"), ("grpo", "model", "launch")),
    Stage("evaluate", ("fetch", "merge", "grpo"), ("evaluate", "model")),
    Stage(
        "report",
        ("fetch", "synthesize", "sft", "select", "grpo", "evaluate"),
        ("name", "claims", "resamples"),
        format=2,
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
        Stage("grpo_no_cold_start", ("fetch", "select_base"), ("grpo", "model", "launch"), module="grpo"),
    ),
    "rl_no_selection": (Stage("grpo_no_selection", ("fetch", "merge"), ("grpo", "model", "launch"), module="grpo"),),
}

LONG_STAGES = ("synthesize", "sft", "select", "grpo", "evaluate")
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
    """The stages of a recipe in order, with those of its optional arms before `evaluate`."""
    *front, evaluate, report = STAGES
    extra = [stage for arm in recipe.evaluate.arms for stage in EXTRA_STAGES.get(arm, ())]
    made = [stage.name for stage in (*front, *extra) if stage.name.startswith(("merge", "grpo"))]
    needed = {name for arm in recipe.evaluate.arms for name in ARM_STAGES[arm]}
    # Only what the arms need, so that the base model can be evaluated before anything is trained.
    reads = ("fetch", *(name for name in made if name in needed))
    if recipe.claims == "none":
        report = replace(report, reads=(*report.reads, "merge"))  # it reports what every stage cost
    return [*front, *extra, Stage("evaluate", reads, evaluate.sections), report]


def run_pipeline(
    recipe: Recipe,
    runs: Path,
    *,
    only: str | None = None,
    force: bool = False,
    tell: Callable[[str, str], None] = lambda name, what: None,
) -> Path:
    """Run every stage whose result is not there yet, or just `only`; return the last stage's folder.

    `tell(stage, event)` is called with the events "start", "skip" and "done".
    """
    folder = runs / recipe.name
    stages = [stage for stage in plan_stages(recipe) if only in (None, stage.name)]
    with lock_folder(folder):
        # Before hours are spent on the stages in front of the one that could not work.
        check_arithmetic(recipe, folder, [stage.name for stage in stages])
        for stage in stages:
            folder = runs / recipe.name / stage.name
            work = prepare_stage(stage, recipe, runs / recipe.name)
            work = replace(work, run=check_first(stage.name, recipe, work.run, alone=only is not None))
            tell(stage.name, "start")
            long = (stage.module or stage.name) in LONG_STAGES
            with stop_on_signals(folder.parent, stage.name) if long else nullcontext():
                ran = run_stage(work, recipe, folder, force=force)
            tell(stage.name, "done" if ran else "skip")
    return folder


def lock_folder(folder: Path) -> TextIO:
    """Hold `folder` against a second run until the file is closed or this process ends, however it ends.

    Raises:
        UserError: another run is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"{folder}: another run is at work there; wait for it, or use --runs DIR") from error
    return lock


def prepare_stage(stage: Stage, recipe: Recipe, home: Path) -> StageWork:
    """Bind a stage to a recipe and to its folders under `home` (`runs/<recipe>`)."""
    settings = recipe.model_dump(mode="json")
    sections: dict[str, Any] = {key: reduce(getitem, key.split("."), settings) for key in stage.sections}
    sections["prompts"] = hash_prompts()
    if stage.name == "fetch" and isinstance(recipe.source, HubSource):
        from migrl.sources import SOURCES_FILE  # loads what a download needs, which no other command does

        sections["catalog"] = hash_file(recipe.source.catalog or SOURCES_FILE)
    teacher = recipe.local_teacher
    if stage.name == "fetch" and teacher is not None:
        sections["teacher"] = {"model": teacher.model, "revision": teacher.revision, "sha256": teacher.sha256}
    if stage.name == "synthesize" and isinstance(recipe.synthesize.teacher, PromptedTeacher):
        sections["teacher_prompts"] = hash_teacher_prompts()

    def run(context: StageContext) -> dict[str, Any]:
        module = importlib.import_module(f"migrl.stages.{stage.module or stage.name}")
        facts: dict[str, Any] = module.run(context)
        return facts

    return StageWork(stage.name, stage.format, sections, {name: home / name for name in stage.reads}, run)
