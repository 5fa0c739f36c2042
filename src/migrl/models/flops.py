"""Floating-point operations that a model needs, counted from its config. A multiply-add is two.

Forward, for a sequence of t tokens (image tokens among them) of which c are predicted, over images of p patches:

    language   2 N t, N the weights of the language model's linear layers (embeddings cost nothing)
    head       2 N_head c: only predicted tokens need logits
    attention  2 t^2 width a layer: half of 4 t^2 width, for it is causal
    vision     2 N_vision p, and attention 4 p width times what a patch sees (towers.py)

Training on it:

    LoRA       base weights twice the forward: gradients pass through them to the layers below, and none are made
               for them; adapters and attention three times; the frozen vision tower forward only
    full       language, head and attention three times; the frozen vision tower forward only

Norms, activations and embeddings are left out, as is usual. No torch here: a plan is made without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from migrl.models.family import find_family


@dataclass(frozen=True)
class Forward:
    """FLOPs of one forward pass by part; they add up."""

    language: float = 0.0
    head: float = 0.0
    attention: float = 0.0
    adapters: float = 0.0
    vision: float = 0.0

    @property
    def total(self) -> float:
        return self.language + self.head + self.attention + self.adapters + self.vision

    def train(self, *, lora: bool) -> float:
        """FLOPs of forward and backward together; `lora` means that the base weights are frozen."""
        base = 2 if lora else 3
        return base * (self.language + self.head) + 3 * (self.attention + self.adapters) + self.vision


def count_forward(
    config: Any,
    lengths: Sequence[int],
    predicted: int,
    patches: Sequence[int],
    *,
    lora_rank: int = 0,
    shared: Sequence[int] = (),
) -> Forward:
    """FLOPs of one forward pass over sequences of `lengths` tokens and images of `patches` patches.

    Args:
        config: transformers' config of a known family, or anything with its attributes.
        predicted: tokens of all sequences that the head is asked about.
        lora_rank: rank of the adapters on the language model's linear layers, 0 for none.
        shared: tokens of each beginning of a sequence that another one has too, if it is not computed again.
    """
    text = config.text_config
    layers = text.num_hidden_layers
    tokens = sum(lengths) - sum(shared)
    shapes = list_linear_shapes(config)
    return Forward(
        language=2 * layers * sum(rows * columns for rows, columns in shapes) * tokens,
        head=2 * text.hidden_size * text.vocab_size * predicted,
        attention=2 * layers * shapes[0][1] * (sum(n**2 for n in lengths) - sum(n**2 for n in shared)),
        adapters=2 * layers * lora_rank * sum(rows + columns for rows, columns in shapes) * tokens,
        vision=sum(count_vision(config, count) for count in patches),
    )


def list_linear_shapes(config: Any) -> list[tuple[int, int]]:
    """(inputs, outputs) of the seven linear layers of one language layer; the first is the query's."""
    text = config.text_config
    width, inner, head = text.hidden_size, text.intermediate_size, find_head_size(text)
    queries, keys = head * text.num_attention_heads, head * text.num_key_value_heads
    attention = [(width, queries), (width, keys), (width, keys), (queries, width)]
    return [*attention, (width, inner), (width, inner), (inner, width)]


def find_head_size(text: Any) -> int:
    """Features of an attention head of a language model: as its config says, or an even part of its width."""
    size: int = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return size


def count_vision(config: Any, patches: int) -> float:
    """FLOPs of the vision tower, its merger included, for one image."""
    return find_family(config).tower.model_validate(config.vision_config).count_flops(patches)
