"""Recipe sections of the stages. Arithmetic that would only fail hours later is checked here."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from migrl.grounding.boxes import Frame
from migrl.grounding.prompts import PromptStyle
from migrl.recipe.engines import EngineName, VllmRolloutSettings
from migrl.recipe.section import (
    Batch,
    Count,
    LearningRate,
    Number,
    Rate,
    Section,
    Seed,
    Temperature,
    Weight,
    check_divides,
    list_divisors,
)
from migrl.recipe.teachers import PromptedTeacher, TeacherSettings
from migrl.recipe.watching import AlarmSettings, RolloutLogSettings

RewardName = Literal["accuracy", "gated_accuracy", "hit", "format", "truncation"]
Parallel = Literal["none", "zero2", "zero3"]


class ModelSettings(Section):
    """The base model and how every stage runs it."""

    path: str
    revision: str | None = None
    sha256: dict[str, str] = {}
    dtype: Literal["float32", "bfloat16"]
    attention: Literal["sdpa", "eager", "flash_attention_2"]
    frame: Frame = "resized_px"
    min_pixels: Count
    threads: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None

    @property
    def needs_gpu(self) -> bool:
        """Whether the model has no use where there is no GPU: a recipe that says `threads` means to answer without."""
        return self.attention == "flash_attention_2" or (self.dtype == "bfloat16" and self.threads is None)


class LoraSettings(Section):
    """LoRA on the language model's linear layers; the vision tower stays frozen.

    peft calls them `r`, `lora_alpha` and `lora_dropout`.
    """

    rank: Count
    alpha: Count
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0


class SynthesizeSettings(Section):
    """CoT synthesis: candidates a sample, and what the filters let through."""

    teacher: TeacherSettings
    candidates: Count
    min_iou: Rate
    max_thought_words: Count
    max_samples: Count
    seed: Seed = 0

    @model_validator(mode="after")
    def check_candidates(self) -> Self:
        if isinstance(self.teacher, PromptedTeacher) and self.teacher.temperature == 0 and self.candidates > 1:
            raise ValueError(
                f"candidates={self.candidates} at teacher.temperature=0 are one text {self.candidates} times; "
                "set candidates to 1 or the temperature above 0"
            )
        return self


class SftSettings(Section):
    """LoRA cold start. Keys that trl's SFTConfig has too have its names and meaning; a step takes `batch` samples."""

    lora: LoraSettings
    num_train_epochs: Count
    batch: Batch
    per_device_train_batch_size: Batch
    learning_rate: LearningRate
    warmup_ratio: Rate
    max_pixels: Count
    save_steps: Count
    parallel: Parallel = "none"
    seed: Seed = 0

    @model_validator(mode="after")
    def check_batch(self) -> Self:
        check_divides("sft.per_device_train_batch_size", self.per_device_train_batch_size, "sft.batch", self.batch)
        return self


class SelectSettings(Section):
    """Rejection sampling: keep samples that are sometimes hit, `0 < pass rate < 1`; or all, to rehearse.

    `max_pass_rate` also leaves out what is hit more often than that, which RL soon has nothing to learn from.
    A batch of the transformers engine holds at most `batch` questions and, if given, `batch_pixels` pixels of their
    resized pictures; each has `rollouts` sequences. pass_rates takes the same engine: only the weights may differ.
    """

    engine: EngineName = "transformers"
    keep: Literal["solvable", "all"] = "solvable"
    rollouts: Annotated[int, Field(strict=True, ge=2, le=1000)]
    max_pass_rate: Annotated[Number, Field(gt=0, le=1)] = 1.0
    batch: Batch
    batch_pixels: Count | None = None
    max_per_task: Count
    seed: Seed = 0


class SamplingSettings(Section):
    """How rollouts are sampled, those of select, grpo and pass_rates alike: RL learns from what selection measured.

    `top_k` 0 and `top_p` 1 leave the model's distribution whole. The words are those of trl and transformers.
    """

    temperature: Temperature
    top_k: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[Number, Field(gt=0, le=2)] = 1.0


class PassRatesSettings(Section):
    """The RL arm's pass rates on `samples` samples of the RL pool, rolled out as select did."""

    samples: Count


class RewardSettings(Section):
    """A reward by its name in training/rewards.py, and its weight in the sum."""

    name: RewardName
    weight: Weight


class GrpoSettings(VllmRolloutSettings):
    """Rule-based RL with GRPO. Keys that trl's GRPOConfig has too have its names and meaning.

    A step trains on `prompts_per_step` prompts with `num_generations` completions each, over all processes, in micro
    batches of `per_device_train_batch_size` completions. `max_new_tokens` is trl's `max_completion_length`.
    `group_prefix` computes what a group shares once (training/group_prefix.py); without it the trainer is trl's own.
    Its mask needs sdpa: `true` where that is `model.attention`, else the kernel is named, `sdpa`, for this stage alone.
    """

    max_steps: Count
    prompts_per_step: Batch
    num_generations: Annotated[int, Field(strict=True, ge=2, le=1000)]
    per_device_train_batch_size: Batch
    learning_rate: LearningRate
    warmup_ratio: Rate
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "linear"
    lora: LoraSettings | None
    beta: Weight
    epsilon: Annotated[Number, Field(gt=0, lt=1)]
    loss_type: Literal["grpo", "dr_grpo", "dapo", "bnpo"]
    scale_rewards: Literal["group", "batch", "none"]
    rewards: Annotated[tuple[RewardSettings, ...], Field(min_length=1)]
    max_new_tokens: Count
    max_pixels: Count
    save_steps: Count
    max_grad_norm: Annotated[Number, Field(gt=0)] = 1.0
    parallel: Parallel = "zero2"
    save_only_model: bool = False
    group_prefix: bool | Literal["sdpa"] = False
    engine: Literal["transformers", "vllm"] = "transformers"
    seed: Seed = 0
    alarms: AlarmSettings = Field(default=AlarmSettings(), exclude=True)
    rollout_log: RolloutLogSettings = Field(default=RolloutLogSettings(), exclude=True)

    @property
    def completions_per_step(self) -> int:
        return self.prompts_per_step * self.num_generations

    @model_validator(mode="after")
    def check_batch(self) -> Self:
        total = self.completions_per_step
        check_divides(
            "grpo.per_device_train_batch_size",
            self.per_device_train_batch_size,
            "grpo.prompts_per_step * grpo.num_generations",
            total,
        )
        micro, group = self.per_device_train_batch_size, self.num_generations
        if self.group_prefix and micro % group and group % micro:
            legal = [n for n in list_divisors(total) if n % group == 0 or group % n == 0]
            raise ValueError(
                f"per_device_train_batch_size={micro} beside group_prefix is neither whole groups of "
                f"num_generations={group} nor a whole part of one; legal values: {', '.join(map(str, legal))}, or any "
                "that fits with group_prefix=false"
            )
        names = [reward.name for reward in self.rewards]
        if len(set(names)) != len(names):
            raise ValueError(
                f"rewards: {', '.join(names)}: every reward at most once; its weight says how much it counts"
            )
        if not any(reward.weight for reward in self.rewards):
            raise ValueError("rewards: all weights are 0, so that nothing is rewarded; raise one")
        if self.save_only_model:
            raise ValueError(
                "save_only_model: DeepSpeed cannot resume without optimizer states, so a killed run would start "
                "again; set it to false"
            )
        return self


class PromptForm(Section):
    """How the authors of a published checkpoint ask: `grounding.prompts.build_own_messages` has the words' meaning."""

    text: Annotated[str, Field(pattern=r"\{question\}")]
    lead: str = ""


class EvaluateSettings(Section):
    """Evaluation: one engine, one decoding, one pixel limit and one prompt for all arms.

    `form` asks as others do, in place of `style`; a recipe's own arms are never asked so.

    `decoding` greedy takes the likeliest token, after `repetition_penalty`; checkpoint takes what the base model's own
    generation_config.json says (temperature, top-k, top-p, penalty), for every arm. Nothing else is ever inherited.
    A batch of the transformers engine holds at most `batch` questions and `batch_pixels` pixels of resized pictures.
    """

    engine: EngineName = "transformers"
    arms: Annotated[tuple[str, ...], Field(min_length=1)]
    style: PromptStyle = "think"
    form: PromptForm | None = Field(default=None, exclude_if=lambda form: form is None)
    decoding: Literal["greedy", "checkpoint"] = "greedy"
    repetition_penalty: Annotated[Number, Field(gt=0, le=2)] = 1.0
    max_new_tokens: Count
    max_pixels: Count
    batch: Batch
    batch_pixels: Count

    @model_validator(mode="after")
    def check_arms(self) -> Self:
        if len(set(self.arms)) != len(self.arms):
            raise ValueError("arms: every arm at most once")
        return self

    @model_validator(mode="after")
    def check_penalty(self) -> Self:
        if self.decoding == "checkpoint" and self.repetition_penalty != 1:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty:g} beside decoding=checkpoint, which takes the "
                "checkpoint's own; leave one of them out"
            )
        return self


class LaunchSettings(Section):
    """How processes start: `processes` in all, evenly on `machines`, which share a file system.

    With several machines `starter` is the command that starts its arguments once on each of them, such as
    [srun, --ntasks-per-node=1]; they meet at `address` (null: this machine) and `port`. How they are started does not
    decide a result, their number does: it is the order in which gradients are summed.
    """

    processes: Count = 1
    machines: Count = Field(default=1, exclude=True)
    starter: Annotated[tuple[str, ...], Field(exclude=True)] = ()
    address: Annotated[str | None, Field(exclude=True)] = None
    port: Annotated[int, Field(strict=True, ge=1, le=65535, exclude=True)] = 29500

    @model_validator(mode="after")
    def check_machines(self) -> Self:
        check_divides("launch.machines", self.machines, "launch.processes", self.processes)
        if (self.machines > 1) != bool(self.starter):
            raise ValueError(
                "launch.starter is the command that starts a process on each of several machines, such as "
                "[srun, --ntasks-per-node=1]; name it if launch.machines is above 1, and only then"
            )
        return self
