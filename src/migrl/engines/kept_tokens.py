"""A cache of keys and values with room for more tokens: transformers' own is copied whole at every token."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 128  # tokens of a row


class RoomyLayer(DynamicLayer):
    """One layer's keys and values (rows, heads, tokens, size), views of tensors that are longer."""

    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        """Add tokens; give all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before: int = self.get_seq_length()
        after: int = before + key_states.shape[-2]
        if self.room is None or after > self.room[0].shape[-2]:
            rows, heads, _, size = key_states.shape
            keys, values = (some.new_empty((rows, heads, after + ROOM, size)) for some in (key_states, value_states))
            if self.keys is not None and self.values is not None and before:
                keys[..., :before, :], values[..., :before, :] = self.keys, self.values
            self.room = keys, values
        keys, values = self.room
        keys[..., before:after, :], values[..., before:after, :] = key_states, value_states
        self.keys, self.values = keys[..., :after, :], values[..., :after, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.room = None  # the next token makes room anew

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self.room = None


def keep_tokens(config: Any) -> Cache:
    """A cache for a model of this configuration."""
    make: Any = RoomyLayer  # whose base is not annotated
    return Cache(layers=[make() for _ in range(config.get_text_config().num_hidden_layers)])
