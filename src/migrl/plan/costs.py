"""What each stage computes, in words and FLOPs, and how long that takes.

FLOPs are those of models/flops.py, which a measured MFU counts too: recomputation for checkpoints is in the share of
the peak, not in the FLOPs.
"""

import math
from dataclasses import dataclass, replace

from migrl.models.flops import Forward, count_forward, count_vision
from migrl.plan.lengths import Prompts
from migrl.plan.machine import Machine
from migrl.plan.measured import Measured
from migrl.plan.peaks import count_fitting
from migrl.plan.shapes import ModelShape, count_kv_bytes, count_lora_parameters, count_parameters
from migrl.plan.timing import (
    Decoding,
    Duration,
    add_durations,
    show_span,
    time_compute,
    time_decoding,
    time_measured,
)
from migrl.plan.workload import Workload
from migrl.recipe import RehearsalSource, ServerTeacher, TransformersTeacher, VllmTeacher

VLLM_SEQUENCES = 256  # vLLM's max_num_seqs
NO_FIGURES = "gpus.yaml has no peak and no bandwidth for it"


@dataclass(frozen=True)
class Cost:
    """What a stage does, and how long; no duration where there is no formula or no figure, which `words` then says."""

    words: str
    duration: Duration | None = None
    why_none: str = ""


def plan_cost(kind: str, workload: Workload, machine: Machine, measured: Measured) -> Cost:
    """The cost of a stage of this kind."""
    match kind:
        case "fetch":
            return Cost("downloads, checks and unpacks", why_none="the network's and the disk's time")
        case "synthesize":
            return plan_synthesize(workload, machine)
        case "sft":
            return plan_sft(workload, machine, measured)
        case "merge":
            return Cost("reads the weights twice, writes them once", why_none="the disk's time, minutes")
        case "select" | "pass_rates":
            return plan_pool(kind, workload, machine, measured)
        case "grpo":
            return plan_grpo(workload, machine, measured)
        case "evaluate":
            return plan_evaluate(workload, machine, measured)
    return Cost("scores, intervals, figures", why_none="seconds to minutes on the processor")


def plan_sft(workload: Workload, machine: Machine, measured: Measured) -> Cost:
    """One pass over the cold start an epoch."""
    settings = workload.recipe.sft
    prompts = workload.measure("cot", settings.max_pixels)
    if prompts.samples is None:
        return Cost("samples unknown", why_none="their number is unknown; run `migrl fetch` first")
    samples = min(prompts.samples, workload.recipe.synthesize.max_samples)
    completion = mean_completion(workload, training=True)
    forward = count_prompts(workload.shape, prompts, completion, completion, settings.lora.rank)
    steps = math.ceil(samples / settings.batch) * settings.num_train_epochs
    words = f"at most {samples:,} samples x ({describe(prompts)} + {completion:,.0f} tokens), {steps} steps"
    total = samples * settings.num_train_epochs
    tokens = total * (prompts.tokens + completion)
    share = workload.assumptions.efficiency.train_lora
    return Cost(
        words,
        time_measured("sft", (tokens, tokens), measured, workload.gpus)
        or time_compute("training", total * forward.train(lora=True), share, machine, workload.gpus),
        NO_FIGURES,
    )


def plan_grpo(workload: Workload, machine: Machine, measured: Measured) -> Cost:
    """Steps of rollouts, the start model's log-probabilities, and training."""
    recipe, settings, shares = workload.recipe, workload.recipe.grpo, workload.assumptions.efficiency
    prompts = workload.measure("rl", settings.max_pixels)
    completion, limit = mean_completion(workload), settings.max_new_tokens
    rank = settings.lora.rank if settings.lora else 0
    total = settings.max_steps * settings.completions_per_step
    forward = count_prompts(workload.shape, prompts, completion, completion, rank)
    flops = forward.train(lora=settings.lora is not None) + (forward.total if settings.beta else 0.0)
    words = (
        f"{settings.max_steps} steps x {settings.completions_per_step} completions x "
        f"({describe(prompts)} + {show_span(completion, limit)} tokens)"
    )
    tokens = (total * (prompts.tokens + completion), total * (prompts.tokens + limit))
    known = time_measured("grpo", tokens, measured, workload.gpus)
    if known is not None:
        return Cost(words, known)
    vllm = settings.engine == "vllm"
    reading = (
        count_prompts(workload.shape, prompts, 0, 1, rank).total * total / (settings.num_generations if vllm else 1)
    )
    share = max(1, settings.completions_per_step // recipe.launch.processes)
    batches = settings.max_steps * settings.completions_per_step / share
    decoding = make_decoding(workload.shape, prompts, batches, share, (completion, limit), rank)
    how = shares.decode_vllm if vllm else shares.decode_adapter if rank else shares.decode_transformers
    duration = add_durations(
        time_compute("reading", reading, shares.prefill, machine, workload.gpus),
        time_decoding(decoding, how, machine, workload.gpus),
        time_compute(
            "training", total * flops, shares.train_lora if rank else shares.train_full, machine, workload.gpus
        ),
    )
    return Cost(words, duration, NO_FIGURES)


def plan_pool(kind: str, workload: Workload, machine: Machine, measured: Measured) -> Cost:
    """Rollouts of the RL pool for select, of a part of it for pass_rates; select's measured rate holds for both."""
    recipe, prompts = workload.recipe, workload.measure_pool(kind)
    rollouts, limit = recipe.select.rollouts, recipe.grpo.max_new_tokens
    fitting = count_fitting(workload, prompts.at_mean(), recipe.select.batch, recipe.select.batch_pixels)
    run = Run(fitting * rollouts, rollouts, limit)
    words = f"{show_count(prompts.samples)} samples x {rollouts} rollouts, {describe(prompts)}"
    return Cost(words, *plan_rollouts("select", workload, [(prompts, run)], machine, measured))


def plan_evaluate(workload: Workload, machine: Machine, measured: Measured) -> Cost:
    """Every arm on every benchmark whose size is known."""
    settings = workload.recipe.evaluate
    runs, unknown = [], []
    for split in workload.list_benchmarks():
        prompts = workload.measure(split, settings.max_pixels)
        if prompts.samples is None:
            unknown.append(split)
            continue
        sequences = count_fitting(workload, prompts.at_mean(), settings.batch, settings.batch_pixels)
        runs.append((prompts, Run(sequences, len(settings.arms), settings.max_new_tokens)))
    samples = sum(prompts.samples or 0 for prompts, _ in runs)
    prompt = sum(prompts.tokens * (prompts.samples or 0) for prompts, _ in runs) / max(1, samples)
    left_out = f"; not counted, their size is unknown: {', '.join(unknown)}" if unknown else ""
    words = f"{samples:,} samples x {len(settings.arms)} arms, {prompt:,.0f} prompt tokens{left_out}"
    return Cost(words, *plan_rollouts("evaluate", workload, runs, machine, measured))


def plan_synthesize(workload: Workload, machine: Machine) -> Cost:
    """The teacher's candidates; only one with weights here takes GPUs."""
    settings, shares = workload.recipe.synthesize, workload.assumptions.efficiency
    teacher, prompts = settings.teacher, workload.measure_teacher()
    asked = f"{show_count(prompts.samples)} samples x {settings.candidates} candidates"
    if isinstance(teacher, ServerTeacher):
        return Cost(f"{asked}, {describe(prompts)}", why_none="a server's; migrl synthesize --dry-run prints its bill")
    if not isinstance(teacher, TransformersTeacher | VllmTeacher):
        return Cost(f"{asked} by the scripted teacher", why_none="no model; minutes on the processor")
    if prompts.samples is None:
        return Cost(asked, why_none="the number of samples is unknown; run `migrl fetch` first")
    shape, total = workload.find_shape(teacher.model, "teacher"), prompts.samples * settings.candidates
    number_bytes = workload.with_teacher_precision(teacher).number_bytes
    vllm = isinstance(teacher, VllmTeacher)
    gpus = teacher.tensor_parallel if isinstance(teacher, VllmTeacher) else workload.gpus
    sequences = VLLM_SEQUENCES
    if isinstance(teacher, VllmTeacher):
        # As many as the cache holds beside the weights.
        room = teacher.memory * machine.gpu_bytes * gpus - count_parameters(shape).total * number_bytes
        each = count_kv_bytes(shape, number_bytes) * (prompts.tokens + mean_completion(workload))
        sequences = max(1, min(sequences, int(room / each)))
    if isinstance(teacher, TransformersTeacher):
        fitting = count_fitting(workload, prompts.at_mean(), teacher.batch, teacher.batch_pixels)
        sequences = fitting * settings.candidates
    read = prompts.samples if vllm else total
    flops = read * count_prompts(shape, prompts, 0, 1, 0).total
    # Devices that share one model read its weights together, so a step has all their bandwidth.
    batches = total / sequences
    decoding = make_decoding(shape, prompts, batches, sequences, (mean_completion(workload), teacher.max_new_tokens), 0)
    share = shares.decode_vllm if vllm else shares.decode_transformers
    duration = add_durations(
        time_compute("reading", flops, shares.prefill, machine, gpus), time_decoding(decoding, share, machine, gpus)
    )
    return Cost(f"{asked}, {describe(prompts)}", duration, NO_FIGURES)


@dataclass(frozen=True)
class Run:
    """Generation over a split: sequences at once, completions per sample, and their limit in tokens."""

    sequences: int
    times: int
    limit: int


def plan_rollouts(
    stage: str, workload: Workload, runs: list[tuple[Prompts, Run]], machine: Machine, measured: Measured
) -> tuple[Duration | None, str]:
    """Duration of generating over splits without training, or why there is none."""
    shares, completion = workload.assumptions.efficiency, mean_completion(workload)
    if any(prompts.samples is None for prompts, _ in runs):
        return None, "the number of samples is unknown; run `migrl fetch` first"
    totals = [(prompts, run, (prompts.samples or 0) * run.times) for prompts, run in runs]
    tokens = (sum(n * min(completion, run.limit) for _, run, n in totals), sum(n * run.limit for _, run, n in totals))
    known = time_measured(stage, tokens, measured, workload.gpus)
    if known is not None:
        return known, ""
    reading = sum(n * count_prompts(workload.shape, prompts, 0, 1, 0).total for prompts, _, n in totals)
    batches = sum(n / run.sequences for _, run, n in totals)
    if not batches:
        return None, "nothing of known size to generate"
    decodings = [
        make_decoding(workload.shape, prompts, n / run.sequences, run.sequences, (completion, run.limit), 0)
        for prompts, run, n in totals
    ]
    mean_bytes = sum(decoding.bytes * decoding.batches for decoding in decodings) / batches
    decoding = Decoding(batches, decodings[0].steps, mean_bytes)
    duration = add_durations(
        time_compute("reading", reading, shares.prefill, machine, workload.gpus),
        time_decoding(decoding, shares.decode_transformers, machine, workload.gpus),
    )
    return duration, NO_FIGURES


def make_decoding(
    shape: ModelShape, prompts: Prompts, batches: float, sequences: int, steps: tuple[float, float], rank: int
) -> Decoding:
    """A step reads all weights but embeddings and vision tower, adapters, and the cache of half-grown completions."""
    parameters, size = count_parameters(shape), 2
    weights = parameters.layers + (parameters.head or parameters.embedding) + count_lora_parameters(shape, rank)
    cache = sequences * (prompts.tokens + steps[0] / 2) * count_kv_bytes(shape, size)
    return Decoding(batches, (min(steps), steps[1]), weights * size + cache)


def count_prompts(shape: ModelShape, prompts: Prompts, completion: float, predicted: float, rank: int) -> Forward:
    """FLOPs of one forward pass over the mean prompt and a completion."""
    forward = count_forward(shape, [round(prompts.tokens + completion)], round(predicted), [], lora_rank=rank)
    return replace(forward, vision=prompts.images * count_vision(shape, prompts.patches_per_image))


def mean_completion(workload: Workload, *, training: bool = False) -> float:
    """Tokens of a completion on average; a rehearsal's random weights never end theirs before the limit."""
    source, lengths = workload.recipe.source, workload.assumptions.lengths
    limit = workload.recipe.grpo.max_new_tokens
    if isinstance(source, RehearsalSource):
        return source.thought_tokens + lengths.answer_tokens if training else limit
    return min(lengths.completion_tokens, limit)


def describe(prompts: Prompts) -> str:
    """A prompt in words."""
    return f"{prompts.tokens:,.0f} prompt tokens of {prompts.images:.3g} pictures"


def show_count(count: int | None) -> str:
    """A number of samples."""
    return "an unknown number of" if count is None else f"{count:,}"


def show_hours(hours: tuple[float, float]) -> str:
    """A range of hours, in minutes where it is short."""
    low, high = hours
    if high < 1:
        return f"{low * 60:.1f}-{high * 60:.1f} min" if low != high else f"{low * 60:.1f} min"
    return f"{low:.1f}-{high:.1f} h" if f"{low:.1f}" != f"{high:.1f}" else f"{low:.1f} h"


def time_seconds(seconds: float, gpus: int) -> Duration:
    """A stage of this recipe that was run before."""
    return Duration(seconds, seconds, gpus, f"{seconds:,.0f} s, measured in an earlier run of this recipe", "measured")
