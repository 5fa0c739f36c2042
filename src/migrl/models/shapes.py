"""A model's shape, read from its config.json: parameters by part, LoRA parameters, KV bytes. No torch.

Both forms of the file are read: the Hub's, with the language model's keys at the top, and transformers 5's own, with
`text_config`. The attribute names are the config's, so that migrl.models.flops counts shapes and loaded configs alike.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from migrl.errors import UserError
from migrl.files import explain_fault
from migrl.models.family import find_family, get_family
from migrl.models.flops import find_head_size, list_linear_shapes
from migrl.models.towers import Size, Tower


class TextShape(BaseModel):
    """The language model; sizes in features, tokens or counts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    num_key_value_heads: Size
    vocab_size: Size
    max_position_embeddings: Size
    head_dim: Size | None = None

    @property
    def key_size(self) -> int:
        """Features of a token's keys in one layer, all KV heads together; its values have as many."""
        return find_head_size(self) * self.num_key_value_heads


@dataclass(frozen=True)
class ModelShape:
    """A model of a known family."""

    model_type: str
    text_config: TextShape
    vision_config: Tower
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
        UserError: no such file, no JSON object, a model of no known family, or a size that is missing.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; name a config.json, or the folder of a model") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); correct the file") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object; correct the file")
    family = get_family(data.get("model_type"), path)
    key = "text_config"
    try:
        text = TextShape.model_validate(data.get(key, data))
        key = "vision_config"
        vision = family.tower.model_validate(data.get(key))
    except ValidationError as error:
        raise UserError(f"{path}: {explain_fault(error, key)}; it is no complete config of a {family.name}") from error
    return ModelShape(data["model_type"], text, vision, bool(data.get("tie_word_embeddings")))


def count_parameters(shape: ModelShape) -> Parameters:
    """Parameters of a model, by part.

    A language layer has its seven linear layers and two norms; by family, biases of query, key and value, or a norm for
    each head's queries and one for its keys.
    """
    text, family, shapes = shape.text_config, find_family(shape), list_linear_shapes(shape)
    layer = sum(rows * columns for rows, columns in shapes) + 2 * text.hidden_size
    layer += sum(columns for _, columns in shapes[:3]) if family.biases else 0
    layer += 2 * find_head_size(text) if family.head_norms else 0
    embedding = text.vocab_size * text.hidden_size
    return Parameters(
        embedding=embedding,
        layers=text.num_hidden_layers * layer + text.hidden_size,
        head=0 if shape.tie_word_embeddings else embedding,
        vision=shape.vision_config.count_parameters(),
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
    widths = (text.num_attention_heads, text.intermediate_size, vision.num_heads, vision.inner)
    keys = text.num_key_value_heads
    return not any(width % parts for width in widths) and (keys % parts == 0 or parts % keys == 0)
