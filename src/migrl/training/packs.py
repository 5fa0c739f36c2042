"""Packs: completions of one prompt behind one copy of it, passed through the model in one row.

    tokens     prompt without its last token | last of the prompt, completion 1 | last of the prompt, completion 2 | ...
    sees       itself                        | prompt, itself                   | prompt, itself                   | ...
    positions  as transformers numbers prompt and completion alone; every completion begins where the prompt ends
    predicted  nothing                       | completion 1                     | completion 2                     | ...

Packs of different prompts are different rows, so that they cannot see each other. The mask has a byte for each pair of
tokens of a row; only the kernel sdpa reads it as it is meant. The idea is PrefixGrouper's (arXiv 2506.05433), which
has text only. Log-probabilities, entropies and gradients are those of a row a completion but for the order of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from migrl.training.features import Pictures, recording, split_features

IGNORED = -100  # label of a token that predicts nothing


@dataclass(frozen=True)
class Rows:
    """Completions as trl holds them, each behind its prompt: (rows, tokens), padded outside of both.

    The last `new` columns are the completion's. Rows of one pack stand together.
    """

    input_ids: Tensor
    attention_mask: Tensor
    mm_token_type_ids: Tensor
    new: int

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.input_ids[rows], self.attention_mask[rows], self.mm_token_type_ids[rows], self.new)


@dataclass(frozen=True)
class Layout:
    """Where the tokens of packs stand in the rows they are made of, all (packs, tokens).

    `segments` is 0 for the prompt, 1 .. size for the completions, and size + 1 for padding.
    """

    rows: Tensor
    columns: Tensor
    segments: Tensor
    size: int

    @property
    def predicts(self) -> Tensor:
        return (self.segments > 0) & (self.segments <= self.size)


@dataclass(frozen=True)
class Scores:
    """Of the completions' tokens (rows, new), 0 where there is none; and the features of the packs' pictures."""

    logps: Tensor
    entropies: Tensor | None
    pictures: list[Pictures]


def lay_out(attention_mask: Tensor, new: int, size: int) -> Layout:
    """Packs of `size` rows each; `attention_mask` is (rows, tokens), the last `new` the completion's."""
    last = attention_mask.shape[1] - new - 1  # column of the last token of every prompt
    prompts, completions = attention_mask[:, :-new].sum(1).tolist(), attention_mask[:, -new:].sum(1).tolist()
    columns, rows, segments = [], [], []
    for first in range(0, len(prompts), size):
        # A completion's last token predicts nothing; so with the prompt's last it is as long as it was.
        parts = [(first, last + 1 - prompts[first], last)]
        parts += [(row, last, last + completions[row]) for row in range(first, first + size)]
        lengths = torch.tensor([end - begin for _, begin, end in parts])
        columns.append(torch.cat([torch.arange(begin, end) for _, begin, end in parts]))
        rows.append(torch.tensor([row for row, _, _ in parts]).repeat_interleave(lengths))
        segments.append(torch.arange(size + 1).repeat_interleave(lengths))

    def stack(parts: list[Tensor], padding: int) -> Tensor:
        return pad_sequence(parts, batch_first=True, padding_value=padding).to(attention_mask.device)

    return Layout(stack(rows, 0), stack(columns, last), stack(segments, size + 1), size)


def make_mask(segments: Tensor) -> Tensor:
    """What each token sees, (packs, 1, tokens, tokens): the prompt and its own segment, up to itself."""
    own = segments[:, :, None] == segments[:, None]
    return (own | (segments[:, None] == 0)).tril()[:, None]


def score_packs(model: nn.Module, base: PreTrainedModel, rows: Rows, size: int, pictures: Sequence[Pictures]) -> Scores:
    """Pass packs of `size` rows through the model.

    Args:
        model: with trl's fused LM head, in any wrapping.
        base: the same without, as `features.accept_features` left it.
        pictures: of each pack.
    """
    layout = lay_out(rows.attention_mask, rows.new, size)
    grids = torch.cat([some.grids for some in pictures])
    labels = rows.input_ids[layout.rows, layout.columns + 1]
    with recording(base) as features:
        output = model(
            input_ids=rows.input_ids[layout.rows, layout.columns],
            attention_mask=make_mask(layout.segments),
            position_ids=find_positions(base, rows[::size], layout, grids),
            shift_labels=labels.masked_fill(~layout.predicts, IGNORED),
            fused_lm_head=True,
            pixel_values=torch.cat([some.values for some in pictures]),
            image_grid_thw=grids,
        )
    present = rows.attention_mask[:, -rows.new :].bool()

    def unpack(values: Tensor) -> Tensor:
        return values.new_zeros(present.shape).masked_scatter(present, values[layout.predicts])

    entropies = None if output.entropy is None else unpack(output.entropy)
    return Scores(unpack(output.log_probs), entropies, split_features(base, features[0], pictures))


def find_positions(base: Any, firsts: Rows, layout: Layout, grids: Tensor) -> Tensor:
    """Rotary positions of packs (3, packs, tokens), from what transformers gives the first row of each, `firsts`."""
    whole = firsts.attention_mask.clone()
    whole[:, -firsts.new :] = 1  # the other completions may be longer
    positions, _ = base.model.get_rope_index(
        firsts.input_ids, mm_token_type_ids=firsts.mm_token_type_ids, image_grid_thw=grids, attention_mask=whole
    )
    packs = torch.arange(len(whole), device=whole.device)[:, None]
    return cast(Tensor, positions[:, packs, layout.columns])
