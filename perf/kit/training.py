"""Training steps by the stages' own trainers: the LoRA cold start, and GRPO's two passes over given rollouts."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel, ProgressCallback, Trainer
from transformers.trainer_utils import SaveStrategy

from kit.bench import Bench, Formulas, close_part, measure_prompts, to_formula, write_answer
from kit.budget import OutOfTime
from migrl.models.inputs import ModelInput
from migrl.models.loading import list_end_tokens, list_vision_token_ids
from migrl.plan.costs import time_compute
from migrl.plan.memory import Memory, plan_training
from migrl.plan.work import Training
from migrl.recipe import LoraSettings
from migrl.report.gpu_parts import Figure, Part
from migrl.running.metering import Step, StepMeter
from migrl.stages import grpo, sft

WARMUP = 2


def measure_sft(bench: Bench, attention: str, formulas: Formulas, *, steps: int) -> Iterator[Part]:
    """Optimizer steps of the cold start, each of one micro-batch at the recipe's pixel limit."""
    recipe, settings = bench.recipe, bench.recipe.sft
    part = bench.describe(attention, {**settings.model_dump(mode="json"), "steps": steps})
    yield part
    processor = bench.load_processor(settings.max_pixels)
    items = bench.list_items("cot", processor, bench.pictures)[: (WARMUP + steps) * settings.batch]
    answers = [write_answer(item) for item in items]
    model = bench.build_model(attention)
    meter = StepMeter(settings.lora)
    with TemporaryDirectory() as folder:
        config = sft.make_config(recipe, Path(folder), len(items))
        run_steps(sft.build_trainer(recipe, config, model, processor, items, answers, []), meter)
    length = max(len(processor.tokenizer(answer).input_ids) for answer in answers)
    memory = plan_peak(formulas, items, processor, settings.per_device_train_batch_size, length, settings.lora)
    yield from conclude(part, meter, memory, formulas, "one optimizer step", steps)


def measure_grpo(bench: Bench, attention: str, formulas: Formulas, *, steps: int) -> Iterator[Part]:
    """Optimizer steps of GRPO without its generation: the start model's log-probabilities, and the training pass."""
    recipe, settings = bench.recipe, bench.recipe.grpo
    part = bench.describe(attention, {**settings.model_dump(mode="json"), "steps": steps})
    yield part
    processor = bench.processor
    items = bench.list_items("rl", processor, bench.pictures)
    model = bench.build_model(attention)
    meter = StepMeter(settings.lora)
    with TemporaryDirectory() as folder:
        config = grpo.make_config(recipe, Path(folder), grpo.suppress_vision(processor))
        config.max_steps = WARMUP + steps
        trainer = grpo.build_trainer(recipe, config, model, processor, items, [])
        give_rollouts(model, settings.max_new_tokens, list_vision_token_ids(processor))  # in place of the trainer's own
        run_steps(trainer, meter)
    batch, new = settings.per_device_train_batch_size, settings.max_new_tokens
    packed = min(batch, settings.num_generations) if settings.group_prefix else 1
    memory = plan_peak(formulas, items, processor, batch, new, settings.lora, packed)
    yield from conclude(part, meter, memory, formulas, "reference and training pass", steps)


def run_steps(trainer: Trainer, meter: StepMeter) -> None:
    """Train until the end, or until the time is spent; nothing is saved."""
    trainer.args.save_strategy = SaveStrategy.NO
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(meter)
    with suppress(OutOfTime):
        trainer.train()


def give_rollouts(model: PreTrainedModel, tokens: int, never: list[int]) -> None:
    """Let the model answer at once, with random tokens up to the limit: its generation is measured elsewhere."""
    banned = torch.tensor([*never, *list_end_tokens(model.generation_config)])
    allowed = torch.arange(model.config.text_config.vocab_size)
    allowed = allowed[~torch.isin(allowed, banned)]

    def generate(input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        drawn = allowed[torch.randint(len(allowed), (len(input_ids), tokens))]
        return torch.cat([input_ids, drawn.to(input_ids.device)], dim=1)

    model.generate = generate


def plan_peak(
    formulas: Formulas,
    items: list[ModelInput],
    processor: Any,
    sequences: int,
    completion: int,
    lora: LoraSettings,
    packed: int = 1,
) -> Memory:
    """Plan's peak of a training step, by one process without DeepSpeed."""
    prompts, new_tokens = measure_prompts(items, processor), (completion, completion)
    training = Training(prompts, sequences, new_tokens, sequences, sequences, lora, "none", 1, packed=packed)
    return plan_training(formulas.workload, training)


def conclude(
    part: Part, meter: StepMeter, memory: Memory, formulas: Formulas, words: str, steps: int
) -> Iterator[Part]:
    """The record of the steps that were timed, if any were."""
    timed = meter.steps[WARMUP:]
    if not timed:
        raise OutOfTime
    mean = sum(timed, Step())
    flops, tokens, sequences = mean.flops / len(timed), mean.tokens / len(timed), mean.sequences / len(timed)
    duration = time_compute("training", flops, formulas.shares.train_lora, formulas.machine, 1)
    figure = Figure(
        what=f"{words}: {sequences:.0f} sequences of {tokens / sequences:,.0f} tokens",
        seconds=tuple(step.seconds for step in timed),
        flops=flops,
        tokens=round(tokens),
        items=round(sequences),
        bound="train_lora",
        formula=to_formula(duration),
    )
    yield close_part(part, {"step": figure}, memory, complete=len(timed) == steps)
