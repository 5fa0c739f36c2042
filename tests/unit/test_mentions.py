"""Which images a text names; coordinates, sizes and counts of images are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrl.grounding.mentions import find_images, find_mentions


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("Images 1 and 2 show it", {1, 2}),
        ("images 1, 2 and 4", {1, 2, 4}),
        ("Images 1-3", {1, 2, 3}),
        ("frames 2 to 4", {2, 3, 4}),
        ("Picture 2, photo 3, frame 4, img 5", {2, 3, 4, 5}),
        ("image two and picture seven", {2, 7}),
        ("Pictures one and three", {1, 3}),
        ("image #2, Image-3, image number 4, image\n5", {2, 3, 4, 5}),
        ("the 2nd photo and the third frames", {2, 3}),
        ("the first and third images", {1, 3}),
    ],
)
def test_images_are_named_by_numbers_words_ordinals_and_ranges(text: str, images: set[int]) -> None:
    assert find_images(text) == images


@pytest.mark.parametrize(
    "text",
    ["2 images", "image 640x480", "an image 640 × 480", "image 90%", "a picture 300 px wide", "Image 2.5"]
    + [
        "in this image two dogs",
        "in the image one can see",
        "the first dog",
        "imagine 2",
        '{"image": 2}',
        "image[0, 1]",
    ],
)
def test_what_counts_or_measures_names_no_image(text: str) -> None:
    assert find_images(text) == set()


def test_the_last_image_needs_to_know_how_many_there_are() -> None:
    assert find_images("the last image, not the second to last image") == set()
    assert find_images("the last image, not the second to last image", count=5) == {5, 4}


@given(st.text(alphabet="images 0123٣9thndfstlatwo-,&#:=\"'([.)]", max_size=300))
def test_no_text_makes_the_reader_raise_and_mentions_stand_in_order(text: str) -> None:
    spans = [(mention.start, mention.end) for mention in find_mentions(text.lower(), count=3)]
    assert all(start < end for start, end in spans)
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))
