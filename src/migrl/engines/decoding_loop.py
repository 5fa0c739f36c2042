"""A decoding loop for transformers' `generate` in which completions of a prompt share it, and finished ones leave.

`generate` reads a prompt as often as it has completions, and passes every row through the model until the last ends.
Here a prompt is read once, and what is kept of it exists once: its completions stand behind it in one row.

    kept    prompt | first token of each completion | second token of each | ...
    sees    each completion the prompt and its own tokens

Of a row's completions only those that go on are passed through the model, and a row leaves with the last of them.
Tokens are drawn in `generate`'s order from its distributions, also for completions that left: on a CPU in float32 the
texts are those that it writes. Only sdpa reads such a mask (models/attention.py); under another kernel each completion
has a row of its own, behind a copy of what is kept of its prompt. Written for transformers 5.17.0, whose public hook
`custom_generate` it is.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, distributed
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from migrl.engines.kept_tokens import keep_tokens
from migrl.models.attention import FOLDED

DROPPED = 0.9  # share of a batch that goes on, below which the others leave: that copies what is kept of it


@dataclass
class Batch:
    """What is passed through the model: completions of some prompts, side by side.

    `slots` are the numbers of the completions (rows, slots), `seen` what each sees of what is kept (rows, slots,
    columns), `places` the rotary position of each row's next token (rows,).
    """

    slots: Tensor
    seen: Tensor
    places: Tensor

    def drop(self, going: Tensor, cache: Any) -> None:
        """Let completions leave that are not `going` (completions,), where that saves enough."""
        goes = going[self.slots]
        rows, width = goes.any(1).nonzero()[:, 0], int(goes.sum(1).max())
        if len(rows) * width > DROPPED * self.slots.numel():
            return
        if len(rows) < len(goes):
            cache.batch_select_indices(rows)
        order = goes[rows].sort(dim=1, descending=True, stable=True).indices[:, :width]
        self.slots = self.slots[rows].gather(1, order)
        self.seen = self.seen[rows].gather(1, order[:, :, None].expand(-1, -1, self.seen.shape[2]))
        self.places = self.places[rows]

    def step(self) -> tuple[Tensor, Tensor]:
        """The mask of the next token of each slot (rows, 1, slots, columns), and their positions (3, rows, slots)."""
        rows, width = self.slots.shape
        own = torch.eye(width, dtype=torch.bool, device=self.seen.device).expand(rows, -1, -1)
        self.seen = torch.cat([self.seen, own], 2)
        positions = self.places[:, None].expand(3, rows, width)
        self.places = self.places + 1
        return self.seen[:, None], positions


def decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    completions: int = 1,
    synced_gpus: bool = False,
    **given: Any,
) -> Tensor:
    """Prompts (rows, tokens), padded left, each with `completions` behind it (rows x completions, tokens)."""
    given["past_key_values"] = cache = keep_tokens(model.config)
    present = given["attention_mask"].bool()
    output = model(**model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **given))
    places = present.sum(1) + model.model.rope_deltas[:, 0]
    shared = completions if model.config.get_text_config()._attn_implementation == FOLDED else 1
    if shared < completions:
        cache.batch_repeat_interleave(completions)
        present, places = (some.repeat_interleave(completions, 0) for some in (present, places))
    sequences = input_ids.repeat_interleave(completions, 0)
    going = torch.ones(len(sequences), dtype=torch.bool, device=sequences.device)
    slots = torch.arange(len(sequences), device=sequences.device).view(-1, shared)
    batch = Batch(slots, present[:, None].expand(-1, shared, -1), places)
    logits = output.logits[:, -1].repeat_interleave(completions, 0)
    pad = int(generation_config.pad_token_id)
    while True:
        drawn = batch.slots.flatten()
        scores = logits_processor(cast(Any, sequences[drawn]), logits.float())
        tokens = draw(scores, drawn, len(sequences), pad, sampled=bool(generation_config.do_sample))
        sequences = torch.cat([sequences, tokens.where(going, pad)[:, None]], 1)
        going = going & ~stopping_criteria(sequences, None)
        if not is_any(going, synced_gpus):
            return sequences
        if going.any():  # else another process goes on, and takes part in what this one computes
            batch.drop(going, cache)
        mask, positions = batch.step()
        output = model(
            input_ids=sequences[batch.slots, -1],
            attention_mask=mask if shared > 1 else mask[:, 0, 0],
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits.flatten(0, 1)


def draw(scores: Tensor, drawn: Tensor, count: int, pad: int, *, sampled: bool) -> Tensor:
    """The next token of `count` completions from the scores of those in the batch, `drawn`; `pad` for the others.

    A token is drawn for each: so one that left changes nothing for the others.
    """
    if not sampled:
        return drawn.new_full((count,), pad).scatter(0, drawn, scores.argmax(-1))
    chances = scores.new_zeros((count, scores.shape[1]))
    chances[:, pad] = 1
    chances[drawn] = scores.softmax(-1)
    return torch.multinomial(chances, 1)[:, 0]


def is_any(going: Tensor, synced: bool) -> bool:
    """Whether some completion goes on, with `synced` in any process."""
    found = going.any().long()
    if synced:
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
    return bool(found)
