"""Recipes: one frozen model of every setting, read from YAML, refusing what it does not know.

The tiny, the rehearsal and the paper recipe have the same keys and differ in sizes and sources
only. `load_recipe` merges a file with dotted overrides (`grpo.steps=5`); an unknown key is an
error that names the nearest legal one. Arithmetic that would only fail hours later (batches,
groups, checkpoints) is checked here, before anything is loaded.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from migrl.boxes import Frame
from migrl.errors import UserError
from migrl.prompts import PromptStyle

Arm = Literal["base", "sft", "rl", "sft_direct", "rl_no_cold_start", "rl_no_selection"]
Parallel = Literal["none", "zero2", "zero3"]
MgroundingTask = Literal[
    "Common_Object",
    "Difference",
    "Free-Form",
    "Group_Grounding",
    "Object_Tracking",
    "Referring_Grounding",
    "Region_Locating",
]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class WorldSource(Section):
    """Sizes of the rendered world's sets (world/tasks.py); every set is drawn from `seed`."""

    kind: Literal["world"]
    seed: int = 0
    cot_per_task: Count
    rl_per_task: Count
    eval_per_task: dict[str, Count]


class PreparedTraining(Section):
    """A prepared folder with cot.jsonl and rl.jsonl, pictures beside them."""

    kind: Literal["folder"]
    path: Path


class MgroundingTraining(Section):
    """MGrounding-630k (data/mgrounding.py): how many samples of each task a split takes; only their tasks' archives."""

    kind: Literal["mgrounding"]
    cot_per_task: Count
    rl_per_task: Count
    tasks: Annotated[tuple[MgroundingTask, ...], Field(min_length=1)]


class HubSource(Section):
    """Published data sets: the benchmarks, and what is trained on (null: nothing, to evaluate the base alone).

    `catalog` describes the sets; null means reproduce/sources.yaml. `seed` decides which training samples are taken.
    `downloads` keeps what was fetched, for all runs; `offline` is a folder with files the user already has. Where
    files lie does not decide a result, so these two are no part of a stage's key.
    """

    kind: Literal["hub"]
    benchmarks: Annotated[tuple[str, ...], Field(min_length=1)]
    training: Annotated[PreparedTraining | MgroundingTraining, Field(discriminator="kind")] | None
    seed: int = 0
    catalog: Path | None = None
    downloads: Path = Field(default=Path("data"), exclude=True)
    offline: Path | None = Field(default=None, exclude=True)


class FolderSource(Section):
    """A prepared folder: cot.jsonl, rl.jsonl and one `<benchmark>.jsonl` a benchmark, pictures beside them."""

    kind: Literal["folder"]
    path: Path


class ModelSettings(Section):
    """The base model and how every stage runs it."""

    path: str
    revision: str | None = None
    sha256: dict[str, str] = {}
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    frame: Frame = "resized_px"
    min_pixels: Count
    threads: Count | None = None


class LoraSettings(Section):
    """LoRA on the language model's linear layers; the vision tower stays frozen."""

    rank: Count
    alpha: Count
    dropout: Rate = 0.0


class TeacherSettings(Section):
    """Who writes the reasoning. `scripted` is the tiny world's teacher, which errs at the stated rates."""

    engine: Literal["scripted"]
    wrong_object: Rate = 0.0
    leaked_truth: Rate = 0.0
    malformed: Rate = 0.0
    too_long: Rate = 0.0


class SynthesizeSettings(Section):
    """CoT synthesis: candidates a sample, and what the filters let through."""

    teacher: TeacherSettings
    candidates: Count
    min_iou: Rate
    max_thought_words: Count
    max_samples: Count
    seed: int = 0


class SftSettings(Section):
    """LoRA cold start."""

    lora: LoraSettings
    epochs: Count
    batch: Count
    micro_batch: Count
    learning_rate: float
    warmup_ratio: Rate
    max_pixels: Count
    save_steps: Count
    parallel: Parallel = "none"
    seed: int = 0

    @model_validator(mode="after")
    def check_batch(self) -> Self:
        check_divides("sft.micro_batch", self.micro_batch, "sft.batch", self.batch)
        return self


class SelectSettings(Section):
    """Rejection sampling: keep samples that are sometimes hit, `0 < pass rate < 1`."""

    rollouts: Annotated[int, Field(ge=2)]
    temperature: float
    batch: Count
    max_per_task: Count
    seed: int = 0


class GrpoSettings(Section):
    """Rule-based RL with GRPO."""

    steps: Count
    prompts_per_step: Count
    group: Annotated[int, Field(ge=2)]
    micro_batch: Count
    learning_rate: float
    warmup_ratio: Rate
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    lora: LoraSettings | None
    kl: Annotated[float, Field(ge=0)]
    clip: float
    temperature: float
    loss: Literal["grpo", "dr_grpo", "dapo", "bnpo"]
    scale_rewards: Literal["group", "batch", "none"]
    accuracy_reward: Literal["iou", "gated_iou", "hit"]
    accuracy_weight: float
    format_weight: float
    max_completion_tokens: Count
    max_pixels: Count
    save_steps: Count
    max_grad_norm: float = 1.0
    parallel: Parallel = "zero2"
    save_only_model: bool = False
    engine: Literal["transformers", "vllm"] = "transformers"
    seed: int = 0

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.group

    @model_validator(mode="after")
    def check_batch(self) -> Self:
        total = self.completions_per_step
        check_divides("grpo.micro_batch", self.micro_batch, "grpo.prompts_per_step * grpo.group", total)
        if self.save_only_model:
            raise ValueError(
                "save_only_model: DeepSpeed cannot resume without optimizer states, so a killed run would start "
                "again; set it to false"
            )
        return self


class EvaluateSettings(Section):
    """Evaluation: greedy, one engine, one pixel limit and one prompt for all arms.

    A batch holds at most `batch` questions and `batch_pixels` pixels of their resized pictures.
    """

    arms: tuple[Arm, ...]
    style: PromptStyle = "think"
    max_new_tokens: Count
    max_pixels: Count
    batch: Count
    batch_pixels: Count

    @model_validator(mode="after")
    def check_arms(self) -> Self:
        if len(set(self.arms)) != len(self.arms):
            raise ValueError("arms: every arm at most once")
        return self


class LaunchSettings(Section):
    """How training processes start."""

    processes: Count = 1
    machines: Count = 1


class Recipe(Section):
    """Everything that decides a result."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    claims: Literal["tiny", "paper"]
    model: ModelSettings
    source: Annotated[WorldSource | HubSource | FolderSource, Field(discriminator="kind")]
    synthesize: SynthesizeSettings
    sft: SftSettings
    select: SelectSettings
    grpo: GrpoSettings
    evaluate: EvaluateSettings
    launch: LaunchSettings = LaunchSettings()
    resamples: Count = 10_000


SEEDED_SECTIONS = ("source", "synthesize", "sft", "select", "grpo")


def check_divides(small_key: str, small: int, large_key: str, large: int) -> None:
    """Refuse a micro-batch that does not divide its batch, and print the legal values."""
    if large % small:
        legal = ", ".join(str(n) for n in range(1, large + 1) if large % n == 0)
        raise ValueError(f"{small_key}={small} does not divide {large_key}={large}; legal values: {legal}")


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply overrides such as `grpo.steps=5` (values are YAML).

    Raises:
        UserError: no such file, no YAML, an unknown key (with the nearest legal one), or a bad value.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) if path.parent.is_dir() else ""
        raise UserError(f"{path}: no such recipe; the recipes here are: {known or 'none'}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({error}); correct the file") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys; correct the file")
    for override in overrides or []:
        _apply_override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{path}: " + "; ".join(_explain(item) for item in error.errors())) from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r}: write it as key=value, for example grpo.steps=5")
    *parents, last = key.split(".")
    node = data
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"override {override!r}: {parent!r} holds a value, not keys; use a legal key")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"override {override!r}: the value is not YAML ({error}); quote it") from error


def _explain(item: Any) -> str:
    where = [str(part) for part in item["loc"] if part not in ("world", "hub", "folder", "mgrounding")]
    key = ".".join(where)
    if item["type"] == "extra_forbidden":
        legal = list_keys(Recipe)
        near = difflib.get_close_matches(key, legal, n=1, cutoff=0.0)
        return f"key {key!r} is unknown; did you mean {near[0]!r}?"
    if item["type"] == "missing":
        return f"key {key!r} is missing; add it (reproduce/recipes/tiny.yaml shows every key)"
    got = "" if isinstance(item["input"], dict) else f"; got {item['input']!r}"
    return f"key {key or 'recipe'!r}: {item['msg'].removeprefix('Value error, ')}{got}"[:600]


def list_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every legal dotted key of a model and its sections."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for part in getattr(field.annotation, "__args__", (field.annotation,)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys += list_keys(part, f"{prefix}{name}.")
    return keys
