"""Peak memory of a process: training with ZeRO and checkpointing, and generation with its cache. Formulas, not runs.

Bytes a token of one layer were fitted on small models of the same code, every tensor tracked on a CPU
(tests/unit/test_plan_memory.py tracks them again); kernels that a GPU fuses need less. All else is counted from shapes
and from the sources of transformers, trl and DeepSpeed. No figure here was measured on a GPU.
"""

from dataclasses import dataclass

from migrl.plan.assumptions import MemoryExtras
from migrl.plan.shapes import ModelShape, count_kv_bytes, count_lora_parameters, count_parameters
from migrl.recipe import LoraSettings, Parallel

BUCKET = 5e8  # numbers, DeepSpeed's reduce_bucket_size; the launch files do not change it
LIVE = 1e9  # numbers, DeepSpeed's stage3_max_live_parameters
TILE = (4096, 32768)  # tokens x vocabulary that trl's fused head projects at a time
PIXEL_BYTES = 4  # the processor hands over float32


@dataclass(frozen=True)
class LayerBytes:
    """Bytes a token: multiples of a layer's width, of its keys' width and of its MLP's width, and a constant."""

    width: float
    keys: float
    inner: float
    constant: float = 0.0

    def count(self, width: int, keys: int, inner: int) -> float:
        return self.width * width + self.keys * keys + self.inner * inner + self.constant


# One layer computed again and run backwards, bfloat16.
BACKWARD = LayerBytes(26, 7, 12)
BACKWARD_DROPOUT = LayerBytes(51, 7, 12)  # LoRA drops out the input of each of its seven layers
BACKWARD_FLOAT32_ADAPTERS = LayerBytes(63, 5, 22)  # without DeepSpeed adapters stay float32 and cast their inputs
# What a layer keeps where nothing is checkpointed, and what the one that runs backwards takes beside it, float32.
KEPT = LayerBytes(32, 8, 16.5)
KEPT_DROPOUT = LayerBytes(66, 8, 20.5)
KEPT_BACKWARD = LayerBytes(11, 0, 7)
# A layer without gradients, bfloat16: while a prompt is read, and the vision tower always, the pictures cast to it.
PREFILL = LayerBytes(8.5, 0, 6.1)
VISION_PREFILL = LayerBytes(34, 0, 0.7, 2650)


@dataclass(frozen=True)
class Part:
    """Bytes of one process, and where they are from."""

    name: str
    bytes: float
    words: str


@dataclass(frozen=True)
class Memory:
    """The parts of a peak, which add up, and what the process does then."""

    phase: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> float:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class Batch:
    """Sequences that one process works on at once, each as long as the longest; patches are a sequence's.

    `held_patches` are those whose pixels lie on the device meanwhile, of all sequences of a step.
    """

    sequences: int
    prompt_tokens: int
    completion_tokens: int
    patches: int
    held_patches: int

    @property
    def tokens(self) -> int:
        return self.sequences * (self.prompt_tokens + self.completion_tokens)


@dataclass(frozen=True)
class Training:
    """How a model is trained: `lora` None trains all but the vision tower; `reference` is a frozen copy beside it."""

    lora: LoraSettings | None
    parallel: Parallel
    processes: int
    number_bytes: int
    attention: str
    reference: bool = False

    @property
    def shards(self) -> int:
        """Processes that share gradients and optimizer states."""
        return 1 if self.parallel == "none" else self.processes


def plan_training(shape: ModelShape, training: Training, batch: Batch, extras: MemoryExtras) -> Memory:
    """The peak of a training step: the last layer is computed again while all checkpoints are held."""
    text, vision, size = shape.text_config, shape.vision_config, training.number_bytes
    low, dropout = size == 2, bool(training.lora and training.lora.dropout)
    patches, scored = batch.sequences * batch.patches, batch.sequences * batch.completion_tokens
    widths = (text.hidden_size, text.key_size, text.intermediate_size)
    if low:
        kept = float(size * text.hidden_size * text.num_hidden_layers * batch.tokens)
        bytes_each = BACKWARD_DROPOUT if dropout else BACKWARD
        if training.lora and training.parallel == "none":
            bytes_each = BACKWARD_FLOAT32_ADAPTERS
        # The frozen tower is done, without gradients, before the first checkpoint is kept.
        tower = patches * VISION_PREFILL.count(vision.hidden_size, 0, vision.intermediate_size)
        layer = max(batch.tokens * bytes_each.count(*widths), tower - kept)
        activations = [
            Part(
                "checkpoints", kept, f"{text.num_hidden_layers} layers x {batch.tokens:,} tokens x {text.hidden_size}"
            ),
            Part("layer", layer, "one layer, computed again and run backwards"),
        ]
    else:
        bytes_each = KEPT_DROPOUT if dropout else KEPT
        kept = text.num_hidden_layers * batch.tokens * bytes_each.count(*widths)
        layer = batch.tokens * KEPT_BACKWARD.count(*widths)
        activations = [
            Part("activations", kept, f"all of {text.num_hidden_layers} layers, without checkpoints"),
            Part("layer", layer, "one layer run backwards"),
        ]
    tile = min(scored, TILE[0]) * min(TILE[1], text.vocab_size) * size
    full_head = 0 if training.lora else 4 * text.vocab_size * text.hidden_size
    head = tile + scored * text.hidden_size * (size + 4) + full_head
    activations.append(Part("head", head, f"{scored:,} scored tokens, {TILE[0]} x {TILE[1]} logits at a time"))
    activations += _plan_attention(shape, training.attention, batch, size)
    pixels = Part("pixels", batch.held_patches * vision.patch_values * PIXEL_BYTES, f"{batch.held_patches:,} patches")
    states = plan_states(shape, training, gathered=False)
    return _close("a training step", [*states, pixels], activations, extras)


def plan_states(shape: ModelShape, training: Training, *, gathered: bool) -> list[Part]:
    """Weights, gradients and optimizer states of one process; `gathered`: ZeRO-3 brings all weights together."""
    parameters, size, shards = count_parameters(shape), training.number_bytes, training.shards
    zero3 = training.parallel == "zero3"
    share = shards if zero3 else 1
    live = 0.0 if not zero3 else parameters.total * size if gathered else min(LIVE, parameters.total) * size
    weights = parameters.total * size / share + live
    trained = count_lora_parameters(shape, training.lora.rank) if training.lora else parameters.trained_in_full
    parts = [
        Part("weights", weights, f"{parameters.total:,} x {size} bytes" + (f" / {share} + gathered" if zero3 else ""))
    ]
    if training.parallel == "none":
        # trl and peft keep adapters in float32; weights trained in full keep their own type, and so do Adam's moments.
        each = 4 if training.lora else size
        copies = 2 if training.processes > 1 else 1  # DDP reduces gradients in buckets of its own
        adapters, gradients, states, buffers = float(each), float(each * copies), 2.0 * each, 0.0
        words = f"{gradients:g} + {states:g} bytes each"
    else:
        # On a CPU, where numbers are float32 here, the bucket's pages are never touched.
        adapters, buffers = size / share, BUCKET * size if size == 2 else 0.0
        gradients, states = (size + 4) / shards, 12 / shards
        words = f"({size} + 4) and 12 bytes each, / {shards}"
    if training.lora:
        parts.append(Part("adapters", trained * adapters, f"{trained:,}, rank {training.lora.rank}"))
    parts += [
        Part("gradients", trained * gradients, f"{trained:,} trained: {words}"),
        Part("optimizer", trained * states, "float32 master and Adam" if training.parallel != "none" else "Adam"),
    ]
    if buffers:
        parts.append(Part("buffers", buffers, f"DeepSpeed's bucket of {BUCKET:,.0f}"))
    if training.reference:
        parts.append(Part("reference", parameters.total * size / share, "the start model, for the KL term"))
    return parts


def plan_generation(
    shape: ModelShape, states: list[Part], batch: Batch, number_bytes: int, attention: str, extras: MemoryExtras
) -> Memory:
    """The peak of generating a batch: its prompts are read at once, and its cache grows to the limit."""
    text, vision = shape.text_config, shape.vision_config
    low = number_bytes / 2
    tokens, patches = batch.sequences * batch.prompt_tokens, batch.sequences * batch.patches
    each = count_kv_bytes(shape, number_bytes)
    cache = batch.tokens * each * (1 + 1 / text.num_hidden_layers)
    reading = max(
        tokens * PREFILL.count(text.hidden_size, 0, text.intermediate_size),
        patches * VISION_PREFILL.count(vision.hidden_size, 0, vision.intermediate_size),
    )
    pixels = batch.held_patches * vision.patch_values * PIXEL_BYTES
    activations = [
        Part(
            "cache", cache, f"{batch.tokens:,} tokens x {count_kv_bytes(shape, number_bytes):,} bytes, one layer twice"
        ),
        Part("layer", low * reading, f"one layer for {tokens:,} prompt tokens or {patches:,} patches"),
        Part("logits", 12.0 * batch.sequences * text.vocab_size, f"{batch.sequences} x {text.vocab_size} x 3 copies"),
        *_plan_attention(shape, attention, batch, number_bytes),
    ]
    held = Part("pixels", pixels, f"{batch.held_patches:,} patches")
    plural = "s" * (batch.sequences > 1)
    return _close(f"generation of {batch.sequences} sequence{plural}", [*states, held], activations, extras)


def _plan_attention(shape: ModelShape, attention: str, batch: Batch, size: int) -> list[Part]:
    """What kernels other than flash attention hold of the square of a sequence's length."""
    square = batch.sequences * (batch.prompt_tokens + batch.completion_tokens) ** 2
    if attention == "eager":
        heads = shape.text_config.num_attention_heads
        return [Part("scores", square * heads * (4 + 2 * size), f"eager attention: scores of {heads} heads")]
    if attention == "sdpa" and batch.sequences > 1:
        return [Part("mask", square * (1 + size), "sdpa: mask of padded sequences")]
    return []


def _close(phase: str, fixed: list[Part], activations: list[Part], extras: MemoryExtras) -> Memory:
    lost = extras.fragmentation * sum(part.bytes for part in activations)
    words = f"{extras.overhead_gb:g} GB for CUDA, and {100 * extras.fragmentation:g} % of what comes and goes; assumed"
    reserve = Part("reserve", extras.overhead_gb * 1e9 + lost, words)
    return Memory(phase, tuple(part for part in (*fixed, *activations, reserve) if part.bytes >= 1))
