"""Hours: tokens at a rate that was measured, or FLOPs at a share of the peak and decoding at a share of the bandwidth.

Reading a prompt and training are bound by compute, decoding by memory: every step reads the weights and the cache of
all sequences, and a batch ends with its longest completion. FLOPs are those of models/flops.py, which a measured MFU
counts too. Time is taken to fall with the number of GPUs; loading of weights and the network between GPUs are not
counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migrl.models.flops import Forward, count_forward, count_vision
from migrl.models.shapes import ModelShape, count_kv_bytes, count_lora_parameters, count_parameters
from migrl.plan.assumptions import Efficiency
from migrl.plan.lengths import Length
from migrl.plan.machine import Machine
from migrl.plan.work import Generation, Training, Work, show_span
from migrl.plan.workload import Workload
from migrl.recipe import VllmTeacher

VLLM_SEQUENCES = 256  # vLLM's max_num_seqs


@dataclass(frozen=True)
class Duration:
    """Seconds of wall time from low to high on `gpus` GPUs, the formula in numbers, and what it rests on."""

    low: float
    high: float
    gpus: int
    words: str
    basis: str = "assumed"

    @property
    def hours(self) -> tuple[float, float]:
        return self.low / 3600, self.high / 3600

    @property
    def gpu_hours(self) -> tuple[float, float]:
        return self.hours[0] * self.gpus, self.hours[1] * self.gpus


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
    generations, vllm = work.generations, kind == "grpo" and recipe.grpo.engine == "vllm"
    if kind == "synthesize" and (teacher := recipe.local_teacher) is not None:
        workload = workload.for_teacher(teacher)
        if isinstance(teacher, VllmTeacher):
            # Devices that share one model read its weights together, so a step has all their bandwidth.
            vllm, gpus = True, teacher.tensor_parallel
            room = teacher.memory * machine.gpu_bytes * gpus
            generations = tuple(fill_cache(made, workload, room) for made in generations)
    shape, parts = workload.shape, []
    if generations:
        once = vllm or (kind == "grpo" and recipe.grpo.group_prefix)  # for all completions of a prompt
        reads = [(made, made.completions / (made.times if once else 1)) for made in generations]
        flops = sum(count * count_pass(shape, made.prompts.mean, 0, rank).total for made, count in reads)
        parts.append(time_compute("reading", flops, shares.prefill, machine, gpus))
        decode = shares.decode_vllm if vllm else shares.decode_adapter if rank else shares.decode_transformers
        sequences = [made.count_sequences(made.prompts.mean.patches) for made in generations]
        batches = [made.completions / count for made, count in zip(generations, sequences, strict=True)]
        steps = generations[0].tokens
        read = sum(
            batch * count_step(shape, made.prompts.mean, count, steps[0], rank)
            for made, count, batch in zip(generations, sequences, batches, strict=True)
        )
        parts.append(time_decoding(sum(batches), steps, read / sum(batches), decode, machine, gpus))
    if training:
        share = shares.train_lora if rank else shares.train_full
        parts.append(time_compute("training", count_training(shape, training), share, machine, gpus))
    return add_durations(parts)


def fill_cache(made: Generation, workload: Workload, room: float) -> Generation:
    """A generation with as many sequences at once as vLLM's cache holds beside the weights."""
    size, shape = workload.number_bytes, workload.shape
    each = count_kv_bytes(shape, size) * (made.prompts.mean.tokens + made.tokens[0])
    return replace(made, batch=min(VLLM_SEQUENCES, int((room - count_parameters(shape).total * size) / each)))


def count_training(shape: ModelShape, training: Training) -> float:
    """FLOPs of all sequences, with a completion of mean length; packed ones share prompt and pictures."""
    rank, packed = training.lora.rank if training.lora else 0, training.packed
    prompt, completion = training.prompts.mean, training.tokens[0]
    forward = count_pass(shape, prompt, completion, rank, packed)
    reference = replace(forward, vision=0.0) if packed > 1 else forward
    passes = forward.train(lora=rank > 0) + (reference.total if training.reference else 0.0)
    return training.sequences / packed * passes


def count_pass(shape: ModelShape, prompt: Length, completion: int, rank: int, packed: int = 1) -> Forward:
    """FLOPs of one forward pass over a prompt and `packed` completions, or the first token of each."""
    lengths, shared = [round(prompt.tokens + completion)] * packed, [round(prompt.tokens)] * (packed - 1)
    forward = count_forward(shape, lengths, packed * (completion or 1), [], lora_rank=rank, shared=shared)
    return replace(forward, vision=prompt.images * count_vision(shape, round(prompt.patches / prompt.images)))


def count_step(shape: ModelShape, prompt: Length, sequences: int, completion: int, rank: int) -> float:
    """Bytes that a step reads in bfloat16: weights without embeddings and vision tower, adapters, half-grown caches."""
    parameters = count_parameters(shape)
    weights = parameters.layers + (parameters.head or parameters.embedding) + count_lora_parameters(shape, rank)
    return weights * 2 + sequences * (prompt.tokens + completion / 2) * count_kv_bytes(shape, 2)


def time_compute(what: str, flops: float, share: Efficiency, machine: Machine, gpus: int) -> Duration | None:
    """Seconds for so many FLOPs; None for a device whose peak is unknown."""
    if machine.kind is None:
        return None
    tflops = machine.kind[1].tflops
    power, ideal = f"{flops:.1e}".replace("e+", "e"), flops / (tflops * 1e12 * gpus)
    return share_peak(f"{what} {power} FLOPs / ({gpus} x {tflops:g} TFLOP/s", (ideal, ideal), share, gpus)


def time_decoding(
    batches: float, steps: tuple[float, float], read: float, share: Efficiency, machine: Machine, gpus: int
) -> Duration | None:
    """Seconds to decode all batches, a GPU's share of them after each other; `read` are the bytes that a step reads."""
    if machine.kind is None:
        return None
    bandwidth, (short, long) = machine.kind[1].bandwidth_gb, steps
    each = batches / gpus * read / (bandwidth * 1e9)
    words = f"decoding {batches:,.0f} batches / {gpus} x {show_span(steps)} steps x {read / 1e9:.1f} GB / "
    return share_peak(f"{words}({bandwidth / 1e3:g} TB/s", (each * short, each * long), share, gpus)


def share_peak(words: str, ideal: tuple[float, float], share: Efficiency, gpus: int) -> Duration:
    """The seconds that work takes at a share of a peak that would do it in `ideal`."""
    low, high = share.range
    words = f"{words} x {100 * low:.0f}-{100 * high:.0f} %)"
    return Duration(ideal[0] / high, ideal[1] / low, gpus, words, share.basis)


def add_durations(parts: Sequence[Duration | None]) -> Duration | None:
    """One after the other; None if one of them is unknown."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    basis = "measured" if all(part.basis == "measured" for part in known) else "assumed"
    low, high, gpus = sum(part.low for part in known), sum(part.high for part in known), known[0].gpus
    return Duration(low, high, gpus, " + ".join(part.words for part in known), basis)
