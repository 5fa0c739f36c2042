"""Processor of the tiny base: Qwen2.5-VL's own classes and chat template over a small vocabulary, or another family's.

The tokenizer is a byte-level BPE like Qwen's, trained on the world's texts, so any text encodes.
Digits are single tokens. The tags and the fixed parts of an
answer are ordinary added tokens: special ones would be dropped when trainers decode completions,
and every reward would silently be 0.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BaseVideoProcessor,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
)
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ANSWER_TOKENS = (
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    '{"image": ',
    ', "bbox_2d": [',
    "]}",
    ", ",  # these three make completions a fifth shorter, and rollouts are what training waits for
    "Image ",
    " image ",
)
BPE_SIZE = 512  # 256 bytes, then every word of the world
MIN_PIXELS = 56 * 56
MAX_PIXELS = 9_600  # a little above 4 x 3 cells of 28 px: larger pictures are shrunk to the grid

# The chat template of Qwen/Qwen2.5-VL-7B-Instruct.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class ProcessorKind:
    """What a family's processor is made of beside its tokenizer; `patch_size` in px."""

    processor: type[ProcessorMixin]
    videos: type[BaseVideoProcessor] = Qwen2VLVideoProcessor
    patch_size: int = 14
    chat_template: str = CHAT_TEMPLATE


QWEN2_5_VL_PROCESSOR = ProcessorKind(Qwen2_5_VLProcessor)


def train_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """Qwen's byte-level BPE tokenizer (its splitting rule, digits apart) with merges learned from `texts`."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=BPE_SIZE, initial_alphabet=alphabet, show_progress=False)
    apart = re.compile("|".join(re.escape(token) for token in SPECIAL_TOKENS + ANSWER_TOKENS))
    trained.train_from_iterator((part for text in texts for part in apart.split(text)), trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(merge) for merge in model["merges"]],  # type: ignore[misc]  # annotated as texts, pairs in fact
        unk_token=None,  # type: ignore[arg-type]  # annotated as a text, and None is allowed
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=1024,
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in ANSWER_TOKENS])
    return tokenizer


def build_processor(texts: Iterable[str], folder: Path) -> ProcessorMixin:
    """Train the tokenizer on `texts` and save a complete processor with it in `folder`."""
    return save_processor(train_tokenizer(texts), folder)


def save_processor(
    tokenizer: PreTrainedTokenizerBase, folder: Path, kind: ProcessorKind = QWEN2_5_VL_PROCESSOR
) -> ProcessorMixin:
    """Save a complete processor with this tokenizer in `folder`."""
    limits = {"patch_size": kind.patch_size, "merge_size": 2, "temporal_patch_size": 2}
    processor = kind.processor(
        image_processor=Qwen2VLImageProcessor(min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS, **limits),
        tokenizer=tokenizer,
        video_processor=kind.videos(**limits),
        chat_template=kind.chat_template,
    )
    processor.save_pretrained(folder)
    return kind.processor.from_pretrained(folder)
