"""Boxes: frames convert without loss, one honest IoU."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrl.grounding.boxes import FRAMES, Box, BoxError, check_box, compute_iou, convert_box

SIZES = st.tuples(st.integers(1, 4000), st.integers(1, 4000))


@st.composite
def unit_boxes(draw: st.DrawFn) -> Box:
    """Boxes of at least a thousandth of the image a side."""
    x1, y1 = draw(st.floats(0, 0.99)), draw(st.floats(0, 0.99))
    return (x1, y1, draw(st.floats(x1 + 0.001, 1)), draw(st.floats(y1 + 0.001, 1)))


@given(unit_boxes(), SIZES, SIZES, st.sampled_from(FRAMES), st.sampled_from(FRAMES))
def test_a_box_survives_a_round_trip_between_any_two_frames(box, original, resized, source, target):
    sizes = {"original_size": original, "resized_size": resized}
    start = convert_box(box, "unit", source, **sizes)
    there_and_back = convert_box(convert_box(start, source, target, **sizes), target, source, **sizes)
    assert there_and_back == pytest.approx(start, rel=1e-9, abs=1e-9)


def test_each_frame_says_where_the_same_box_is():
    sizes = {"original_size": (200, 100), "resized_size": (140, 84)}
    box_unit = (0.1, 0.25, 0.5, 1.0)
    assert convert_box(box_unit, "unit", "permille", **sizes) == pytest.approx((100, 250, 500, 1000))
    assert convert_box(box_unit, "unit", "original_px", **sizes) == pytest.approx((20, 25, 100, 100))
    assert convert_box(box_unit, "unit", "resized_px", **sizes) == pytest.approx((14, 21, 70, 84))


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
