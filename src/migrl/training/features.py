"""Pictures of prompts: their patches, or what the frozen vision tower made of them, which a model takes in their place.

A tower gives features for each token of a picture. One with a deepstack (Qwen3-VL) gives further ones, which the
language model adds behind its first layers; here they stand beside the first, so that a picture is always one tensor.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from migrl.models.family import find_family

PICTURES = ("pixel_values", "image_grid_thw", "num_images")  # what trl holds of them


@dataclass(frozen=True)
class Pictures:
    """A prompt's pictures: their patches (patches, values) or, from a tower, their features (tokens, features).

    These are `join_features`'s. `grids` is the processor's `image_grid_thw`, (pictures, 3).
    """

    values: Tensor
    grids: Tensor


def find_tower(base: PreTrainedModel) -> nn.Module:
    """The vision tower of a model without wrapping."""
    return base.get_submodule(find_family(base.config).vision_tower)


@contextmanager
def recording(base: PreTrainedModel) -> Iterator[list[Tensor]]:
    """While it is open, what the tower gives is added to the list, as `join_features` has it."""
    features: list[Tensor] = []
    hook = find_tower(base).register_forward_hook(lambda *given: features.append(join_features(given[-1])))
    try:
        yield features
    finally:
        hook.remove()


def join_features(output: Any) -> Tensor:
    """What a tower gives for each token, in one tensor (tokens, features).

    First what becomes the token's embedding; of a deepstack then what is added behind each of the first layers.
    """
    deepstack = getattr(output, "deepstack_features", None)
    return torch.cat([output.pooler_output, *deepstack], 1) if deepstack else cast(Tensor, output.pooler_output)


def part_features(features: Tensor, width: int) -> Any:
    """What a tower gives, from what `join_features` made of it; `width` is the language model's."""
    embeddings, *deepstack = features.split(width, 1)
    output: Any = BaseModelOutputWithPooling(pooler_output=cast(Any, embeddings))
    output.deepstack_features = deepstack  # read by towers that have it
    return output


def count_tokens(base: PreTrainedModel, grids: Tensor) -> Tensor:
    """Tokens of each picture."""
    area: int = base.config.vision_config.spatial_merge_size**2
    return grids.prod(1) // area


def split_features(base: PreTrainedModel, features: Tensor, pictures: Sequence[Pictures]) -> list[Pictures]:
    """The same pictures as their features, which the tower gave for all of them."""
    split = features.split([int(count_tokens(base, some.grids).sum()) for some in pictures])
    return [Pictures(values, some.grids) for values, some in zip(split, pictures, strict=True)]


def split_pictures(batch: dict[str, Any], size: int) -> list[Pictures]:
    """Those of every `size`-th row of trl's batch, in which each row has its own copies (`PICTURES`)."""
    rows = batch["image_grid_thw"].split(batch["num_images"])
    patches = batch["pixel_values"].split([int(grids.prod(1).sum()) for grids in rows])
    return [Pictures(*pair) for pair in zip(patches[::size], rows[::size], strict=True)]


def accept_features(base: PreTrainedModel) -> None:
    """Let a model take features for its patches, and its tower then do nothing; they are told apart by their number."""
    tower: Any = find_tower(base)
    compute, width = tower.forward, base.config.get_text_config().hidden_size

    def pass_or_compute(hidden_states: Tensor, grid_thw: Tensor, **given: Any) -> Any:
        if len(hidden_states) < grid_thw.prod(1).sum():
            return part_features(hidden_states, width)
        return compute(hidden_states, grid_thw=grid_thw, **given)

    tower.forward = pass_or_compute
