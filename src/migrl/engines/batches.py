"""Batches of inputs, and the seeds of what is sampled: both fixed by the inputs, whatever was killed or resumed."""

import hashlib

from migrl.models.inputs import ModelInput


def make_batches(inputs: list[ModelInput], size: int, pixels: int | None = None) -> list[list[ModelInput]]:
    """Fixed batches of inputs of similar length: less padding, and the same batches on resume.

    The longest come first: if the device's memory does not suffice, that shows in the first minute.
    A batch has at most `size` inputs and, where `pixels` is given, at most so many pixels in all: memory grows with
    pixels, and an input may have two pictures or thirty.
    """

    def count_pixels(item: ModelInput) -> int:
        return sum(width * height for width, height in item.resized_sizes)

    batches: list[list[ModelInput]] = []
    total = 0
    for item in sorted(inputs, key=lambda item: (count_pixels(item), len(item.sample.question), item.sample.uid)):
        total += count_pixels(item)
        if not batches or len(batches[-1]) == size or (pixels is not None and total > pixels):
            batches.append([])
            total = count_pixels(item)
        batches[-1].append(item)
    return batches[::-1]


def derive_seed(seed: int, batch: list[ModelInput]) -> int:
    """Seed of the sampling of inputs that are sampled together, from the stage's seed and what they are."""
    return hash_seed(seed, *(item.sample.uid for item in batch))


def hash_seed(*parts: int | str) -> int:
    """A seed of 32 bits from what names a draw."""
    return int.from_bytes(hashlib.sha256("|".join(map(str, parts)).encode()).digest()[:4])
