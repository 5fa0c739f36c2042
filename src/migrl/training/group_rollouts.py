"""Rollouts by transformers that read each prompt once for its whole group (`grpo.group_prefix`).

`generate` reads a prompt as often as it has rollouts. Here the prompt is read once, but for its last token; what was
kept of it is repeated for the group, and `generate` goes on from there. It draws in the same order from the same
distributions, so that on a CPU in float32 the texts are those it would have written. Written for transformers 5.17.0.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from migrl.training.packs import Pictures, count_tokens, recording, split_features, split_pictures


def share_prompts(base: PreTrainedModel, group: int, keep: Callable[[list[Pictures]], None]) -> None:
    """Let a model's `generate` take rows of which each `group` has the same prompt and pictures.

    `keep` is called with the features of each group's pictures.
    """
    model: Any = base
    generate = model.generate

    def generate_shared(input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **given: Any) -> Any:
        cache = DynamicCache(config=base.config.get_text_config())
        types = given["mm_token_type_ids"]
        counts = count_pictures(types, count_tokens(base, given["image_grid_thw"]))
        pictures = split_pictures({**given, "num_images": counts}, group)
        with recording(base) as features:
            model.model(
                input_ids=input_ids[::group, :-1],
                attention_mask=attention_mask[::group, :-1],
                mm_token_type_ids=types[::group, :-1],
                pixel_values=torch.cat([some.values for some in pictures]),
                image_grid_thw=torch.cat([some.grids for some in pictures]),
                past_key_values=cache,
                use_cache=True,
            )
        keep(split_features(base, features[0], pictures))
        cache.batch_repeat_interleave(group)
        # By how much rotary positions are ahead of the tokens' numbers, (rows, 1): where `generate` goes on.
        model.model.rope_deltas = model.model.rope_deltas.repeat_interleave(group, 0)
        return generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            generation_config=generation_config,
        )

    model.generate = generate_shared


def count_pictures(types: Tensor, tokens: Tensor) -> list[int]:
    """Pictures of each row, from `mm_token_type_ids` (rows, tokens), 1 for a picture's, and each picture's tokens."""
    ends = torch.searchsorted(tokens.cumsum(0), (types == 1).sum(1).cumsum(0)) + 1
    counts: list[int] = torch.diff(ends, prepend=ends.new_zeros(1)).tolist()
    return counts
