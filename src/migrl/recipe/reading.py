"""Reading a recipe file: overrides applied, every mistake named with its nearest legal key."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from migrl.errors import UserError, shorten
from migrl.grounding.boxes import QWEN_FACTOR
from migrl.recipe.keys import explain_unknown, name_key
from migrl.recipe.section import Section, Seed
from migrl.recipe.sources import FolderSource, HubSource, RehearsalSource, WorldSource
from migrl.recipe.stages import (
    EvaluateSettings,
    GrpoSettings,
    LaunchSettings,
    ModelSettings,
    PassRatesSettings,
    SamplingSettings,
    SelectSettings,
    SftSettings,
    SynthesizeSettings,
)
from migrl.recipe.teachers import LocalTeacher
from migrl.recipe.watching import Tracker, WatchSettings
from migrl.yaml_file import parse_yaml, read_yaml


class Recipe(Section):
    """Everything that decides a result.

    `seeds` are training seeds beside the sections' own, which then are all the same: whatever is trained is trained
    again with each of them, from the same data.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    claims: Literal["tiny", "paper", "none"]
    model: ModelSettings
    source: Annotated[WorldSource | HubSource | FolderSource | RehearsalSource, Field(discriminator="kind")]
    synthesize: SynthesizeSettings
    sft: SftSettings
    sampling: SamplingSettings
    select: SelectSettings
    grpo: GrpoSettings
    seeds: tuple[Seed, ...] = ()
    pass_rates: PassRatesSettings | None = None
    evaluate: EvaluateSettings
    launch: LaunchSettings = LaunchSettings()
    resamples: Annotated[int, Field(strict=True, ge=100, le=10**6)] = 10_000
    watch: WatchSettings = WatchSettings()
    trackers: tuple[Tracker, ...] = ("tensorboard",)

    @model_validator(mode="after")
    def check_claims(self) -> Self:
        if isinstance(self.source, RehearsalSource) and self.claims != "none":
            raise ValueError(f"claims: {self.claims}: a rehearsal has random weights and proves no claim; write none")
        return self

    @model_validator(mode="after")
    def check_seeds(self) -> Self:
        if not self.seeds:
            return self
        own = {f"{name}.seed": getattr(self, name).seed for name in TRAINED_SECTIONS}
        several = f"seeds={list(self.seeds)}"
        if len(set(own.values())) > 1:
            shown = ", ".join(f"{key}={seed}" for key, seed in own.items())
            raise ValueError(f"{several} needs one seed for the whole main chain, not {shown}; make these equal")
        if self.grpo.seed in self.seeds:
            raise ValueError(f"{several}: {self.grpo.seed} is the main chain's (grpo.seed); name others only")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"{several}: every seed at most once")
        if not self.trains or not any(is_trained(arm) for arm in self.evaluate.arms):
            why = "evaluate.arms names none" if self.trains else "source.training is null"
            raise ValueError(f"{several}: nothing trained is evaluated ({why}); leave seeds out, or name a trained arm")
        if self.claims == "none":
            raise ValueError(
                f"{several}: a recipe without claims measures costs, which no seed changes; leave seeds out"
            )
        return self

    @model_validator(mode="after")
    def check_pixels(self) -> Self:
        least = QWEN_FACTOR**2
        for name in ("sft", "grpo", "evaluate"):
            limit = getattr(self, name).max_pixels
            if limit < least:
                cell = f"{QWEN_FACTOR} x {QWEN_FACTOR}"
                raise ValueError(f"{name}.max_pixels={limit} is less than a cell of {cell}; use {least} or more")
            if limit < self.model.min_pixels:
                raise ValueError(
                    f"{name}.max_pixels={limit} is below model.min_pixels={self.model.min_pixels}; raise it, or lower "
                    "model.min_pixels"
                )
        return self

    @model_validator(mode="after")
    def check_rank_seeds(self) -> Self:
        most = 2**32 - self.launch.processes
        if (largest := max(self.grpo.seed, *self.seeds, 0)) > most:
            raise ValueError(
                f"seed {largest}: each process of grpo adds its number to grpo.seed or seeds, and numpy takes none "
                f"from 2**32 on; use {most} or less"
            )
        return self

    @property
    def trains(self) -> bool:
        """Whether there is anything to train on; without it a recipe only evaluates its base."""
        return not isinstance(self.source, HubSource) or self.source.training is not None

    @property
    def training_seed(self) -> int | None:
        """The seed that rows of trained arms carry; None where a recipe names no further ones."""
        return self.grpo.seed if self.seeds else None

    def with_training_seed(self, seed: int) -> Self:
        """The recipe of one of its further seeds: trained with that seed, and only what is trained is evaluated."""
        sections = {name: getattr(self, name).model_copy(update={"seed": seed}) for name in TRAINED_SECTIONS}
        arms = tuple(arm for arm in self.evaluate.arms if is_trained(arm))
        evaluate = self.evaluate.model_copy(update={"arms": arms})
        others = tuple(self.grpo.seed if other == seed else other for other in self.seeds)
        return self.model_copy(update={**sections, "evaluate": evaluate, "seeds": others})

    @property
    def local_teacher(self) -> LocalTeacher | None:
        """The teacher whose weights fetch has to bring; none where nothing is trained."""
        teacher = self.synthesize.teacher
        return teacher if isinstance(teacher, LocalTeacher) and self.trains else None


TRAINED_SECTIONS = ("sft", "select", "grpo")
MAX_FAULTS = 10  # a message tells of
SEEDED_SECTIONS = ("source", "synthesize", *TRAINED_SECTIONS)


def is_trained(arm: str) -> bool:
    """Whether an arm's answers depend on a training seed."""
    return arm != "base"


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply overrides such as `grpo.max_steps=5` (values are YAML).

    Raises:
        UserError: no such file, no YAML, an unknown key (with the nearest legal one), or a bad value.
    """
    try:
        data = read_yaml(path)
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        raise UserError(f"{path}: no such recipe; the recipes here are: {known or 'none'}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys; correct the file")
    for override in overrides or []:
        _apply_override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        faults = error.errors()
        told = [_explain(item, data) for item in faults[:MAX_FAULTS]]
        more = [f"{len(faults) - MAX_FAULTS} more like these"] if len(faults) > MAX_FAULTS else []
        raise UserError(f"{path}: {'; '.join([*told, *more])}") from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    shown = f"override {shorten(override, 100)!r}"
    if not equals or not key:
        raise UserError(f"{shown}: write it as key=value, for example grpo.max_steps=5")
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"{shown}: {parent!r} holds a value, not keys; use a legal key")
        node = child
    try:
        node[last] = parse_yaml(value)
    except yaml.YAMLError as error:
        raise UserError(f"{shown}: the value is not YAML ({error}); quote it") from error


def _explain(item: Any, data: dict[str, Any]) -> str:
    key = name_key(Recipe, item["loc"])
    if item["type"] == "extra_forbidden":
        return explain_unknown(Recipe, key, data)
    if item["type"] == "missing":
        return f"key {key!r} is missing; add it (reproduce/recipes/tiny.yaml shows every key)"
    got = "" if isinstance(item["input"], dict) else f"; got {item['input']!r}"
    return shorten(f"key {key or 'recipe'!r}: {item['msg'].removeprefix('Value error, ')}{got}", 600)
