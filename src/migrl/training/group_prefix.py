"""GRPO where what a group shares is computed once (`grpo.group_prefix`): its pictures and its prompt.

trl passes every completion through the model behind a copy of its prompt. Here the completions of a prompt are packed
behind one copy (packs.py), and the loss is trl's own. It is the same but for the order of sums (float32: 1e-5), but two
things do differ. A step's groups are shuffled over its micro batches, not its completions: that shows where a loss
depends on which completions share a micro batch, as `bnpo` does. And LoRA's dropout is drawn once for a prompt, not
once for each of its completions.

A micro batch of several groups has a row for each. One smaller than a group divides it: each of its packs has its own
copy of the prompt, so that a recipe whose groups do not fit its GPU still shares what it can. Entropy and KL are logged
as means of the micro batches' means, as trl does, so that they too depend on the shuffling.

The frozen vision tower sees each prompt's pictures once a step, and rollouts by transformers read each prompt once
(group_rollouts.py). The first pass of a step, that of the rollouts or of the reference, keeps the features for the
others in place of the pixels that trl keeps of every completion. That is hidden size x bytes for each image token, a
twentieth of trl's pixels for a 7B model in bfloat16 and groups of 8, and as much again for each layer that a deepstack
(Qwen3-VL) taps; nothing is kept for the next step.

Pictures are decoded and processed once for a group (distinct_pictures.py); what is left of that is a twentieth of the
tiny recipe's step, so that no worker prefetches it.

The language model runs under sdpa (models/attention.py) and the tower under `model.attention`; where these differ the
recipe says so (`group_prefix: sdpa`), as flash-attention takes no mask of blocks. Of a 7B model's FLOPs over 4,000
tokens of prompt and 8 x 300 of completions, attention has 8 %, or 16 % where a kernel computes what the mask hides.
On an H200 (`make gpu`) a step takes a fifth of stock trl's. Flex attention, or flash attention in two calls, takes 4 ms
a layer where sdpa takes 13, so either would save a sixth of that step; neither is used so far.

Written for trl 1.16.0. Overridden are its private `_generate_and_score_completions` and
`_get_per_token_logps_and_entropies`, and its public `compute_loss`; used are `split_pixel_values_by_grid`, the fused LM
head's `shift_labels`, and that a batch's rows come group by group.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin
from trl import GRPOTrainer

from migrl.errors import UserError
from migrl.models.attention import fold_heads
from migrl.training.distinct_pictures import processing_distinct
from migrl.training.features import PICTURES, Pictures, accept_features, split_pictures
from migrl.training.group_rollouts import share_prompts
from migrl.training.packs import Rows, score_packs


class GroupPrefixTrainer(GRPOTrainer):
    """trl's trainer over packs of completions of one prompt. It trains and does not evaluate.

    Its batches hold a row a pack, (packs, completions of a pack, ...), from the rollouts to the loss: so trl shuffles
    packs and splits a step between them.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        config: Any = self.args
        self.pack_size: int = min(config.num_generations, config.per_device_train_batch_size)
        self._pictures: list[Pictures] = []  # of the step that is being prepared
        self._copies: int = config.num_generations // self.pack_size  # packs of a group
        for base in self._list_bases():
            accept_features(base)
            fold_heads(base)  # sdpa alone reads the mask
        share_prompts(self._unwrap(self.model), config.num_generations, self._keep)

    def _list_bases(self) -> Iterator[PreTrainedModel]:
        yield self._unwrap(self.model)
        if self.ref_model is not None:
            yield self._unwrap(self.ref_model)

    def _unwrap(self, model: Any) -> PreTrainedModel:
        inner = self.accelerator.unwrap_model(model)
        return cast(PreTrainedModel, inner.get_base_model() if isinstance(inner, PeftModel) else inner)

    def _keep(self, groups: list[Pictures]) -> None:
        self._pictures = [some for some in groups for _ in range(self._copies)]

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        group = self.pack_size * self._copies
        for first in range(0, len(inputs), group):
            if len({row["uid"] for row in inputs[first : first + group]}) > 1:
                raise UserError("trl put completions of several prompts where one group belongs; use the pinned trl")
        self._pictures = []
        with processing_distinct(cast(ProcessorMixin, self.processing_class)):
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        pictures = self._pictures or split_pictures(batch, self.pack_size)
        self._pictures = []
        rows = {name: value for name, value in batch.items() if name not in PICTURES}
        return {
            name: value.unflatten(0, (-1, self.pack_size)) if isinstance(value, Tensor) and value.dim() else value
            for name, value in rows.items()
        } | {"pictures": pictures}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        rows = {
            name: value.flatten(0, 1) if isinstance(value, Tensor) and value.dim() else value
            for name, value in inputs.items()
        }
        trl: Any = super()  # whose method is not annotated
        return trl.compute_loss(model, {**rows, "pixel_values": inputs["pictures"]}, *given, **named)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, logits_to_keep: int, *_: Any, **given: Any
    ) -> tuple[Tensor, Tensor | None, None]:
        """Of all rows of a step, with their pixels, or of a micro batch that came through `compute_loss`."""
        rows = Rows(input_ids, attention_mask, given["mm_token_type_ids"], logits_to_keep)
        base, size = self._unwrap(model), self.pack_size
        pictures = given["pixel_values"]
        if keeps := not isinstance(pictures, list):
            # A reference model of another precision has a tower that rounds otherwise.
            keeps = base.dtype == self._unwrap(self.model).dtype
            pictures = self._pictures if keeps else []
            pictures = pictures or split_pictures(given, size)
        batch = given.get("batch_size") or len(input_ids)
        scores = []
        for first in range(0, len(input_ids), batch):
            packs = slice(first // size, (first + batch) // size)
            with self.accelerator.autocast():
                scores.append(score_packs(model, base, rows[first : first + batch], size, pictures[packs]))
        if keeps:
            self._pictures = [some for score in scores for some in score.pictures]
        entropies = [score.entropies for score in scores if score.entropies is not None]
        return torch.cat([score.logps for score in scores]), torch.cat(entropies) if entropies else None, None
