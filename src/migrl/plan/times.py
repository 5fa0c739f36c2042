"""The hours of a stage: tokens at a rate that was measured, or by formulas.

Reading a prompt and training are bound by compute, decoding by memory: every step reads the weights and the cache of
all sequences.

transformers  completions of a prompt read it once (in stock trl's GRPO, without grpo.group_prefix, each its own copy),
              and all of a static batch go on until the longest ends
vllm          completions that share a prompt read it once, pictures and all. A sequence that ends makes room for the
              next, so that steps stay as full as the cache allows; after every `batch` questions the last ones run to
              their end. Devices that share an engine read its weights together. Pictures are prepared on the processor
              meanwhile, by one core for each engine
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migrl.models.shapes import ModelShape, count_parameters
from migrl.plan.costs import (
    Duration,
    add_durations,
    count_pass,
    count_step,
    share_peak,
    take_longer,
    time_compute,
    time_decoding,
)
from migrl.plan.machine import Machine
from migrl.plan.memory import count_cached
from migrl.plan.work import Generation, Served, Training, Work, show_span
from migrl.plan.workload import Workload
from migrl.recipe import VllmTeacher


@dataclass(frozen=True)
class Flow:
    """One split through one of the engines: `running` sequences at once, the steps, and the bytes that these read.

    Low are completions of mean length, high has also the ends of batches that the longest one holds up.
    """

    running: int
    steps: tuple[float, float]
    read: tuple[float, float]


def time_rate(work: Work, rate: float, processes: int, gpus: int) -> Duration:
    """Seconds at a measured rate, tokens per second and process: those trained on, prompts included, or generated."""
    if work.training:
        trained = work.training
        low, high = (trained.sequences * (trained.prompts.mean.tokens + tokens) for tokens in trained.tokens)
    else:
        low, high = (sum(made.completions * made.tokens[end] for made in work.generations) for end in (0, 1))
    words = f"{show_span((low, high))} tokens / ({rate:,.0f} per second, measured, x {processes})"
    return Duration(low / rate / processes, high / rate / processes, gpus, words, "measured")


def time_work(kind: str, work: Work, workload: Workload, machine: Machine) -> Duration | None:
    """Seconds by the formulas; None for a device whose peak and bandwidth are unknown."""
    recipe, shares, training = workload.recipe, workload.assumptions.efficiency, work.training
    rank, gpus = training.lora.rank if training and training.lora else 0, workload.gpus
    if kind == "synthesize" and (teacher := recipe.local_teacher) is not None:
        workload = workload.for_teacher(teacher)
        gpus = teacher.tensor_parallel if isinstance(teacher, VllmTeacher) else gpus
    parts = []
    if work.served:
        parts += time_vllm(work, work.served, workload, machine, gpus)
    elif work.generations:
        once = kind != "grpo" or bool(recipe.grpo.group_prefix)  # stock trl has a copy of it for each completion
        parts += time_batches(work.generations, workload, machine, rank, once=once)
    if training:
        share = shares.train_lora if rank else shares.train_full
        parts.append(time_compute("training", count_training(workload.shape, training), share, machine, gpus))
    return add_durations(parts)


def time_batches(
    generations: Sequence[Generation], workload: Workload, machine: Machine, rank: int, *, once: bool
) -> list[Duration | None]:
    """Seconds of static batches, of one pass over the prompts and of the steps after it."""
    shape, shares, gpus, steps = workload.shape, workload.assumptions.efficiency, workload.gpus, generations[0].tokens
    reads = [(made, made.prompts_read if once else made.completions) for made in generations]
    flops = sum(count * count_pass(shape, made.prompts.mean, 0, rank).total for made, count in reads)
    sequences = [made.count_sequences(made.prompts.mean.patches) for made in generations]
    batches = [made.completions / count for made, count in zip(generations, sequences, strict=True)]
    read = sum(
        batch * count_step(shape, made.prompts.mean, count, steps[0], rank)
        for made, count, batch in zip(generations, sequences, batches, strict=True)
    )
    decode = shares.decode_adapter if rank else shares.decode_transformers
    return [
        time_compute("reading", flops, shares.prefill, machine, gpus),
        time_decoding(sum(batches), steps, read / sum(batches), decode, machine, gpus),
    ]


def time_vllm(work: Work, served: Served, workload: Workload, machine: Machine, gpus: int) -> list[Duration | None]:
    """Seconds to answer everything, and in RL to bring the new weights over at each step."""
    if machine.kind is None:
        return [None]
    shape, shares, known = workload.shape, workload.assumptions.efficiency, workload.assumptions.vllm
    parts, bandwidth = served.settings.tensor_parallel_size, machine.kind[1].bandwidth_gb
    engines, cached = gpus / parts, count_cached(workload, served, machine.gpu_bytes)
    made = [some for some in work.generations if some.completions]
    flows = [follow(some, served, workload, cached, engines) for some in made]
    steps = [sum(flow.steps[end] for flow in flows) for end in (0, 1)]
    read = [sum(flow.read[end] for flow in flows) for end in (0, 1)]
    running = [flow.running for flow in flows]
    words = (
        f"decoding {show_span((min(running), max(running)))} at once in {engines:g} engine{'s' * (engines > 1)}, "
        f"{show_span((steps[0], steps[1]))} steps x {read[0] / steps[0] / 1e9:.1f} GB / "
        f"({parts} x {bandwidth / 1e3:g} TB/s"
    )
    ideal = bandwidth * 1e9 * parts
    moving = share_peak(words, (read[0] / ideal, read[1] / ideal), shares.decode_vllm, gpus)
    first = [count_pass(shape, some.prompts.mean, 0, 0).total for some in made]
    reading = sum(some.prompts_read * flops for some, flops in zip(made, first, strict=True))
    computing = sum(
        some.completions * (count_pass(shape, some.prompts.mean, some.tokens[0], 0).total - flops)
        for some, flops in zip(made, first, strict=True)
    )
    answering = add_durations(
        [
            time_compute("reading", reading, shares.prefill, machine, gpus),
            take_longer(moving, time_compute("decoding", computing, shares.prefill, machine, gpus)),
        ]
    )
    pixels = sum(some.prompts_read * some.prompts.mean.patches for some in made) * shape.vision_config.patch_size**2
    (low, high), share = known.prepare_seconds, pixels / 1e6 / engines
    words = f"preparing {pixels / 1e6:,.0f} Mpx / {engines:g} x {low:g}-{high:g} s"
    answered = [take_longer(answering, Duration(low * share, high * share, gpus, words))]
    if work.training:
        count, weights = workload.recipe.grpo.max_steps, known.sync_passes * 2 * count_parameters(shape).total
        words = f"new weights {count:,} x {weights / 1e9:.1f} GB / ({bandwidth / 1e3:g} TB/s"
        ideal = count * weights / (bandwidth * 1e9)
        answered.append(share_peak(words, (ideal, ideal), shares.decode_vllm, gpus))
    return answered


def follow(made: Generation, served: Served, workload: Workload, cached: float, engines: float) -> Flow:
    """One split through one of `engines`, whose cache holds so many tokens; the end of a batch is half full."""
    settings, prompt, (mean, longest) = served.settings, made.prompts.mean, made.tokens
    room = cached / (prompt.tokens / made.together + mean)
    most = min(room, settings.max_num_seqs, settings.batch * made.together, made.completions / engines)
    running = max(1, int(most))
    steps = made.completions * mean / running / engines
    ends = made.prompts_read / engines / settings.batch * (longest - mean)
    read, half = (count_step(workload.shape, prompt, count, mean, 0) for count in (running, running / 2))
    return Flow(running, (steps, steps + ends), (steps * read, steps * read + ends * half))


def count_training(shape: ModelShape, training: Training) -> float:
    """FLOPs of all sequences, with a completion of mean length; packed ones share prompt and pictures."""
    rank, packed = training.lora.rank if training.lora else 0, training.packed
    prompt, completion = training.prompts.mean, training.tokens[0]
    forward = count_pass(shape, prompt, completion, rank, packed)
    reference = replace(forward, vision=0.0) if packed > 1 else forward
    passes = forward.train(lora=rank > 0) + (reference.total if training.reference else 0.0)
    return training.sequences / packed * passes
