"""The tiny base untrained, at about 1.4 M parameters: Qwen2.5-VL's architecture, or another of its tokens."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from migrl.world.tokenizer import QWEN2_5_VL_PROCESSOR, ProcessorKind

TRAP = {"do_sample": True, "temperature": 0.1, "top_k": 1, "repetition_penalty": 1.05}
"""Decoding settings such as Qwen2.5-VL's checkpoints ship: no stage may inherit them, and every test would see it."""


@dataclass(frozen=True)
class Architecture:
    """A `model_type` of transformers, its processor, the sizes of its tower, and what else its language model has."""

    model_type: str
    processor: ProcessorKind
    vision: Mapping[str, Any]
    text: Mapping[str, Any] = field(default_factory=dict)


QWEN2_5_VL = Architecture(
    "qwen2_5_vl",
    QWEN2_5_VL_PROCESSOR,
    {
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 128,
        "window_size": 168,  # one window a picture: fewer, larger attention calls
        "fullatt_block_indexes": [1],
    },
)


def build_config(processor: ProcessorMixin, architecture: Architecture = QWEN2_5_VL) -> PreTrainedConfig:
    """Architecture of the tiny base."""
    token = processor.tokenizer.convert_tokens_to_ids
    special = {
        "vision_start_token_id": token("<|vision_start|>"),
        "vision_end_token_id": token("<|vision_end|>"),
        "image_token_id": token("<|image_pad|>"),
        "video_token_id": token("<|video_pad|>"),
    }
    text = {
        "vocab_size": 64 * math.ceil(len(processor.tokenizer) / 64),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": token("<|im_end|>"),
        "pad_token_id": token("<|endoftext|>"),
        **architecture.text,
    }
    parts = {"text_config": text, "vision_config": dict(architecture.vision)}
    return AutoConfig.for_model(architecture.model_type, **parts, tie_word_embeddings=True, **special)


def build_model(processor: ProcessorMixin, architecture: Architecture = QWEN2_5_VL) -> PreTrainedModel:
    """The untrained model: normal weights with std fan_in^-0.5, embeddings 0.3.

    Transformers' default (0.02) never learned to see at this size.
    """
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(
        build_config(processor, architecture), attn_implementation="sdpa", dtype=torch.float32
    )
    model.set_attn_implementation({"text_config": "eager"})  # its backward is faster than sdpa's at this size
    for name, weight in model.named_parameters():
        if "embed_tokens" in name:
            nn.init.normal_(weight, std=0.3)
        elif weight.dim() > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(weight)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config.update(**TRAP)
    return model
