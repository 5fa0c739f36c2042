"""Rollouts by transformers that read each prompt once for its whole group (`grpo.group_prefix`).

trl gives `generate` a row a rollout, each with its own copy of prompt and pictures. Here it gets one of each group, and
decodes the group behind it (engines/decoding_loop.py).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from migrl.engines.decoding_loop import decode
from migrl.training.features import Pictures, count_tokens, recording, split_features, split_pictures


def share_prompts(base: PreTrainedModel, group: int, keep: Callable[[list[Pictures]], None]) -> None:
    """Let a model's `generate` take rows of which each `group` has the same prompt and pictures.

    `keep` is called with the features of each group's pictures.
    """
    model: Any = base
    generate = model.generate

    def generate_shared(input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **given: Any) -> Any:
        types = given["mm_token_type_ids"]
        counts = count_pictures(types, count_tokens(base, given["image_grid_thw"]))
        pictures = split_pictures({**given, "num_images": counts}, group)
        with recording(base) as features:
            sequences = generate(
                input_ids=input_ids[::group],
                attention_mask=attention_mask[::group],
                mm_token_type_ids=types[::group],
                pixel_values=torch.cat([some.values for some in pictures]),
                image_grid_thw=torch.cat([some.grids for some in pictures]),
                generation_config=generation_config,
                custom_generate=decode,
                completions=group,
            )
        keep(split_features(base, features[0], pictures))
        return sequences

    model.generate = generate_shared


def count_pictures(types: Tensor, tokens: Tensor) -> list[int]:
    """Pictures of each row, from `mm_token_type_ids` (rows, tokens), 1 for a picture's, and each picture's tokens."""
    ends = torch.searchsorted(tokens.cumsum(0), (types == 1).sum(1).cumsum(0)) + 1
    counts: list[int] = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    return counts
