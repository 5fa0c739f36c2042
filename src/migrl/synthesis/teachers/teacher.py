"""What all teachers have in common: the inputs they are asked about, and the form of what they reply.

A reply is JSON data: `completion`, the raw text, and what its teacher tells beside it (`planted`, the fault that the
scripted one put in; `truncated`, stopped at the token limit; `prompt_tokens`, `completion_tokens`). It depends on
nothing but the key of the stage and the teacher, so it becomes part of the evidence.
"""

from pathlib import Path

import torch
from PIL import Image
from rich.progress import track
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from migrl.grounding.boxes import Size
from migrl.grounding.samples import BoxTarget, read_samples
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import load_processor
from migrl.recipe import Recipe


def load_items(recipe: Recipe, fetch: Path) -> list[ModelInput]:
    """The cold start's grounding samples as a model reads them, at the size of the cold start's own pictures."""
    data, model = fetch / "data", recipe.model
    processor = load_processor(fetch / "model", min_pixels=model.min_pixels, max_pixels=recipe.sft.max_pixels)
    return [
        prepare_input(sample, data, processor, frame=model.frame, style="think")
        for sample in track(read_samples(data / "cot.jsonl"), description="reading samples")
        if isinstance(sample.target, BoxTarget)
    ]


def resize_picture(image: Image.Image, size: Size) -> torch.Tensor:
    """A picture at `size` (width, height), resized as Qwen's image processor does it, to the very pixel.

    Returns:
        uint8, (3, height, width).
    """
    pixels: torch.Tensor = functional.pil_to_tensor(image)
    if image.size == size:
        return pixels
    height_width, bicubic = [size[1], size[0]], InterpolationMode.BICUBIC
    pixels = functional.resize(pixels, height_width, interpolation=bicubic, antialias=True)
    return pixels
