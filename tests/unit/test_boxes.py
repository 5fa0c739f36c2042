"""Boxes: frames convert without loss, Qwen's resizing keeps its promises, one honest IoU."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrl.boxes import FRAMES, Box, BoxError, check_box, compute_iou, convert_box, smart_resize

SIDES = st.integers(28, 4000)


@st.composite
def unit_boxes(draw: st.DrawFn) -> Box:
    """Boxes of at least a thousandth of the image a side."""
    x1, y1 = draw(st.floats(0, 0.99)), draw(st.floats(0, 0.99))
    return (x1, y1, draw(st.floats(x1 + 0.001, 1)), draw(st.floats(y1 + 0.001, 1)))


@given(unit_boxes(), SIDES, SIDES, st.integers(4 * 28 * 28, 10**6), st.sampled_from(FRAMES), st.sampled_from(FRAMES))
def test_a_box_survives_a_round_trip_between_any_two_frames(box, width, height, max_pixels, source, target):
    resized_height, resized_width = smart_resize(height, width, factor=28, min_pixels=56 * 56, max_pixels=max_pixels)
    sizes = {"original_size": (width, height), "resized_size": (resized_width, resized_height)}
    start = convert_box(box, "unit", source, **sizes)
    there_and_back = convert_box(convert_box(start, source, target, **sizes), target, source, **sizes)
    assert there_and_back == pytest.approx(start, rel=1e-9, abs=1e-9)


def test_each_frame_says_where_the_same_box_is():
    sizes = {"original_size": (200, 100), "resized_size": (140, 84)}
    box_unit = (0.1, 0.25, 0.5, 1.0)
    assert convert_box(box_unit, "unit", "permille", **sizes) == pytest.approx((100, 250, 500, 1000))
    assert convert_box(box_unit, "unit", "original_px", **sizes) == pytest.approx((20, 25, 100, 100))
    assert convert_box(box_unit, "unit", "resized_px", **sizes) == pytest.approx((14, 21, 70, 84))


@given(st.integers(1, 4000), st.floats(0.25, 4), st.integers(16_000, 10**6))
def test_resized_sides_are_multiples_of_the_factor_and_the_area_is_within_the_limits(height, ratio, max_pixels):
    width = max(1, round(height * ratio))
    resized = smart_resize(height, width, factor=28, min_pixels=56 * 56, max_pixels=max_pixels)
    assert all(side % 28 == 0 and side >= 28 for side in resized)
    assert 56 * 56 <= math.prod(resized) <= max_pixels


def test_a_long_strip_keeps_one_factor_a_side_even_above_the_limit():
    # As in transformers: floor(28 / 2.96) would be no factor at all, so the short side stays.
    assert smart_resize(28, 5000, factor=28, min_pixels=56 * 56, max_pixels=16_000) == (28, 1680)


# (height, width, min_pixels, max_pixels) -> (height, width), computed by hand from Qwen's rule.
@pytest.mark.parametrize(
    ("given_size", "limits", "expected"),
    [
        ((100, 100), (3136, 10**6), (112, 112)),  # nearest multiple: 3.57 -> 4 factors
        ((126, 70), (3136, 10**6), (112, 56)),  # 4.5 and 2.5 factors: halves go to the even one
        ((1000, 1000), (3136, 16_000), (112, 112)),  # too large: floor(126.49 / 28) = 4 factors
        ((20, 40), (3136, 16_000), (56, 84)),  # too small: ceil(39.6 / 28) = 2, ceil(79.2 / 28) = 3 factors
    ],
)
def test_known_sizes_resize_as_qwen_does(given_size, limits, expected):
    assert smart_resize(*given_size, factor=28, min_pixels=limits[0], max_pixels=limits[1]) == expected


def test_a_strip_longer_than_200_to_1_and_an_empty_image_are_refused():
    for height, width in ((10, 2001), (2001, 10), (0, 5)):
        with pytest.raises(ValueError, match=f"{width}x{height}"):
            smart_resize(height, width, factor=28, min_pixels=3136, max_pixels=16_000)


@given(unit_boxes(), unit_boxes())
def test_iou_is_symmetric_bounded_and_one_only_with_itself(a, b):
    assert compute_iou(a, b) == compute_iou(b, a)
    assert 0 <= compute_iou(a, b) <= 1 + 1e-9
    assert compute_iou(a, a) == pytest.approx(1)


def test_iou_counts_areas_without_an_extra_pixel():
    assert compute_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert compute_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0  # touching is not overlapping
    assert compute_iou((1, 1, 1, 1), (0, 0, 2, 2)) == 0


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [3, 0, 1, 1],
        [0, 0, 0, 1],
        [0, 0, 1, math.nan],
        [0, 0, math.inf, 1],
        [0, 0, 1, True],
    ],
)
def test_what_is_not_a_box_is_refused(numbers):
    with pytest.raises(BoxError):
        check_box(numbers)
