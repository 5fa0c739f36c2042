"""Gates of training: the model sees every picture at the very size that its boxes are mapped with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import ProcessorMixin

from migrl.errors import UserError
from migrl.grounding.boxes import Size
from migrl.grounding.images import read_image
from migrl.models.inputs import ModelInput
from migrl.models.loading import compute_resized_size


def check_sizes(items: list[ModelInput], processor: ProcessorMixin) -> None:
    """Before step 1: the size that boxes are mapped with is the trainer's processor's own, for every sample.

    Its function is asked for all of them; it resizes those pictures that are the smallest, the largest, the most
    stretched, and the first.

    Raises:
        UserError: naming sample and picture.
    """
    pictures = [
        (item, path, size, resized)
        for item in items
        for path, size, resized in zip(item.paths, item.sizes, item.resized_sizes, strict=True)
    ]
    for item, path, size, resized in pictures:
        _compare_sizes(item.sample.uid, path, resized, compute_resized_size(processor, size))
    by_side = sorted(pictures, key=lambda picture: min(picture[2]))
    by_shape = sorted(pictures, key=lambda picture: max(picture[2]) / min(picture[2]))
    for item, path, size, resized in (pictures[0], *by_side[:2], by_side[-1], *by_shape[-2:]):
        encoded = processor.image_processor(images=[read_image(path, size)], return_tensors="pt")
        _compare_sizes(item.sample.uid, path, resized, *read_grids(processor, encoded["image_grid_thw"]))


def read_grids(processor: ProcessorMixin, grids: torch.Tensor) -> list[Size]:
    """(width, height) in px of the pictures that `image_grid_thw` (pictures, 3) counts the patches of."""
    patch = processor.image_processor.patch_size
    return [(columns * patch, rows * patch) for _, rows, columns in grids.tolist()]


def check_batch(rows: list[dict[str, Any]], processor: ProcessorMixin, grids: torch.Tensor) -> None:
    """The pictures of a trainer's batch were resized to the sizes that boxes are mapped with.

    Args:
        rows: of `build_dataset`, as the trainer encoded them.
        grids: the batch's `image_grid_thw`.

    Raises:
        UserError: naming the sample and its image.
    """
    shown = [(row["uid"], number, image) for row in rows for number, image in enumerate(row["images"], 1)]
    found = read_grids(processor, grids)
    if len(found) != len(shown):
        raise UserError(f"the trainer encoded {len(found)} pictures of {len(shown)}; use the pinned trl")
    for (uid, number, image), size in zip(shown, found, strict=True):
        picture = f"image {number} of {image.width}x{image.height} px"
        _compare_sizes(uid, picture, compute_resized_size(processor, image.size), size)


def check_every_batch(
    collate: Callable[[list[dict[str, Any]]], Any], processor: ProcessorMixin
) -> Callable[[list[dict[str, Any]]], Any]:
    """A trainer's collator that raises what `check_batch` does."""

    def collate_and_check(rows: list[dict[str, Any]]) -> Any:
        batch = collate(rows)
        check_batch(rows, processor, batch["image_grid_thw"])
        return batch

    return collate_and_check


def _compare_sizes(uid: str, picture: Path | str, expected: Size, found: Size) -> None:
    if found != expected:
        raise UserError(
            f"sample {uid!r}, {picture}: the processor resizes it to {found[0]}x{found[1]} px, boxes are mapped with "
            f"{expected[0]}x{expected[1]} px; use the pinned transformers and trl"
        )
