"""Generation as select and evaluate do it, in its phases: preparing, vision tower, reading the prompt, decoding."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from peft import get_peft_model
from torch import nn
from transformers import PreTrainedModel

from kit.bench import Bench, Formulas, close_part, count_patches, measure_prompts, to_formula
from migrl.engines.batches import make_batches
from migrl.engines.transformers_engine import generate_batch
from migrl.models.attention import fold_heads
from migrl.models.decoding import Decoding, choose_sampling
from migrl.models.family import find_family
from migrl.models.flops import count_forward
from migrl.models.inputs import ModelInput
from migrl.plan.costs import count_step, time_compute, time_decoding
from migrl.plan.memory import Memory, list_weights, plan_generation
from migrl.report.gpu_parts import Bound, Figure, Part
from migrl.running.metering import read_clock
from migrl.training.trainer import make_lora_config

REPETITIONS = 2
WARMUP_TOKENS = 4


@dataclass
class Phases:
    """When the first pass through the model and its vision tower began and ended, on `read_clock`'s clock."""

    marks: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def watch(self, model: PreTrainedModel) -> Iterator[None]:
        """Note the marks while one batch is generated; later passes change nothing."""
        self.marks = {"start": read_clock()}
        hooks = []
        tower = model.get_submodule(find_family(model.config).vision_tower)
        for name, module in (("reading", model), ("vision", tower)):
            hooks += [
                module.register_forward_pre_hook(self.make_hook(f"{name} began")),
                module.register_forward_hook(self.make_hook(f"{name} ended")),
            ]
        try:
            yield
        finally:
            self.marks["end"] = read_clock()
            for hook in hooks:
                hook.remove()

    def make_hook(self, name: str) -> Any:
        def note(module: nn.Module, *args: Any) -> None:
            if name not in self.marks:
                self.marks[name] = read_clock()

        return note

    def read(self) -> dict[str, float]:
        """Seconds of each phase; reading is the vision tower and the prompt's pass through the language model."""
        marks = self.marks
        vision = marks["vision ended"] - marks["vision began"]
        reading = marks["reading ended"] - marks["reading began"]
        return {
            "preparing": marks["reading began"] - marks["start"],
            "vision": vision,
            "prefill": reading - vision,
            "reading": reading,
            "decoding": marks["end"] - marks["reading ended"],
            "whole": marks["end"] - marks["start"],
        }


def measure_rollouts(
    bench: Bench, attention: str, formulas: Formulas, *, pictures: int, adapter: bool = False
) -> Iterator[Part]:
    """A group's rollouts for one question with so many pictures, as select makes them.

    With `adapter` an unmerged LoRA lies on the model, as in GRPO's own rollouts.
    """
    recipe = bench.recipe
    settings = choose_sampling(recipe.sampling, recipe.grpo.max_new_tokens, recipe.select.rollouts, recipe.select.seed)
    batch = bench.list_items("rl", bench.processor, pictures)[:1]
    rank = recipe.grpo.lora.rank if adapter and recipe.grpo.lora else 0
    yield from measure_batch(bench, attention, formulas, batch, settings, rank)


def measure_greedy(bench: Bench, attention: str, formulas: Formulas) -> Iterator[Part]:
    """A batch of the evaluation: as many questions as the recipe puts into one."""
    evaluate = bench.recipe.evaluate
    items = bench.list_items("rehearsal", bench.load_processor(evaluate.max_pixels))
    batches = make_batches(items, evaluate.batch, evaluate.batch_pixels)
    batch = max(batches, key=len)
    yield from measure_batch(bench, attention, formulas, batch, Decoding(evaluate.max_new_tokens), 0)


def measure_batch(
    bench: Bench,
    attention: str,
    formulas: Formulas,
    batch: list[ModelInput],
    settings: Decoding,
    rank: int,
) -> Iterator[Part]:
    """Generate one batch several times; every repetition is in the record as soon as it is done."""
    described = {"prompts": len(batch), "rollouts": settings.rollouts, "adapter_rank": rank}
    described |= {"new_tokens": settings.max_new_tokens}
    described |= {"temperature": settings.temperature, "pictures": sum(len(item.paths) for item in batch)}
    part = bench.describe(attention, {**described, "max_pixels": bench.recipe.grpo.max_pixels})
    yield part
    model = bench.build_model(attention)
    if attention == "sdpa":  # as the engine does
        fold_heads(model)
    if rank:
        lora = make_lora_config(bench.recipe.grpo.lora, find_family(model.config))
        get_peft_model(model, lora).eval()  # changes the model's own layers
    short = replace(settings, max_new_tokens=WARMUP_TOKENS)
    generate_batch(model, bench.processor, batch, short)
    phases = Phases()
    timed: list[dict[str, float]] = []
    for number in range(REPETITIONS):
        with phases.watch(model):
            completions = generate_batch(model, bench.processor, batch, settings)
        timed.append(phases.read())
        lengths = [completion.tokens for some in completions for completion in some]
        figures, memory = describe_phases(bench, formulas, batch, lengths, timed, rank)
        yield close_part(part, figures, memory, complete=number == REPETITIONS - 1)


def describe_phases(
    bench: Bench,
    formulas: Formulas,
    batch: list[ModelInput],
    lengths: list[int],
    timed: list[dict[str, float]],
    rank: int,
) -> tuple[dict[str, Figure], Memory]:
    """A figure for each phase, with the work that plan counts for it: rollouts of a prompt read it once."""
    workload, machine, shares = formulas.workload, formulas.machine, formulas.shares
    prompts, sequences = measure_prompts(batch, bench.processor), len(lengths)
    patch, mean = bench.processor.image_processor.patch_size, prompts.mean
    patches = [count for item in batch for count in count_patches(item, patch)]
    read = count_forward(workload.shape, [round(mean.tokens)] * len(batch), len(batch), patches, lora_rank=rank)
    steps = max(lengths) - 1
    read_per_step = count_step(workload.shape, mean, sequences, steps, rank)
    bound: Bound = "decode_adapter" if rank else "decode_transformers"
    words = f"{len(batch)} x {mean.tokens:,.0f} tokens, {mean.images:.3g} pictures each"

    def make(name: str, what: str, **work: Any) -> Figure:
        return Figure(what=what, seconds=tuple(some[name] for some in timed), **work)

    figures = {
        "preparing": make("preparing", f"{len(batch)} prompts: pictures and words to numbers", items=len(batch)),
        "vision": make("vision", f"{len(patches)} pictures of {patches[0]:,} patches", flops=read.vision),
        "prefill": make("prefill", words, flops=read.total - read.vision, tokens=round(mean.tokens * len(batch))),
        "reading": make(
            "reading",
            "vision and prefill together",
            flops=read.total,
            bound="prefill",
            formula=to_formula(time_compute("reading", read.total, shares.prefill, machine, 1)),
        ),
        "decoding": make(
            "decoding",
            f"{sequences} completions of {max(lengths)} tokens",
            bytes=read_per_step * steps,
            tokens=sum(lengths),
            bound=bound,
            formula=to_formula(time_decoding(1, (steps, steps), read_per_step, getattr(shares, bound), machine, 1)),
        ),
        "whole": make(
            "whole", f"{len(batch)} questions, {sequences} completions", items=len(batch), tokens=sum(lengths)
        ),
    }
    memory = plan_generation(workload, list_weights(workload), prompts, sequences, max(lengths))
    return figures, memory
