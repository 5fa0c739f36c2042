"""Boxes and their frames: the one place where coordinates are converted, and the one IoU.

A box is `(x1, y1, x2, y2)`. What the numbers mean is its frame:

    unit         fractions of the original image, 0 to 1
    permille     thousandths of the original image, 0 to 1000 (Qwen2-VL, Qwen3-VL, Migician, UniVG-R1)
    original_px  pixels of the original image
    resized_px   pixels of the image after the processor's resizing, which is what Qwen2.5-VL reads and writes

Every box in this project carries its frame in its name (`box_unit`) or type; sizes are always (width, height).
"""

import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, TypeVar, get_args

Frame = Literal["unit", "permille", "original_px", "resized_px"]
FRAMES: tuple[Frame, ...] = get_args(Frame)
Box = tuple[float, float, float, float]
N = TypeVar("N", float, Fraction)
Size = tuple[int, int]

PIXEL_FACTOR = 28  # side in px of a token, where no model says otherwise: a patch of 14 px, merged two by two


class BoxError(ValueError):
    """A box that is not a box: wrong length, not finite, inverted or empty."""


def check_box(numbers: Sequence[float]) -> Box:
    """Return `numbers` as a box, in whatever frame they are in.

    Raises:
        BoxError: not four finite numbers with x1 < x2 and y1 < y2.
    """
    x1, y1, x2, y2 = check_numbers(numbers)
    if not (x1 < x2 and y1 < y2):
        raise BoxError(f"box {[x1, y1, x2, y2]} is empty or inverted: x1 < x2 and y1 < y2 are required")
    return (x1, y1, x2, y2)


def check_numbers(numbers: Sequence[float]) -> Box:
    """Return four finite numbers as they stand, in order or not.

    Raises:
        BoxError: another count, or one that is no finite number.
    """
    if len(numbers) != 4:
        raise BoxError(f"a box has four numbers, this one has {len(numbers)}")
    if any(isinstance(v, bool) or not isinstance(v, int | float) or not abs(v) <= sys.float_info.max for v in numbers):
        raise BoxError(f"a box has four finite numbers, not {list(numbers)}")
    x1, y1, x2, y2 = (float(v) for v in numbers)
    return (x1, y1, x2, y2)


def compute_iou(a: tuple[N, N, N, N], b: tuple[N, N, N, N]) -> N:
    """Intersection over union of two boxes in the same frame, with continuous areas (no +1).

    The same function is the training reward and the evaluation metric; on fractions it is exact. Empty and
    inverted boxes have IoU 0.
    """
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return type(width)(0)
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union


def frame_size(frame: Frame, *, original_size: Size, resized_size: Size) -> tuple[float, float]:
    """Width and height of the whole image in `frame`."""
    match frame:
        case "unit":
            return (1.0, 1.0)
        case "permille":
            return (1000.0, 1000.0)
        case "original_px":
            return original_size
        case "resized_px":
            return resized_size
    raise ValueError(f"unknown frame {frame!r}; the frames are {', '.join(FRAMES)}")


def convert_box(box: Box, source: Frame, target: Frame, *, original_size: Size, resized_size: Size) -> Box:
    """Express a box of `source` frame in `target` frame. Both sizes are (width, height) of the box's own image."""
    source_width, source_height = frame_size(source, original_size=original_size, resized_size=resized_size)
    target_width, target_height = frame_size(target, original_size=original_size, resized_size=resized_size)
    scale_x, scale_y = target_width / source_width, target_height / source_height
    return (box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y)
