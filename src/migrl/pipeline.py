"""The spine: which stages there are, in which order, and what each reads.

    fetch -> synthesize -> sft -> merge -> select -> grpo -> evaluate -> report

Optional stages come where the recipe asks for them: those of its arms (recipe/arms.py) before evaluate, `pass_rates`
after it.
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
from migrl.recipe import EngineName, HubSource, PromptedTeacher, Recipe
from migrl.recipe.arms import ARMS, SECTIONS, Arm, name_kind
from migrl.recipe.sources import may_ask_lists
from migrl.running.preflight import check_first
from migrl.running.stage import StageContext, StageWork
from migrl.running.stage_folder import run_stage
from migrl.running.watch.signals import stop_on_signals
from migrl.synthesis.teachers.prompts import hash_teacher_prompts


def add_nothing(recipe: Recipe) -> dict[str, Any]:
    """What decides most stages' results beside sections, prompts and inputs."""
    return {}


def identify_downloads(recipe: Recipe) -> dict[str, Any]:
    """The catalogue that published data are fetched by, and the teacher whose weights are."""
    extra: dict[str, Any] = {}
    if isinstance(recipe.source, HubSource):
        from migrl.data.download import SOURCES_FILE  # loads what a download needs, which no other command does

        extra["catalog"] = hash_file(recipe.source.catalog or SOURCES_FILE)
    teacher = recipe.local_teacher
    if teacher is not None:
        extra["teacher"] = {"model": teacher.model, "revision": teacher.revision, "sha256": teacher.sha256}
    return extra


def identify_teacher_prompts(recipe: Recipe) -> dict[str, Any]:
    """The texts that a teacher is asked with, where it is asked any."""
    prompted = isinstance(recipe.synthesize.teacher, PromptedTeacher)
    return {"teacher_prompts": hash_teacher_prompts()} if prompted else {}


def identify_evaluation(recipe: Recipe) -> dict[str, Any]:
    """The training seed that rows say where there are several, vLLM's settings where it answers, and served arms."""
    seed = {} if recipe.training_seed is None else {"training_seed": recipe.training_seed}
    servers = {arm: recipe.find_arm(arm).server for arm in recipe.evaluate.arms}
    served = {arm: server.model_dump(mode="json") for arm, server in servers.items() if server}
    return seed | identify_vllm(recipe, recipe.evaluate.engine) | ({"served": served} if served else {})


def identify_sampler(recipe: Recipe) -> dict[str, Any]:
    """vLLM's settings where it samples the rollouts."""
    return identify_vllm(recipe, recipe.select.engine)


def identify_rollouts(recipe: Recipe) -> dict[str, Any]:
    """The same where it samples what RL learns from."""
    return identify_vllm(recipe, recipe.grpo.engine)


def identify_vllm(recipe: Recipe, engine: EngineName) -> dict[str, Any]:
    return {"vllm": recipe.vllm.model_dump(mode="json")} if engine == "vllm" else {}


def identify_judges(recipe: Recipe) -> dict[str, Any]:
    """The claims and what else judges them."""
    from migrl.claims.verdicts import list_judging_files  # loads what statistics need, which few commands do

    return {"judged_by": [hash_file(path) for path in list_judging_files(recipe)]}


@dataclass(frozen=True)
class Stage:
    """Name, what it reads, and the recipe sections or keys that decide its result.

    `prompts` says whether the texts of prompts.py decide it too, `extra` what else does. `arm` is the arm whose values
    it is run with, None for the recipe's own; `seed` the further training seed, None in the main chain.
    """

    name: str
    reads: tuple[str, ...]
    sections: tuple[str, ...]
    prompts: bool = True
    format: int = 1
    extra: Callable[[Recipe], dict[str, Any]] = add_nothing
    arm: str | None = None
    seed: int | None = None

    @property
    def kind(self) -> str:
        """The module of `migrl.stages` that it runs."""
        return name_kind(self.name)

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
        own = recipe if self.arm is None else recipe.with_arm(self.arm)
        return own if self.seed is None else own.with_training_seed(self.seed)


def list_arm_stages(*arms: Arm) -> list[Stage]:
    """The stages that make some arms, each once, in order."""
    made = dict.fromkeys(stage for arm in arms for stage in arm.stages)
    extras = {"select": identify_sampler, "grpo": identify_rollouts}
    return [
        Stage(stage.name, stage.reads, SECTIONS[stage.kind], arm=stage.arm, extra=extras.get(stage.kind, add_nothing))
        for stage in made
    ]


FETCH = Stage(
    "fetch",
    (),
    ("source", "model.path", "model.revision", "model.sha256"),
    prompts=False,
    format=2,
    extra=identify_downloads,
)
SYNTHESIZE = Stage(
    "synthesize",
    ("fetch",),
    ("synthesize", "sft.max_pixels", "model.frame", "model.min_pixels"),
    prompts=False,  # a teacher is asked with texts of its own
    extra=identify_teacher_prompts,
)
# Planned only where the recipe has the section `pass_rates`: the RL arm beside select's count.
PASS_RATES = Stage(
    "pass_rates",
    ("fetch", "merge", "select", "grpo"),
    (*SECTIONS["select"], "pass_rates"),
    extra=identify_sampler,
)
EVALUATE = Stage("evaluate", ("fetch",), ("evaluate", "model"), format=2, extra=identify_evaluation)
REPORT = Stage("report", (), ("name", "claims", "resamples"), prompts=False, format=3, extra=identify_judges)
STAGES = (FETCH, SYNTHESIZE, *list_arm_stages(*ARMS.values()), EVALUATE, PASS_RATES, REPORT)
"""Every stage but those of a recipe's own arms; what evaluate and report read, `plan_stages` adds."""
MAIN_ARM = ARMS["rl"]
"""Its stages every recipe has, whatever arms it evaluates."""

SHARED_STAGES = ("fetch", "synthesize")
"""What every training seed starts from."""

LONG_STAGES = ("synthesize", "sft", "select", "grpo", "pass_rates", "evaluate")
"""Stages that end at their next step or batch when a signal asks them to; the others die of it and begin anew."""


def plan_stages(recipe: Recipe) -> list[Stage]:
    """The stages of a recipe in order: those of its optional arms before `evaluate`, those of further seeds after it.

    Report reads all of them, also for what they cost, and each under the name of its place, such as `seed_2/evaluate`.
    """
    arms = [recipe.find_arm(name) for name in recipe.evaluate.arms]
    trained = list_arm_stages(MAIN_ARM, *arms)
    # Only what the arms need, so that the base model can be evaluated before anything is trained.
    needed = {name for arm in arms for name in arm.weights}
    evaluate = replace(EVALUATE, reads=("fetch", *(stage.name for stage in trained if stage.name in needed)))
    chain = [*trained, evaluate]
    counted = [] if recipe.pass_rates is None else [PASS_RATES]
    further = [replace(stage, seed=seed) for seed in recipe.seeds for stage in chain]
    planned = [FETCH, SYNTHESIZE, *chain, *counted, *further]
    return [*planned, replace(REPORT, reads=tuple(stage.place for stage in planned))]


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
            with stop_on_signals(folder.parent, stage.label) if stage.kind in LONG_STAGES else nullcontext():
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
        sections["prompts"] = hash_prompts(["boxes"] if may_ask_lists(recipe.source) else [])
    sections |= stage.extra(recipe)

    def run(context: StageContext) -> dict[str, Any]:
        module = importlib.import_module(f"migrl.stages.{stage.kind}")
        facts: dict[str, Any] = module.run(context)
        return facts

    seeds = {name: None if name in SHARED_STAGES else stage.seed for name in stage.reads}
    inputs = {name: home / find_place(name, seed) for name, seed in seeds.items()}
    return StageWork(stage.name, stage.format, sections, inputs, run)
