"""The most memory that a process holds, by simple formulas and a margin; none was measured on a GPU by this project.

    weights       parameters x bytes of a number; under ZeRO-3 a process's share, and what is gathered
    trained       16 bytes per trained parameter, as in the ZeRO paper: its weight, and 14 for gradient, float32 master
                  and Adam, which the processes of ZeRO share; and DeepSpeed's bucket
    pictures      the pixels of a batch as the processor hands them over, in float32
    checkpoints   one input per layer and token; in float32 nothing is checkpointed, and every layer is held instead
    layer         the one at work, in numbers: backwards 6 per token and 4 x width + inner width, 10 where adapters are
                  float32 beside bfloat16 (without DeepSpeed); reading a prompt 3 per token and width + inner width, or
                  19 per patch and width of the vision tower
    cache         keys and values of every token
    logits        a tile of 4096 tokens x 32768 in training (trl's fused head), 3 float32 copies in generation
    square        what attention other than flash attention holds of a length's square: scores, or sdpa's mask
    reserve       plan.yaml, memory: a fixed part, and a margin of all that comes and goes

The numbers of `layer` were read off small models on a processor. tests/unit/test_plan_memory.py holds the whole against
the published peaks of a 7B model on an A100.
"""

from dataclasses import dataclass

from migrl.models.shapes import count_kv_bytes, count_lora_parameters, count_parameters
from migrl.plan.lengths import Prompts
from migrl.plan.work import Served, Training
from migrl.plan.workload import Workload

STATES = 14  # bytes per trained parameter, beside its weight
LIVE, BUCKET = 1e9, 5e8  # numbers, DeepSpeed's stage3_max_live_parameters and reduce_bucket_size
TILE = (4096, 32768)
BACKWARD, BACKWARD_FLOAT32_ADAPTERS, READING, LOOKING = 6, 10, 3, 19


@dataclass(frozen=True)
class Part:
    """Bytes of one process, and where they are from; `moving` ones come and go."""

    name: str
    bytes: float
    words: str
    moving: bool = True


@dataclass(frozen=True)
class Memory:
    """The parts of a peak, which add up to `total`, and what the process does then."""

    phase: str
    parts: tuple[Part, ...]
    total: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", sum(part.bytes for part in self.parts))


def needs_copy(training: Training) -> bool:
    """Whether the start model is kept beside the trained one; with LoRA the adapter is switched off instead."""
    return training.reference and training.lora is None


def plan_training(workload: Workload, training: Training) -> Memory:
    """The peak of a training step on the longest prompts and completions."""
    text, size = workload.shape.text_config, workload.number_bytes
    rows, longest = training.batch / training.packed, training.prompts.longest
    tokens = rows * (longest.tokens + training.packed * training.tokens[1])
    float32_adapters = size == 2 and training.lora is not None and training.parallel == "none"
    numbers = BACKWARD_FLOAT32_ADAPTERS if float32_adapters else BACKWARD
    layers, layer = text.num_hidden_layers, numbers * (4 * text.hidden_size + text.intermediate_size) * size
    kept = layers * text.hidden_size * size if size == 2 else (layers - 1) * layer
    scored, words = min(training.batch * training.tokens[1], TILE[0]), f"{tokens:,.0f} tokens x "
    parts = [
        *list_states(workload, training, gathered=False),
        hold_pictures(workload, training.held * longest.patches),
        Part("checkpoints", tokens * kept, f"{words}{kept:,} bytes, {layers} layers"),
        Part("layer", tokens * layer, f"{words}{layer:,} bytes"),
        Part("logits", scored * min(TILE[1], text.vocab_size) * size, f"{scored:,} tokens at a time"),
    ]
    return close_peak("a training step", parts, tokens, rows, workload, masked=training.packed > 1)


def list_weights(workload: Workload, parts: int = 1) -> list[Part]:
    """All that a model holds that is not trained, cut into `parts`."""
    total, size = count_parameters(workload.shape).total, workload.number_bytes
    return [Part("weights", total * size / parts, f"{total:,} x {size} bytes / {parts}", moving=False)]


def list_states(workload: Workload, training: Training, *, gathered: bool) -> list[Part]:
    """Weights, gradients and optimizer states of one process; `gathered`: ZeRO-3 brings all weights together."""
    parameters, size = count_parameters(workload.shape), workload.number_bytes
    total, trained, own = parameters.total, parameters.trained_in_full, 0
    if training.lora:
        trained, own = count_lora_parameters(workload.shape, training.lora.rank), size
    share, live = 1, 0.0
    if training.parallel == "zero3":
        share, live = training.processes, total if gathered else min(LIVE, total)
    shards = 1 if training.parallel == "none" else training.processes
    # Where numbers are float32, on a processor, the bucket's pages are never touched.
    bucket = 0.0 if training.parallel == "none" or size == 4 else BUCKET * size
    of_weights = f"{total:,} / {share} + {live:,.0f} gathered, x {size} bytes"
    of_trained = f"{trained:,} x ({own} + {STATES} / {shards}) + {bucket:,.0f} bytes"
    parts = [
        Part("weights", (total / share + live) * size, of_weights, moving=False),
        Part("trained", trained * (own + STATES / shards) + bucket, of_trained, moving=False),
    ]
    if needs_copy(training):
        parts.append(Part("reference", total * size / share, "the start model, for the KL term", moving=False))
    return parts


def plan_generation(workload: Workload, states: list[Part], prompts: Prompts, sequences: int, new: int) -> Memory:
    """The peak of generating `new` tokens after each of the longest prompts, beside the `states`."""
    read, patches = sequences * prompts.longest.tokens, sequences * prompts.longest.patches
    tokens, each = read + sequences * new, count_kv_bytes(workload.shape, workload.number_bytes)
    cache = Part("cache", tokens * each, f"{tokens:,.0f} tokens x {each:,} bytes")
    parts = [*states, hold_pictures(workload, patches), cache, *hold_batch(workload, read, patches, sequences)]
    return close_peak(f"generation of {sequences} sequence{'s' * (sequences > 1)}", parts, tokens, sequences, workload)


def plan_vllm(workload: Workload, served: Served) -> Memory:
    """What vLLM needs of each GPU to start: weights, room for one sequence of the greatest length, and its steps."""
    settings, step = served.settings, served.step
    each = count_kv_bytes(workload.shape, workload.number_bytes) / settings.tensor_parallel_size
    patches = step * workload.shape.vision_config.spatial_merge_size**2
    length, words = settings.max_model_len, f"{settings.max_model_len:,} tokens x {each:,.0f} bytes"
    parts = [
        *list_weights(workload, settings.tensor_parallel_size),
        hold_pictures(workload, patches),
        Part("cache", length * each, words, moving=False),
        *hold_batch(workload, step, patches, settings.max_num_seqs),
    ]
    return close_peak(f"vLLM with one sequence of {length:,} tokens", parts, 0, 1, workload)


def count_cached(workload: Workload, served: Served, gpu_bytes: float) -> float:
    """Tokens that vLLM's cache holds: it takes what its share of the GPUs leaves."""
    memory = plan_vllm(workload, served)
    (cache,) = (part.bytes for part in memory.parts if part.name == "cache")
    room = served.settings.gpu_memory_utilization * gpu_bytes - (memory.total - cache)
    return room / cache * served.settings.max_model_len


def hold_batch(workload: Workload, read: float, patches: float, sequences: int) -> list[Part]:
    """The layer at work while so many tokens or patches are read, and the logits of as many sequences."""
    text, size = workload.shape.text_config, workload.number_bytes
    reading = read * READING * (text.hidden_size + text.intermediate_size) * size
    looking = patches * LOOKING * workload.shape.vision_config.width * size
    return [
        Part("layer", max(reading, looking), f"{read:,.0f} prompt tokens, or {patches:,.0f} patches"),
        Part("logits", 12 * sequences * text.vocab_size, f"{sequences} x {text.vocab_size:,} x 3 copies"),
    ]


def hold_pictures(workload: Workload, patches: float) -> Part:
    values = workload.shape.vision_config.patch_values
    return Part("pictures", patches * values * 4, f"{patches:,.0f} patches x {values} numbers", moving=False)


def close_peak(
    phase: str, parts: list[Part], tokens: float, sequences: float, workload: Workload, *, masked: bool = False
) -> Memory:
    """A peak with what grows with the square of a length, and the reserve; sdpa has a mask for several sequences."""
    size, margins = workload.number_bytes, workload.assumptions.memory
    attention = "sdpa" if masked else workload.recipe.model.attention
    heads = workload.shape.text_config.num_attention_heads
    each = {"eager": heads * (4 + 2 * size), "sdpa": 1 + size if masked or sequences > 1 else 0}.get(attention, 0)
    parts.append(Part("square", tokens**2 / sequences * each, f"{attention}: {each} bytes x length^2 per sequence"))
    fixed = margins.overhead_gb if size == 2 else 0.0  # a processor has no CUDA
    reserve = fixed * 1e9 + margins.margin * sum(part.bytes for part in parts if part.moving)
    words = f"{fixed:g} GB for CUDA, {100 * margins.margin:g} % of what comes and goes"
    return Memory(phase, tuple(part for part in (*parts, Part("reserve", reserve, words)) if part.bytes >= 1))
