"""Batches: similar lengths together, the same on every run, and never more pixels than fit."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from migrl.engines.batches import make_batches
from migrl.grounding.samples import ChoiceTarget, Sample
from migrl.models.inputs import ModelInput


def make_input(number: int, sides: list[int]) -> ModelInput:
    images = tuple(f"{index}.png" for index in range(len(sides)))
    sample = Sample(f"s:{number}", "s", "t", images, "Which?", ChoiceTarget("A", 2), "c")
    sizes = tuple((side, side) for side in sides)
    return ModelInput(sample, tuple(map(Path, images)), sizes, sizes, [], "resized_px")


@given(
    pictures=st.lists(st.lists(st.integers(28, 280), min_size=1, max_size=6), min_size=1, max_size=30),
    size=st.integers(1, 8),
    pixels=st.none() | st.integers(1, 200_000),
)
def test_every_input_is_in_one_batch_within_both_limits(
    pictures: list[list[int]], size: int, pixels: int | None
) -> None:
    inputs = [make_input(number, sides) for number, sides in enumerate(pictures)]
    batches = make_batches(inputs, size, pixels)
    assert sorted(item.sample.uid for batch in batches for item in batch) == sorted(x.sample.uid for x in inputs)
    assert batches == make_batches(inputs[::-1], size, pixels)
    for batch in batches:
        total = sum(width * height for item in batch for width, height in item.resized_sizes)
        assert len(batch) <= size
        assert pixels is None or total <= pixels or len(batch) == 1


def test_the_longest_come_first_and_every_batch_but_theirs_is_full_without_a_limit_of_pixels() -> None:
    inputs = [make_input(number, [28 * (number % 5 + 1)]) for number in range(23)]
    batches = make_batches(inputs, 5)
    assert [len(batch) for batch in batches] == [3, 5, 5, 5, 5]
    widths = [[item.resized_sizes[0][0] for item in batch] for batch in batches]
    assert all(min(longer) >= max(shorter) for longer, shorter in pairwise(widths))
