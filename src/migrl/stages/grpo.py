"""grpo: rule-based reinforcement learning with trl's GRPOTrainer on DeepSpeed.

Starts from the merged cold start (or, for another arm, from the base), on the selected samples (or
on the whole RL pool). Rewards are those of rewards.py, by the evaluation's own scorer. Gates before
step 1: batch arithmetic (in the recipe), left padding, sizes of pictures, and that a perfect completion earns full
reward through the trainer's own decoding.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from accelerate import PartialState
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.grpo_trainer import RewardFunc

from migrl.errors import UserError
from migrl.files import read_json, write_json
from migrl.grounding.answers import format_box_answer, format_boxes_answer, format_choice_answer
from migrl.grounding.samples import BoxesTarget, BoxTarget, ChoiceTarget, read_samples
from migrl.models.family import find_family
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import (
    copy_small_files,
    list_end_tokens,
    list_vision_token_ids,
    load_model,
    load_processor,
    read_end_tokens,
)
from migrl.models.size_gates import check_batch, check_sizes
from migrl.recipe import Recipe
from migrl.running.launch import launch_training
from migrl.running.metering import StepMeter, read_performance
from migrl.running.stage import StageContext, check_disk
from migrl.running.watch.disk import measure_folder
from migrl.running.watch.trackers import use_trackers
from migrl.running.worker import Rank, run_child
from migrl.training.group_prefix import GroupPrefixTrainer
from migrl.training.rewards import REWARDS, RewardFunction, RolloutReader, make_reward_functions
from migrl.training.rollout_log import RolloutLog
from migrl.training.trainer import (
    build_dataset,
    check_processes,
    check_trainable,
    choose_backend,
    compile_nothing,
    freeze_vision_tower,
    get_model,
    make_callbacks,
    make_lora_config,
    save_trained,
    set_patience,
    train_resuming,
)
from migrl.training.vllm_rollouts import check_vllm, explain_vllm, make_vllm_arguments, starting_vllm, stop_vllm
from migrl.training.weights import find_pool, find_start


class CheckedTrainer(GRPOTrainer):
    """trl's trainer, which also compares the sizes of every batch's pictures with those that boxes are mapped with.

    `watch` is told each step's advantages, in the order of its rollouts.
    """

    processing_class: ProcessorMixin
    watch: Callable[[int, list[float]], None] | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        check_batch(inputs, self.processing_class, batch["image_grid_thw"])
        if self.watch is not None:
            self.watch(self.state.global_step + 1, batch["advantages"].tolist())
        return batch


class GroupedTrainer(GroupPrefixTrainer, CheckedTrainer):
    """The same, with what a group shares computed once."""


def run(context: StageContext) -> dict[str, Any]:
    """Write `adapter/` (LoRA) or `model/` (full), and `log.jsonl`."""
    start = find_start(context)
    weights = sum(path.stat().st_size for path in start.glob("*.safetensors"))
    # Full training: three checkpoints, each with float32 optimizer states eight times the weights.
    whole = 3 * weights if context.recipe.grpo.save_only_model else 24 * weights
    need = weights // 2 if context.recipe.grpo.lora else whole
    check_disk(context.folder, max(0, need - measure_folder(context.folder / "checkpoints")))
    launch_training("migrl.stages.grpo", context, context.recipe.grpo.parallel)
    facts: dict[str, Any] = read_json(context.folder / "facts.json")
    return facts | {"performance": read_performance(context.folder, context.recipe.launch.processes)}


def load_start_processor(context: StageContext) -> ProcessorMixin:
    """The start model's processor with this stage's pixel limits."""
    recipe = context.recipe
    return load_processor(find_start(context), min_pixels=recipe.model.min_pixels, max_pixels=recipe.grpo.max_pixels)


def train(context: StageContext, rank: Rank) -> None:
    """The training process."""
    recipe, settings = context.recipe, context.recipe.grpo
    start = find_start(context)
    processor = load_start_processor(context)
    data = context.inputs["fetch"] / "data"
    pool = find_pool(context)
    samples = read_samples(pool)
    if len(samples) < settings.prompts_per_step:
        raise UserError(
            f"{pool}: {len(samples)} samples, fewer than grpo.prompts_per_step={settings.prompts_per_step}; "
            "enlarge the RL pool or look at pass_rates.json beside it"
        )
    items = [prepare_input(sample, data, processor, frame=recipe.model.frame, style="think") for sample in samples]
    check_sizes(items, processor)
    reader = RolloutReader(items, settings.num_generations, read_end_tokens(start))
    check_perfect_reward(items[0], processor, make_reward_functions(settings.rewards, reader))
    set_patience(recipe.watch)
    compile_nothing()
    how = (
        make_vllm_arguments(settings, processor, items, start)
        if settings.engine == "vllm"
        else suppress_vision(processor)
    )
    config = make_config(recipe, context.folder / "checkpoints", how)
    use_trackers(config, context)
    callbacks = make_callbacks(context, settings.alarms)
    kept = settings.rollout_log.prompts and PartialState().is_main_process
    log = RolloutLog(context.folder, settings, tensorboard="tensorboard" in recipe.trackers) if kept else None
    trainer = build_trainer(recipe, config, load_model(start, recipe.model), processor, items, callbacks, log)
    check_processes(trainer, rank)
    trainable = check_trainable(get_model(trainer))
    if trainer.processing_class.tokenizer.padding_side != "left":
        raise UserError("grpo: the tokenizer pads right, so short prompts would train blind; set padding_side to left")
    meter = StepMeter(settings.lora, rollouts=True)
    trainer.add_callback(meter)
    train_resuming(trainer, context)
    meter.save(context.folder)
    if log is not None:
        log.close()
    if trainer.is_world_process_zero():
        facts = {"samples": len(items), "steps": settings.max_steps, "trainable_parameters": trainable}
        write_json(context.folder / "facts.json", facts)
    save_trained(trainer, context.folder / ("adapter" if settings.lora else "model"))
    if settings.lora is None and trainer.is_world_process_zero():
        copy_small_files(start, context.folder / "model")
    if settings.engine == "vllm":
        stop_vllm(trainer)


def build_trainer(
    recipe: Recipe,
    config: GRPOConfig,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    items: list[ModelInput],
    callbacks: list[TrainerCallback],
    log: RolloutLog | None = None,
) -> CheckedTrainer:
    """The trainer of `model` on the prompts of `items`, its vision tower frozen."""
    freeze_vision_tower(model)
    build = GroupedTrainer if recipe.grpo.group_prefix else CheckedTrainer
    reader = RolloutReader(items, recipe.grpo.num_generations, list_end_tokens(model.generation_config))
    arguments: dict[str, Any] = {
        "model": model,
        "reward_funcs": cast(list[RewardFunc], make_reward_functions(recipe.grpo.rewards, reader)),
        "args": config,
        "train_dataset": build_dataset(items),
        "processing_class": processor,
        "peft_config": make_lora_config(recipe.grpo.lora, find_family(model.config)) if recipe.grpo.lora else None,
        "callbacks": callbacks,
    }
    if not config.use_vllm:
        trainer = build(**arguments)
    else:
        try:
            with starting_vllm(recipe, processor):
                trainer = build(**arguments)
        except (OSError, NotImplementedError, RuntimeError, ValueError) as error:
            raise explain_vllm(error, recipe, model.name_or_path, processor) from error
        check_vllm(trainer, processor, recipe.grpo.seed)
    if log is not None:
        trainer.watch = lambda step, advantages: log.note(step, reader.rollouts, advantages)
    return trainer


def make_config(recipe: Recipe, checkpoints: Path, rollouts: dict[str, Any]) -> GRPOConfig:
    """The recipe in trl's words; made before the model is loaded, as under ZeRO-3 it decides how that is done.

    `rollouts` are the arguments of who samples. `steps_per_generation` covers one optimizer step: rollouts are
    on-policy.
    """
    settings = recipe.grpo
    micro_steps = settings.completions_per_step // settings.per_device_train_batch_size // recipe.launch.processes
    return GRPOConfig(
        output_dir=str(checkpoints),
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=micro_steps,
        steps_per_generation=micro_steps,
        num_generations=settings.num_generations,
        max_completion_length=settings.max_new_tokens,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=round(settings.warmup_ratio * settings.max_steps),
        max_grad_norm=settings.max_grad_norm,
        beta=settings.beta,
        epsilon=settings.epsilon,
        temperature=recipe.sampling.temperature,
        top_k=recipe.sampling.top_k,
        top_p=recipe.sampling.top_p,
        repetition_penalty=recipe.sampling.repetition_penalty,
        loss_type=settings.loss_type,
        scale_rewards=settings.scale_rewards,
        reward_weights=[reward.weight for reward in settings.rewards],
        **rollouts,
        bf16=recipe.model.dtype == "bfloat16",
        gradient_checkpointing=recipe.model.dtype == "bfloat16",
        logging_steps=1,
        save_steps=settings.save_steps,
        save_total_limit=2,
        save_only_model=settings.save_only_model,
        report_to="none",  # `use_trackers` names them
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=False,
        **choose_backend(settings.parallel, recipe.watch),
    )


def suppress_vision(processor: ProcessorMixin) -> dict[str, Any]:
    """trl's argument that keeps `generate` from sampling vision placeholders."""
    return {"generation_kwargs": {"suppress_tokens": list_vision_token_ids(processor)}}


def check_perfect_reward(item: ModelInput, processor: ProcessorMixin, rewards: list[RewardFunction]) -> None:
    """Encode and decode a perfect completion as the trainer does, and ask every reward for its maximum.

    Tags that are special tokens vanish in decoding, and every reward would silently be 0.

    Raises:
        UserError: a reward is below its maximum.
    """
    target = item.sample.target
    match target:
        case BoxTarget():
            answer = format_box_answer(target.image, item.true_box)
        case BoxesTarget():
            answer = format_boxes_answer(item.true_boxes)
        case ChoiceTarget():
            answer = format_choice_answer(target.letter)
    ids = processor.tokenizer(f"<think>Image 1.</think>{answer}").input_ids
    text = processor.tokenizer.decode(ids, skip_special_tokens=True)
    for reward in rewards:
        (value,) = reward(
            uid=[item.sample.uid],
            completions=[[{"role": "assistant", "content": text}]],
            completion_ids=[[*ids, processor.tokenizer.eos_token_id]],
            log_metric=lambda name, metric: None,
        )
        most = REWARDS[reward.__name__].maximum
        if value < most - 0.2:  # a perfect box rounds to whole numbers, so its IoU may be a little below 1
            raise UserError(
                f"grpo: a perfect completion earns {value:g} of {most:g} from reward {reward.__name__}: "
                f"{json.dumps(text)}; the answer tags must be ordinary tokens, special ones vanish in decoding"
            )


if __name__ == "__main__":
    run_child(train)
