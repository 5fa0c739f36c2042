"""From a completion to an exact IoU by any box rule: the one way, for rescoring and for the official score of a run."""

from collections.abc import Sequence
from fractions import Fraction

from migrl.benchmarks.readings import BoxParser, BoxQuestion, BoxReading, ExactBox
from migrl.grounding.boxes import Frame, Size, compute_iou, frame_size
from migrl.grounding.samples import BoxTarget


def read_and_measure(
    completion: str,
    parse: BoxParser,
    target: BoxTarget,
    exact_box_unit: ExactBox,
    *,
    frame: Frame,
    sizes: Sequence[tuple[Size, Size]],
) -> tuple[BoxReading, Fraction]:
    """What a rule reads, and its IoU with the true box; 0 on an image known to be another one.

    Args:
        sizes: (original, resized) size of each image; any sizes do for frames that do not depend on them.
    """
    limits = [frame_size(frame, original_size=original, resized_size=resized) for original, resized in sizes]
    reading = parse(completion, BoxQuestion(frame, target.image, limits))
    if reading.box is None:
        return reading, Fraction(0)
    # A rule that reads no image means the true one: its numbers are fractions or pixels of that picture.
    image = reading.image or target.image
    if image != target.image and target.image_trusted:
        return reading, Fraction(0)
    original, resized = sizes[image - 1]
    width, height = (Fraction(v) for v in frame_size(reading.frame, original_size=original, resized_size=resized))
    x1, y1, x2, y2 = reading.box
    return reading, compute_iou((x1 / width, y1 / height, x2 / width, y2 / height), exact_box_unit)
