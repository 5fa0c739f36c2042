"""torch's sdpa for a few new tokens of many rows: heads that share keys and values are passed as more queries of one.

With a mask, transformers copies keys and values for each of the heads that share them (seven times for a 7B model) at
every token that it decodes. Folded into the queries they are read where they lie. It is the same sum in the same order.
Longer inputs go the way that transformers chose. Written for transformers 5.17.0.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FOLDED = "sdpa_folded"
FEW = 64  # queries of a row; the mask is copied for each of the heads that share


def fold_heads(model: PreTrainedModel) -> None:
    """Let the language model of `model` run under sdpa, folded where that pays; the tower keeps its kernel."""
    AttentionInterface.register(FOLDED, attend_folded)
    AttentionMaskInterface.register(FOLDED, sdpa_mask)
    model.set_attn_implementation({"text_config": FOLDED})


def attend_folded(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **given: Any
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: `query` (rows, heads, tokens, size), output (rows, tokens, heads, size)."""
    rows, heads, tokens, size = query.shape
    shared = key.shape[1]
    if attention_mask is None or shared == heads or tokens > FEW:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **given)
    times = heads // shared
    output = scaled_dot_product_attention(
        query.reshape(rows, shared, times * tokens, size),
        key,
        value,
        attn_mask=attention_mask.repeat(1, 1, times, 1),
        dropout_p=given.get("dropout", 0.0),
        scale=given.get("scaling"),
    )
    return output.reshape(rows, heads, tokens, size).transpose(1, 2).contiguous(), None
