"""Loading a model of a known family and its processor, the same way for every stage and arm."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import logging

from migrl.errors import UserError
from migrl.grounding.images import fit_size
from migrl.models.family import FAMILIES, find_processor_family, read_family
from migrl.models.folder import GENERATION_FILE, PROCESSOR_FILES, find_model_files, read_processor_classes
from migrl.recipe import ModelSettings


def load_processor(folder: Path, *, min_pixels: int, max_pixels: int) -> ProcessorMixin:
    """Processor with explicit pixel limits and left padding (trl sets the side only for its own).

    Raises:
        UserError: no processor of a known family, one that resizes pictures otherwise than its family or is another
            family's, or limits with no room for a token.
    """
    processor = read_processor(folder, min_pixels=min_pixels, max_pixels=max_pixels)
    images, family = processor.image_processor, find_processor_family(processor)
    if max_pixels < (least := family.pixel_factor**2):
        cell = f"{family.pixel_factor} x {family.pixel_factor}"
        raise UserError(
            f"max_pixels={max_pixels} is less than a token of {family.name}, {cell} px; use {least} or more"
        )
    if (images.size["shortest_edge"], images.size["longest_edge"]) != (min_pixels, max_pixels):
        raise UserError(f"{folder}: the image processor ignored the pixel limits; use the pinned transformers")
    if (factor := images.patch_size * images.merge_size) != family.pixel_factor:
        raise UserError(
            f"{folder}: the image processor makes a token of {factor} px, {family.name} of {family.pixel_factor}; take "
            "its files from the model's source"
        )
    processor.tokenizer.padding_side = "left"
    return processor


def read_processor(folder: Path, **limits: Any) -> ProcessorMixin:
    """The processor of a model folder, of its family's class; `limits` in place of its own.

    Raises:
        UserError: a model of no known family, or files of another family's processor.
    """
    family = read_family(folder)
    for path, name in read_processor_classes(folder).items():
        others = [other for other in FAMILIES if other.processor_class == name and other is not family]
        if others:
            raise UserError(
                f"{path}: processor_class is {name!r}, {others[0].name}'s, and the model is a {family.name}, which has "
                f"{family.processor_class}; take the processor's files from the model's source"
            )
    kind: type[ProcessorMixin] = getattr(transformers, family.processor_class)
    return kind.from_pretrained(folder, **limits)


def load_model(folder: Path, settings: ModelSettings) -> PreTrainedModel:
    """The model in the recipe's dtype and attention kernel; a missing or unexpected weight is an error.

    Raises:
        UserError: a model of no known family, weights that do not fit, an attention kernel that is not installed, or a
            folder that holds what would be loaded beside or in place of the weights (models/folder.py).
    """
    find_model_files(folder)
    read_family(folder)  # no other may be loaded
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    choose_kernels()
    logging.disable_progress_bar()
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            attn_implementation=settings.attention,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except ImportError as error:
        raise UserError(f"model.attention={settings.attention}: {error}; install it or use sdpa") from error
    # Annotated as the model alone, which it is without `output_loading_info`.
    model, report = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise UserError(f"{folder}: {kind.replace('_', ' ')} {sorted(report[kind])[:3]}; the weights are not whole")
    own = model.generation_config
    # Of what the checkpoint would have `generate` do only its end and padding are taken; decoding.py says the rest.
    model.generation_config = GenerationConfig(eos_token_id=own.eos_token_id, pad_token_id=own.pad_token_id)
    return model


def choose_kernels() -> None:
    """What torch may choose for itself on a GPU, in every process that computes.

    Convolutions in float32 would read their input rounded to 10 bits. And sdpa under a mask would go to cuDNN on
    Hopper, which builds a plan for every shape: 40 ms for each token of a rollout, a second for a training step of a
    new length.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.enable_cudnn_sdp(False)


def load_for_inference(folder: Path, settings: ModelSettings, local_rank: int = 0) -> PreTrainedModel:
    """The same on this process's device, in evaluation mode; raises as `load_model` does."""
    model = load_model(folder, settings)
    cast(nn.Module, model).to(pick_device(local_rank))  # in place; transformers' own `to` has lost its type
    model.eval()
    return model


@dataclass(frozen=True)
class Weights:
    """Where an arm's weights are: a full model, and an adapter on top if there is one."""

    model: Path
    adapter: Path | None = None


def load_weights(weights: Weights, settings: ModelSettings, local_rank: int = 0) -> PreTrainedModel:
    """The model for inference, with its adapter folded in, so that all arms run the same code."""
    return fold_adapter(load_for_inference(weights.model, settings, local_rank), weights)


def write_merged(weights: Weights, settings: ModelSettings, folder: Path) -> None:
    """A whole model in a folder, for what reads no adapters; made on the processor, as nothing is computed but sums."""
    save_model(fold_adapter(load_model(weights.model, settings), weights), folder)
    copy_small_files(weights.model, folder)


def save_model(model: PreTrainedModel, folder: Path, **options: Any) -> None:
    """Write a model's weights and config.

    For this transformers asks accelerate, which imports DeepSpeed, and that would warn on a CPU that it finds no GPU.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    model.save_pretrained(folder, **options)


def fold_adapter(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    """The model with the adapter in its weights; the same where there is none."""
    if weights.adapter is None:
        return model
    merged: PreTrainedModel = PeftModel.from_pretrained(model, weights.adapter).merge_and_unload()
    return merged


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


def list_vision_token_ids(processor: ProcessorMixin) -> list[int]:
    """Ids of the vision placeholders, to be suppressed in generation."""
    tokens = find_processor_family(processor).vision_tokens
    return [processor.tokenizer.convert_tokens_to_ids(token) for token in tokens]


def make_vision_bias(processor: ProcessorMixin) -> dict[int, float]:
    """The same for vLLM, which knows no suppressed tokens: the lowest bias it takes, for each of them."""
    return dict.fromkeys(list_vision_token_ids(processor), -100.0)


def compute_resized_size(processor: ProcessorMixin, size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an image after the processor's resizing; `size` is the original (width, height).

    Raises:
        ValueError: a strip that the processor refuses.
    """
    images: Any = processor.image_processor
    return fit_size(size, **read_pixel_limits(processor), factor=images.patch_size * images.merge_size)


def read_pixel_limits(processor: ProcessorMixin) -> dict[str, int]:
    """How many pixels a resized picture has at least and at most, by the words of a processor's arguments."""
    size = processor.image_processor.size
    return {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
