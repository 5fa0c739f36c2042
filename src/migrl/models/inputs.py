"""From a sample to what the model reads: pictures, their sizes in both frames, and chat messages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from transformers import ProcessorMixin

from migrl.errors import UserError
from migrl.grounding.boxes import Box, Frame, Size, convert_box
from migrl.grounding.images import find_sizes, read_image
from migrl.grounding.prompts import PromptStyle, build_messages, hash_messages, quote_boxes
from migrl.grounding.samples import BoxesTarget, BoxTarget, Sample
from migrl.models.family import find_processor_family
from migrl.models.loading import compute_resized_size


@dataclass(frozen=True)
class ModelInput:
    """One sample ready for the model. Sizes are (width, height), one an image."""

    sample: Sample
    paths: tuple[Path, ...]
    sizes: tuple[Size, ...]
    resized_sizes: tuple[Size, ...]
    messages: list[dict[str, Any]]
    frame: Frame

    @property
    def prompt_hash(self) -> str:
        return hash_messages(self.messages)

    @property
    def box_target(self) -> BoxTarget:
        """The target of a grounding sample."""
        assert isinstance(self.sample.target, BoxTarget)
        return self.sample.target

    @property
    def true_box(self) -> Box:
        """The true box of a grounding sample, in the model's frame."""
        return self._convert(self.box_target)

    @property
    def true_boxes(self) -> list[tuple[int, Box]]:
        """The true boxes, each with its image, in the model's frame; a choice has none."""
        target = self.sample.target
        boxes = target.boxes if isinstance(target, BoxesTarget) else (target,) if isinstance(target, BoxTarget) else ()
        return [(box.image, self._convert(box)) for box in boxes]

    def _convert(self, target: BoxTarget) -> Box:
        index = target.image - 1
        sizes = {"original_size": self.sizes[index], "resized_size": self.resized_sizes[index]}
        return convert_box(target.box_unit, "unit", self.frame, **sizes)

    def load_images(self) -> list[Image.Image]:
        return [read_image(path, size) for path, size in zip(self.paths, self.sizes, strict=True)]


def prepare_input(
    sample: Sample, root: Path, processor: ProcessorMixin, *, frame: Frame, style: PromptStyle
) -> ModelInput:
    """Sizes and messages of one sample whose images lie under `root`; boxes in the question change to `frame`.

    Raises:
        UserError: a frame that the model does not speak, a missing picture, or a strip that the processor refuses.
    """
    if fault := find_processor_family(processor).find_frame_fault(frame):
        raise UserError(fault)
    paths = tuple(root / name for name in sample.images)
    sizes = find_sizes(root, sample.images, sample.sizes)
    resized = tuple(_fit_picture(sample, path, processor, size) for path, size in zip(paths, sizes, strict=True))
    question = quote_boxes(sample.question, frame, original_size=sizes[0], resized_size=resized[0])
    messages = build_messages(question, len(paths), style, sample.kind)
    return ModelInput(sample, paths, sizes, resized, messages, frame)


def _fit_picture(sample: Sample, path: Path, processor: ProcessorMixin, size: Size) -> Size:
    try:
        return compute_resized_size(processor, size)
    except ValueError as error:
        raise UserError(f"{path}: sample {sample.uid!r}: {error}") from error


def count_prompt(item: ModelInput, processor: ProcessorMixin) -> tuple[int, int]:
    """Tokens of a prompt as its model reads it, of text and of pictures; no picture is opened."""
    text = processor.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False)
    # One placeholder per picture stands in the text.
    return (
        len(processor.tokenizer(text).input_ids) - len(item.paths),
        sum(count_picture(size, processor) for size in item.resized_sizes),
    )


def count_picture(resized_size: Size, processor: ProcessorMixin) -> int:
    """Tokens of a picture of this size after resizing."""
    images = processor.image_processor
    area: int = (images.patch_size * images.merge_size) ** 2  # a token's
    return resized_size[0] * resized_size[1] // area
