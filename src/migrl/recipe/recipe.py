"""The whole recipe: its sections, what has to hold between them, and the recipe of an arm or of a further seed."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_serializer, model_validator

from migrl.grounding.boxes import PIXEL_FACTOR
from migrl.recipe.arms import ARMS, CHANGEABLE, Arm, ArmStage, decides, find_arm, find_stage, is_trained, list_served
from migrl.recipe.engines import VllmSettings
from migrl.recipe.keys import explain_faults, explain_unknown, list_keys, set_key
from migrl.recipe.section import Section, Seed, check_divides, dump_whole
from migrl.recipe.sources import HubSource, RehearsalSource, Source
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

ArmName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class Recipe(Section):
    """Everything that decides a result.

    `seeds` are training seeds beside the sections' own, which then are all the same: whatever is trained is trained
    again with each of them, from the same data. `arms` are arms of its own; arms.py says how they are written.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    claims: Literal["tiny", "paper", "paper_3b", "none"]
    model: ModelSettings
    source: Annotated[Source, Field(discriminator="kind")]
    synthesize: SynthesizeSettings
    sft: SftSettings
    sampling: SamplingSettings
    select: SelectSettings
    grpo: GrpoSettings
    seeds: tuple[Seed, ...] = ()
    pass_rates: PassRatesSettings | None = None
    arms: dict[ArmName, dict[str, Any]] = {}
    evaluate: EvaluateSettings
    launch: LaunchSettings = LaunchSettings()
    vllm: VllmSettings = VllmSettings()
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
        if not self.trains or not any(map(self.is_trained, self.evaluate.arms)):
            why = "evaluate.arms names none" if self.trains else "source.training is null"
            raise ValueError(f"{several}: nothing trained is evaluated ({why}); leave seeds out, or name a trained arm")
        if self.claims == "none":
            raise ValueError(
                f"{several}: a recipe without claims measures costs, which no seed changes; leave seeds out"
            )
        return self

    @model_validator(mode="after")
    def check_pixels(self) -> Self:
        least = PIXEL_FACTOR**2
        for name in ("sft", "grpo", "evaluate"):
            limit = getattr(self, name).max_pixels
            if limit < least:
                cell = f"{PIXEL_FACTOR} x {PIXEL_FACTOR}"
                raise ValueError(f"{name}.max_pixels={limit} is less than a cell of {cell}; use {least} or more")
            if limit < self.model.min_pixels:
                raise ValueError(
                    f"{name}.max_pixels={limit} is below model.min_pixels={self.model.min_pixels}; raise it, or lower "
                    "model.min_pixels"
                )
        return self

    @model_validator(mode="after")
    def check_engines(self) -> Self:
        here = self.launch.processes // self.launch.machines
        if "vllm" in (self.select.engine, self.evaluate.engine):
            check_divides("vllm.tensor_parallel_size", self.vllm.tensor_parallel_size, "processes on a machine", here)
        spread = self.grpo.vllm_tensor_parallel_size
        check_divides("grpo.vllm_tensor_parallel_size", spread, "processes on a machine", here)
        return self

    @model_validator(mode="after")
    def check_kernel(self) -> Self:
        if self.grpo.group_prefix is True and self.model.attention != "sdpa":
            raise ValueError(
                f"grpo.group_prefix=true beside model.attention={self.model.attention}, which does not read its mask; "
                "grpo.group_prefix=sdpa trains the language model of this stage under sdpa, false is stock trl"
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

    @model_validator(mode="after")
    def check_arms(self) -> Self:
        for name in self.arms:
            try:
                self.check_arm(self.find_arm(name))
            except ValueError as error:
                raise ValueError(f"arms.{name}: {error}") from error
        for name in self.evaluate.arms:
            try:
                self.find_arm(name)
            except ValueError as error:
                raise ValueError(f"evaluate.arms: {error}") from error
        return self

    def check_arm(self, arm: Arm) -> None:
        """Refuse an arm whose training a key does not decide, or with whose values this would be no recipe.

        Raises:
            ValueError: naming the key.
        """
        known, data = list_keys(Recipe), dump_whole(self)
        own = [key for key in known if "." in key and key.partition(".")[0] in CHANGEABLE and not key.endswith(".seed")]
        legal = [key for key in own if any(decides(key, stage.kind) for stage in arm.stages)]
        for key in arm.overrides:
            if key not in known:
                raise ValueError(explain_unknown(Recipe, key, data))
            if key not in legal:
                sections = ", ".join(dict.fromkeys(name.partition(".")[0] for name in legal))
                raise ValueError(
                    f"key {key!r} is not one by which this arm is trained; legal are dotted keys of {sections}, such "
                    f"as {legal[0]}, but for seeds (key seeds trains every arm with further ones)"
                )
        try:
            self.with_arm(arm.name)
        except ValidationError as error:
            raise ValueError(explain_faults(Recipe, error, data)) from error

    def find_arm(self, name: str) -> Arm:
        """An arm that every recipe has, or one of this recipe's own.

        Raises:
            ValueError: there is none of this name.
        """
        return find_arm(name, self.arms)

    @field_serializer("arms")
    def dump_arms(self, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Of a served arm what evidence holds of it."""
        servers = {name: self.find_arm(name).server for name in arms}
        return {name: server.describe() if (server := servers[name]) else changes for name, changes in arms.items()}

    @property
    def served(self) -> tuple[str, ...]:
        """The arms of this recipe's own that a server answers for."""
        return list_served(self.arms)

    @property
    def local_arms(self) -> tuple[str, ...]:
        """The arms under evaluation whose weights run here."""
        return tuple(arm for arm in self.evaluate.arms if arm not in self.served)

    def is_trained(self, arm: str) -> bool:
        """Whether an arm's answers depend on a training seed."""
        return is_trained(arm, self.served)

    def find_stage(self, name: str) -> ArmStage:
        """The stage of this name that makes an arm."""
        return find_stage(name, [*ARMS.values(), *map(self.find_arm, self.arms)])

    def with_arm(self, name: str) -> Self:
        """The recipe that an arm is trained by: its values in force, and no other arm named or evaluated.

        Raises:
            ValidationError: with these values it is no recipe.
        """
        arm = self.find_arm(name)
        if not arm.overrides:
            return self
        data = dump_whole(self)
        for key, value in arm.overrides.items():
            set_key(data, key, value)
        # The arm is taken out meanwhile, for with it the recipe would be checked once more with its values, and so on.
        data |= {"arms": {}, "evaluate": {**data["evaluate"], "arms": ["rl"]}}
        evaluate = self.evaluate.model_copy(update={"arms": (name,)})
        own = {name: changes for name, changes in self.arms.items() if name == arm.name}
        return type(self).model_validate(data).model_copy(update={"arms": own, "evaluate": evaluate})

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
        arms = tuple(filter(self.is_trained, self.evaluate.arms))
        evaluate = self.evaluate.model_copy(update={"arms": arms})
        others = tuple(self.grpo.seed if other == seed else other for other in self.seeds)
        return self.model_copy(update={**sections, "evaluate": evaluate, "seeds": others})

    @property
    def local_teacher(self) -> LocalTeacher | None:
        """The teacher whose weights fetch has to bring; none where nothing is trained."""
        teacher = self.synthesize.teacher
        return teacher if isinstance(teacher, LocalTeacher) and self.trains else None


TRAINED_SECTIONS = ("sft", "select", "grpo")
SEEDED_SECTIONS = ("source", "synthesize", *TRAINED_SECTIONS)
