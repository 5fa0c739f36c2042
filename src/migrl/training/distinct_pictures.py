"""Each picture of a batch goes through the image processor once, however many rows hold it.

trl has a group's pictures resized and cut into patches anew for each of its completions, twice a step. The copies are
one object (trainer.py decodes them so), and by that they are known. Written for transformers 5.17.0.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import make_flat_list_of_images


@contextmanager
def processing_distinct(processor: ProcessorMixin) -> Iterator[None]:
    """While it is open, the image processor of `processor` does so; what it gives is what it gave."""
    pictures: Any = processor.image_processor
    process = pictures.preprocess

    def process_once(images: Any, *given: Any, **named: Any) -> BatchFeature:
        every: list[Any] = cast(Any, make_flat_list_of_images(images))
        distinct = {id(picture): picture for picture in every}
        found: BatchFeature = process(list(distinct.values()), *given, **named)
        if len(distinct) == len(every):
            return found
        places = {key: place for place, key in enumerate(distinct)}
        order = [places[id(picture)] for picture in every]
        grids = torch.as_tensor(found["image_grid_thw"])
        patches = torch.as_tensor(found["pixel_values"]).split(grids.prod(1).tolist())
        return BatchFeature(
            {"pixel_values": torch.cat([patches[place] for place in order]), "image_grid_thw": grids[order]}
        )

    pictures.preprocess = process_once
    try:
        yield
    finally:
        del pictures.preprocess  # the class has its own
