"""A model's shape, read from its config.json: parameters by part, LoRA parameters, KV bytes. No torch.

Both forms of the file are read: the Hub's, with the language model's keys at the top, and transformers 5's own, with
`text_config`. The attribute names are the config's, so that migrl.models.flops counts shapes and loaded configs alike.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from migrl.errors import UserError
from migrl.files import explain_fault
from migrl.models.flops import list_linear_shapes

Size = Annotated[int, Field(ge=1)]


class _Config(BaseModel):
    """A part of a config.json; keys that nothing is counted from are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TextShape(_Config):
    """The language model; sizes in features, tokens or counts."""

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size
    vocab_size: Size
    max_position_embeddings: Size

    @property
    def key_size(self) -> int:
        """Features of a token's keys in one layer, all KV heads together; its values have as many."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads


class VisionShape(_Config):
    """The vision tower; `window_size` and `patch_size` in px."""

    depth: Size
    hidden_size: Size
    intermediate_size: Size
    num_heads: Size
    out_hidden_size: Size
    patch_size: Size
    temporal_patch_size: Size
    spatial_merge_size: Size
    window_size: Size
    in_channels: Annotated[int, Field(validation_alias=AliasChoices("in_channels", "in_chans"))]
    fullatt_block_indexes: tuple[int, ...]

    @property
    def cell(self) -> int:
        """Side in px of what becomes one token."""
        return self.patch_size * self.spatial_merge_size

    @property
    def patch_values(self) -> int:
        """Numbers that the processor hands over for one patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


class ModelShape(_Config):
    """A Qwen2.5-VL."""

    model_type: str
    text_config: TextShape
    vision_config: VisionShape
    tie_word_embeddings: bool = False


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
    kind = data.get("model_type") if isinstance(data, dict) else None
    if kind != "qwen2_5_vl":
        raise UserError(f"{path}: model_type is {kind!r}; only qwen2_5_vl is planned for")
    try:
        return ModelShape.model_validate({"text_config": data, **data})
    except ValidationError as error:
        raise UserError(f"{path}: {explain_fault(error)}; it is no complete config of a Qwen2.5-VL") from error


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


def can_divide(shape: ModelShape, parts: int) -> bool:
    """Whether vLLM can cut a model into so many parts: heads and MLPs evenly, each KV head into one part or several."""
    text, vision = shape.text_config, shape.vision_config
    widths = (text.num_attention_heads, text.intermediate_size, vision.num_heads, vision.intermediate_size)
    keys = text.num_key_value_heads
    return not any(width % parts for width in widths) and (keys % parts == 0 or parts % keys == 0)
