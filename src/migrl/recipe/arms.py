"""The arms: every model that is evaluated, what its training starts from and learns on, and the stages that make it.

ARMS is the one table. A recipe adds arms of its own, each like one of these with some keys changed:

    arms:
      rl_kl0: {grpo.beta: 0}                    # like rl, unless it says otherwise
      sft_r8: {like: sft, sft.lora.rank: 8}
      rl_plain: {start: base, pool: whole}      # RL from another start, on another pool
      gpt: {engine: server, model: some-model, base_url: "http://host/v1"}      # one that someone serves
    evaluate:
      arms: [base, sft, rl, rl_kl0, gpt]

A served arm (`ServedArm`) has no stages. Any other shares with the arm it is like every stage that none of its keys
decides. The others, and all that read one of these, it has for itself, under its own name, such as `grpo_rl_kl0`. Data
and reasoning are the same for all arms.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import ValidationError

from migrl.recipe.engines import ServedArm
from migrl.recipe.keys import explain_faults

StageKind = Literal["sft", "merge", "select", "grpo"]
SECTIONS: dict[StageKind, tuple[str, ...]] = {
    "sft": ("sft", "model", "launch"),
    "merge": ("sft.max_pixels", "model"),
    "select": ("sampling", "select", "grpo.max_new_tokens", "grpo.max_pixels", "model"),
    "grpo": ("sampling", "grpo", "model", "launch"),
}
"""The sections or keys of a recipe that decide what a stage of an arm leaves, beside the stages that it reads."""
CHANGEABLE = ("sft", "sampling", "select", "grpo")
"""The sections whose keys an arm may change: how it is trained. Model, data, evaluation and machine are for all."""
SEEDS = tuple(f"{section}.seed" for section in CHANGEABLE)
CHOICES = ("like", "start", "pool")
ENGINE = "engine"
"""The key that says of an arm that someone serves it."""

Changes = Mapping[str, Any]
"""What a recipe says of an arm of its own: CHOICES, and dotted keys with other values; or the server's settings."""


@dataclass(frozen=True)
class ArmStage:
    """One stage of an arm: its name, which is its folder's too, its kind, and the stages it reads.

    `arm` is the arm whose overrides it follows, None where it follows the recipe as it stands. `reasoning`: whether a
    cold start learns to reason, or answers alone.
    """

    name: str
    kind: StageKind
    reads: tuple[str, ...]
    arm: str | None = None
    reasoning: bool = True


@dataclass(frozen=True)
class Arm:
    """A model under evaluation.

    Attributes:
        title: what pages call it.
        start: the arm that its training starts from; None: it is not trained.
        pool: the samples that RL learns on, those that selection keeps or all; None: it is a cold start without RL.
        reasoning: whether that cold start learns to reason, or answers alone.
        label: what follows the kind in the names of its stages, and of a selection for RL that starts from it.
        overrides: dotted keys of the recipe with the values that they have for this arm.
        server: who answers for it, where someone serves it; then all the above says nothing.
    """

    name: str
    title: str
    start: str | None = None
    pool: Literal["selected", "whole"] | None = None
    reasoning: bool = True
    label: str = ""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    server: ServedArm | None = None

    @property
    def stages(self) -> tuple[ArmStage, ...]:
        """What makes it, in order, its start's stages first; none for the base and for one that is served."""
        if self.start is None:
            return ()
        if self.pool is None:
            sft, merge = (name_stage(kind, self.label) for kind in ("sft", "merge"))
            chain = [
                ArmStage(sft, "sft", ("fetch", "synthesize"), reasoning=self.reasoning),
                ArmStage(merge, "merge", ("fetch", sft)),
            ]
        else:
            start = ARMS[self.start]
            chain, reads = [*start.stages], ("fetch", *start.weights)
            if self.pool == "selected":
                chain.append(ArmStage(name_stage("select", start.label), "select", reads))
                reads = (*reads, chain[-1].name)
            chain.append(ArmStage(name_stage("grpo", self.label), "grpo", reads))
        return self._take_own(chain)

    @property
    def weights(self) -> tuple[str, ...]:
        """The stages whose weights it is, beside the base model: a merged cold start, RL's adapter or model."""
        return tuple(stage.name for stage in self.stages if stage.kind in ("merge", "grpo"))

    def _take_own(self, chain: list[ArmStage]) -> tuple[ArmStage, ...]:
        """The chain, where those stages are the arm's own that its overrides decide or that read such a one."""
        own: dict[str, str] = {}
        stages = []
        for stage in chain:
            if own.keys() & set(stage.reads) or any(decides(key, stage.kind) for key in self.overrides):
                own[stage.name] = name_stage(stage.kind, self.label)
                reads = tuple(own.get(name, name) for name in stage.reads)
                stage = replace(stage, name=own[stage.name], reads=reads, arm=self.name)
            stages.append(stage)
        return tuple(stages)


ARMS = {
    arm.name: arm
    for arm in (
        Arm("base", "base", label="base"),
        Arm("sft", "SFT", start="base"),
        Arm("sft_direct", "SFT, direct", start="base", reasoning=False, label="direct"),
        Arm("rl", "RL", start="sft", pool="selected"),
        Arm("rl_no_cold_start", "RL, no cold start", start="base", pool="selected", label="no_cold_start"),
        Arm("rl_no_selection", "RL, no selection", start="sft", pool="whole", label="no_selection"),
    )
}
"""The arms that every recipe has, in the order in which pages list them."""


def make_arm(name: str, changes: Changes) -> Arm:
    """An arm of a recipe's own: like one of ARMS (rl unless told), from another start or pool, with other values.

    Or one that someone serves.

    Whether the recipe has the keys that it changes, and takes their values, is not looked at here.

    Raises:
        ValueError: the name is taken, a choice is none, or nothing makes it another arm.
    """
    if name in ARMS or name in {arm.label for arm in ARMS.values()}:
        raise ValueError("the name is that of an arm, or of its stages, that every recipe has; take another one")
    if ENGINE in changes:
        return Arm(name, name, server=read_server(changes))
    legal = {
        "like": [arm.name for arm in ARMS.values() if arm.start],
        "start": [arm.name for arm in ARMS.values() if arm.pool is None],
        "pool": ["selected", "whole"],
    }
    chosen = {key: changes[key] for key in CHOICES if key in changes}
    for key, value in chosen.items():
        if value not in legal[key]:
            raise ValueError(f"{key}: {value!r} is none of {', '.join(legal[key])}")
    like = ARMS[chosen.pop("like", "rl")]
    if like.pool is None and chosen:
        raise ValueError(f"{' and '.join(chosen)}: only RL has it, and this is an arm like {like.name}; leave it out")
    overrides = {**like.overrides, **{key: value for key, value in changes.items() if key not in CHOICES}}
    arm = replace(like, name=name, title=name, label=name, overrides=overrides, **chosen)
    if replace(arm, name=like.name, title=like.title, label=like.label) == like:
        raise ValueError(f"it is the arm {like.name} itself; name a key that it changes, such as grpo.beta: 0")
    return arm


def read_server(changes: Changes) -> ServedArm:
    """Who answers for an arm that someone serves.

    Raises:
        ValueError: a key that is missing, unknown, or of an arm that is trained.
    """
    for key in changes:
        if key in CHOICES or key.partition(".")[0] in CHANGEABLE:
            raise ValueError(
                f"key {key!r} says how an arm is trained, and engine={changes[ENGINE]} that a server answers for this "
                "one; leave one of them out"
            )
    if changes[ENGINE] != "server":
        raise ValueError(
            f"engine={changes[ENGINE]}: an arm's own engine can only be server; the arms with weights have "
            "evaluate.engine in common"
        )
    for key, example in (("model", "what the server calls it"), ("base_url", "http://HOST:PORT/v1")):
        if key not in changes:
            raise ValueError(f"key {key!r} is missing, and engine=server needs it; add {key}: {example}")
    try:
        return ServedArm.model_validate(changes)
    except ValidationError as error:
        raise ValueError(explain_faults(ServedArm, error, changes)) from error


def find_arm(name: str, own: Mapping[str, Changes]) -> Arm:
    """One of ARMS, or of a recipe's own.

    Raises:
        ValueError: there is none of this name; it says which was meant, and which there are.
    """
    if name in own:
        return make_arm(name, own[name])
    if name not in ARMS:
        meant = get_close_matches(name, [*own, *ARMS], n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{name!r} is no arm; did you mean {meant!r}? There are {', '.join(ARMS)}, and of this recipe's own "
            f"(key arms): {', '.join(own) or 'none'}"
        )
    return ARMS[name]


def find_stage(name: str, arms: Iterable[Arm]) -> ArmStage:
    """The stage of this name that makes one of the arms."""
    return next(stage for arm in arms for stage in arm.stages if stage.name == name)


def list_served(own: Mapping[str, Changes]) -> tuple[str, ...]:
    """Those of a recipe's own arms that a server answers for."""
    return tuple(name for name, changes in own.items() if ENGINE in changes)


def is_trained(arm: str, served: Collection[str]) -> bool:
    """Whether an arm's answers depend on a training seed; a recipe's own arms are all trained but for `served`."""
    return arm not in served and (arm not in ARMS or ARMS[arm].start is not None)


def describe_changes(changes: Changes) -> str:
    """What an arm of a recipe's own is, such as `like rl, grpo.beta=0`, or `some-model, served at http://host/v1`."""
    if ENGINE in changes:
        return f"{changes['model']}, served at {changes['base_url']}"
    rest = {key: value for key, value in changes.items() if key != "like"}
    return ", ".join([f"like {changes.get('like', 'rl')}", *(f"{key}={value}" for key, value in rest.items())])


def decides(key: str, kind: StageKind) -> bool:
    """Whether a dotted key of a recipe is one that decides what a stage of this kind leaves."""
    return any(key == part or key.startswith(f"{part}.") or part.startswith(f"{key}.") for part in SECTIONS[kind])


def name_stage(kind: str, label: str) -> str:
    """A stage's name, such as `grpo` or `grpo_no_selection`."""
    return f"{kind}_{label}" if label else kind


def name_kind(stage: str) -> str:
    """The kind of a stage by its name, such as `grpo` of `grpo_no_selection`; other stages are a kind of their own."""
    kinds: tuple[str, ...] = tuple(SECTIONS)
    return next((kind for kind in kinds if stage.startswith(f"{kind}_")), stage)
