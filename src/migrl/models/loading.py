"""Loading Qwen2.5-VL and its processor, the same way for every stage and arm."""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.utils import logging

from migrl.errors import UserError
from migrl.grounding.images import fit_size
from migrl.models.folder import GENERATION_FILE, PROCESSOR_FILES, find_model_files
from migrl.recipe import ModelSettings

VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Never sampled: a placeholder in a completion breaks the next forward pass (trl #3847)."""


def load_processor(folder: Path, *, min_pixels: int, max_pixels: int) -> Qwen2_5_VLProcessor:
    """Processor with explicit pixel limits and left padding (trl sets the side only for its own)."""
    processor = Qwen2_5_VLProcessor.from_pretrained(folder, min_pixels=min_pixels, max_pixels=max_pixels)
    limits = processor.image_processor.size
    if (limits["shortest_edge"], limits["longest_edge"]) != (min_pixels, max_pixels):
        raise UserError(f"{folder}: the image processor ignored the pixel limits; use the pinned transformers")
    processor.tokenizer.padding_side = "left"
    return processor


def load_model(folder: Path, settings: ModelSettings) -> Qwen2_5_VLForConditionalGeneration:
    """The model in the recipe's dtype and attention kernel; a missing or unexpected weight is an error.

    Raises:
        UserError: weights that do not fit the architecture, an attention kernel that is not installed, or a folder that
            holds what would be loaded beside or in place of the weights (models/folder.py).
    """
    find_model_files(folder)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.backends.cudnn.allow_tf32 = False  # a GPU would round what convolutions in float32 read to 10 bits
    logging.disable_progress_bar()
    try:
        loaded = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attention,
            use_safetensors=True,
            output_loading_info=True,
        )
    except ImportError as error:
        raise UserError(f"model.attention={settings.attention}: {error}; install it or use sdpa") from error
    # Annotated as the model alone, which it is without `output_loading_info`.
    model, report = cast(tuple[Qwen2_5_VLForConditionalGeneration, dict[str, Any]], loaded)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise UserError(f"{folder}: {kind.replace('_', ' ')} {sorted(report[kind])[:3]}; the weights are not whole")
    own = model.generation_config
    # Of what the checkpoint would have `generate` do only its end and padding are taken; decoding.py says the rest.
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)
    return model


def load_for_inference(
    folder: Path, settings: ModelSettings, local_rank: int = 0
) -> Qwen2_5_VLForConditionalGeneration:
    """The same on this process's device, in evaluation mode; raises as `load_model` does."""
    model = load_model(folder, settings)
    cast(nn.Module, model).to(pick_device(local_rank))  # in place; transformers' own `to` has lost its type
    model.eval()
    return model


def copy_small_files(source: Path, target: Path) -> None:
    """Give a model that was made from another its tokenizer, processor, template, and decoding settings."""
    for name in (GENERATION_FILE, *PROCESSOR_FILES):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def read_end_tokens(folder: Path) -> list[int]:
    """Ids that end a completion, as the model in `folder` has them."""
    return list_end_tokens(GenerationConfig.from_pretrained(folder))


def list_end_tokens(config: GenerationConfig) -> list[int]:
    """The same, from a model's own configuration."""
    found = config.eos_token_id
    return list(found) if isinstance(found, list) else [found]


def pick_device(local_rank: int = 0) -> torch.device:
    """This process's accelerator if there is one, else the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def list_vision_token_ids(processor: Qwen2_5_VLProcessor) -> list[int]:
    """Ids of the vision placeholders, to be suppressed in generation."""
    return [processor.tokenizer.convert_tokens_to_ids(token) for token in VISION_TOKENS]


def make_vision_bias(processor: Qwen2_5_VLProcessor) -> dict[int, float]:
    """The same for vLLM, which knows no suppressed tokens: the lowest bias it takes, for each of them."""
    return dict.fromkeys(list_vision_token_ids(processor), -100.0)


def compute_resized_size(processor: Qwen2_5_VLProcessor, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an image after the processor's resizing; `size` is the original (width, height).

    Raises:
        ValueError: a strip that the processor refuses.
    """
    images: Any = processor.image_processor
    limits = {"min_pixels": images.size["shortest_edge"], "max_pixels": images.size["longest_edge"]}
    return fit_size(size, **limits, factor=images.patch_size * images.merge_size)
