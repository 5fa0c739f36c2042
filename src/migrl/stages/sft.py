"""sft: LoRA cold start on synthesized reasoning, with trl's SFTTrainer.

The vision tower is frozen and the loss is on the completion only; both are checked before the first
step. For an arm without reasoning it is the same training on answers alone, asked the same prompt.
"""

from pathlib import Path
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl import SFTConfig, SFTTrainer

from migrl.errors import UserError
from migrl.files import read_json, read_jsonl, write_json
from migrl.grounding.samples import parse_sample
from migrl.models.family import find_family
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import load_model, load_processor
from migrl.models.size_gates import check_every_batch, check_sizes
from migrl.recipe import Recipe
from migrl.running.launch import launch_training
from migrl.running.metering import StepMeter, read_performance
from migrl.running.stage import StageContext, check_disk
from migrl.running.watch.trackers import use_trackers
from migrl.running.worker import Rank, run_child
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

IGNORED = -100


def run(context: StageContext) -> dict[str, Any]:
    """Write `adapter/` (PEFT) and `log.jsonl`."""
    weights = sum(path.stat().st_size for path in (context.inputs["fetch"] / "model").glob("*.safetensors"))
    check_disk(context.folder, weights // 2)  # two checkpoints of adapters and their optimizer's states
    launch_training("migrl.stages.sft", context, context.recipe.sft.parallel)
    facts: dict[str, Any] = read_json(context.folder / "facts.json")
    return facts | {"performance": read_performance(context.folder, context.recipe.launch.processes)}


def train(context: StageContext, rank: Rank) -> None:
    """The training process."""
    recipe, settings = context.recipe, context.recipe.sft
    base = context.inputs["fetch"] / "model"
    processor = load_processor(base, min_pixels=recipe.model.min_pixels, max_pixels=settings.max_pixels)
    items, completions = load_cot(context, processor, reasoning=recipe.find_stage(context.name).reasoning)
    check_sizes(items, processor)
    set_patience(recipe.watch)
    compile_nothing()
    config = make_config(recipe, context.folder / "checkpoints", len(items))
    use_trackers(config, context)
    trainer = build_trainer(
        recipe, config, load_model(base, recipe.model), processor, items, completions, make_callbacks(context)
    )
    check_processes(trainer, rank)
    trainable = check_trainable(get_model(trainer))
    loss_tokens = check_labels(trainer, processor, completions)
    meter = StepMeter(settings.lora)
    trainer.add_callback(meter)
    train_resuming(trainer, context)
    meter.save(context.folder)
    facts = {"samples": len(items), "trainable_parameters": trainable, "loss_tokens_checked": loss_tokens}
    if trainer.is_world_process_zero():
        write_json(context.folder / "facts.json", facts)
    save_trained(trainer, context.folder / "adapter")


def make_config(recipe: Recipe, checkpoints: Path, samples: int) -> SFTConfig:
    """The recipe in trl's words; made before the model is loaded, as under ZeRO-3 it decides how that is done."""
    settings = recipe.sft
    return SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=settings.num_train_epochs,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.batch // settings.per_device_train_batch_size // recipe.launch.processes,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup_ratio * -(-samples // settings.batch) * settings.num_train_epochs),
        bf16=recipe.model.dtype == "bfloat16",
        gradient_checkpointing=recipe.model.dtype == "bfloat16",
        max_length=None,  # over-long samples are dropped with a count, never cut through image tokens
        completion_only_loss=True,
        logging_steps=1,
        save_steps=settings.save_steps,
        save_total_limit=2,
        report_to="none",  # `use_trackers` names them
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=False,
        **choose_backend(settings.parallel, recipe.watch),
        remove_unused_columns=False,
        disable_tqdm=False,
    )


def build_trainer(
    recipe: Recipe,
    config: SFTConfig,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    items: list[ModelInput],
    completions: list[str],
    callbacks: list[TrainerCallback],
) -> SFTTrainer:
    """The trainer of `model` on the completions of `items`, its vision tower frozen and its language model adapted."""
    freeze_vision_tower(model)
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=build_dataset(items, completions),
        processing_class=processor,
        peft_config=make_lora_config(recipe.sft.lora, find_family(model.config)),
        callbacks=callbacks,
    )
    trainer.data_collator = check_every_batch(trainer.data_collator, processor)
    return trainer


def load_cot(
    context: StageContext, processor: ProcessorMixin, *, reasoning: bool
) -> tuple[list[ModelInput], list[str]]:
    """Model inputs and completions of the cold start; without `reasoning` the think block is dropped."""
    path: Path = context.inputs["synthesize"] / "cot.jsonl"
    items, completions = [], []
    for number, row in enumerate(read_jsonl(path), 1):
        completion = row.pop("completion", None)
        if not isinstance(completion, str):
            raise UserError(f"{path}, record {number}: key 'completion': must be a text; run synthesize again")
        sample = parse_sample(row, f"{path}, record {number}")
        root = context.inputs["fetch"] / "data"
        items.append(prepare_input(sample, root, processor, frame=context.recipe.model.frame, style="think"))
        completions.append(completion if reasoning else completion[completion.index("<answer>") :])
    if not items:
        raise UserError(f"{path}: no sample passed the filters; see filters.json beside it, then loosen synthesize")
    return items, completions


def check_labels(trainer: SFTTrainer, processor: ProcessorMixin, completions: list[str]) -> int:
    """Assert on a real batch that exactly the completion carries loss; return its number of tokens.

    Raises:
        UserError: prompt or image tokens carry loss, or the completion does not.
    """
    rows = cast(Dataset, trainer.train_dataset)
    batch = trainer.data_collator([rows[i] for i in range(min(4, len(completions)))])
    total = 0
    for labels, completion in zip(batch["labels"], completions, strict=False):
        ids = labels[labels != IGNORED].tolist()
        text = processor.tokenizer.decode(ids, skip_special_tokens=True)
        if text.strip() != completion.strip():
            raise UserError(f"sft: loss falls on {text[:200]!r}, not on {completion[:200]!r}; use the pinned trl")
        total += len(ids)
    return total


if __name__ == "__main__":
    run_child(train)
