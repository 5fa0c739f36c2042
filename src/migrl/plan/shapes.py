"""A model's shape, read from its config.json: parameters by part, LoRA parameters, KV bytes. No torch.

Both forms of the file are read: the Hub's, with the language model's keys at the top, and transformers 5's own, with
`text_config`. The attribute names are the config's, so that migrl.models.flops counts shapes and loaded configs alike.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.models.flops import list_linear_shapes


@dataclass(frozen=True)
class TextShape:
    """The language model; sizes in features, tokens or counts."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int

    @property
    def key_size(self) -> int:
        """Features of a token's keys in one layer, all KV heads together; its values have as many."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads


@dataclass(frozen=True)
class VisionShape:
    """The vision tower; `window_size` and `patch_size` in px."""

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    out_hidden_size: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    window_size: int
    in_channels: int
    fullatt_block_indexes: tuple[int, ...]

    @property
    def cell(self) -> int:
        """Side in px of what becomes one token."""
        return self.patch_size * self.spatial_merge_size

    @property
    def patch_values(self) -> int:
        """Numbers that the processor hands over for one patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


@dataclass(frozen=True)
class ModelShape:
    """A Qwen2.5-VL."""

    model_type: str
    text_config: TextShape
    vision_config: VisionShape
    tie_word_embeddings: bool


@dataclass(frozen=True)
class Parameters:
    """Parameters by part; tied embeddings have no head of their own."""

    embedding: int
    layers: int
    head: int
    vision: int

    @property
    def total(self) -> int:
        return self.embedding + self.layers + self.head + self.vision

    @property
    def trained_in_full(self) -> int:
        """All but the frozen vision tower."""
        return self.total - self.vision


def read_shape(path: Path) -> ModelShape:
    """Read a config.json.

    Raises:
        UserError: no such file, no JSON, not a Qwen2.5-VL, or a size that is missing.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; name a config.json, or the folder of a model") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); correct the file") from error
    if data.get("model_type") != "qwen2_5_vl":
        raise UserError(f"{path}: model_type is {data.get('model_type')!r}; only qwen2_5_vl is planned for")
    text, vision = data.get("text_config", data), dict(data["vision_config"])
    vision.setdefault("in_channels", vision.get("in_chans"))
    tied = bool(data.get("tie_word_embeddings", False))
    return ModelShape(data["model_type"], _pick(TextShape, text, path), _pick(VisionShape, vision, path), tied)


def _pick(kind: Any, data: dict[str, Any], path: Path) -> Any:
    names = list(kind.__dataclass_fields__)
    missing = [name for name in names if data.get(name) is None]
    if missing:
        raise UserError(f"{path}: {', '.join(missing)} missing; it is no complete config of a Qwen2.5-VL")
    values = {name: tuple(data[name]) if isinstance(data[name], list) else data[name] for name in names}
    return kind(**values)


def count_parameters(shape: ModelShape) -> Parameters:
    """Parameters of a model, by part.

    A language layer has its seven linear layers, biases of query, key and value, and two norms; a vision block four
    times h^2 and three times h I with all biases, and two norms; the merger two linear layers and a norm.
    """
    text, vision = shape.text_config, shape.vision_config
    linear = sum(rows * columns for rows, columns in list_linear_shapes(shape))
    layer = linear + text.hidden_size + 2 * text.key_size + 2 * text.hidden_size
    width, inner = vision.hidden_size, vision.intermediate_size
    block = (4 * width**2 + 4 * width) + (3 * width * inner + 2 * inner + width) + 2 * width
    merged = width * vision.spatial_merge_size**2
    merger = width + (merged**2 + merged) + (merged * vision.out_hidden_size + vision.out_hidden_size)
    embedding = text.vocab_size * text.hidden_size
    return Parameters(
        embedding=embedding,
        layers=text.num_hidden_layers * layer + text.hidden_size,
        head=0 if shape.tie_word_embeddings else embedding,
        vision=vision.patch_values * width + vision.depth * block + merger,
    )


def count_lora_parameters(shape: ModelShape, rank: int) -> int:
    """Parameters of adapters on every linear layer of the language model: rank * (inputs + outputs) each."""
    each = sum(rows + columns for rows, columns in list_linear_shapes(shape))
    return rank * each * shape.text_config.num_hidden_layers


def count_kv_bytes(shape: ModelShape, number_bytes: int) -> int:
    """Bytes of one token in the KV cache: keys and values of every layer."""
    text = shape.text_config
    return 2 * text.num_hidden_layers * text.key_size * number_bytes
