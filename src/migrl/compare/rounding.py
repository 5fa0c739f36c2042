"""What the IoU on a peer's line may be, given that the line holds its box and its IoU as rounded decimals."""

from migrl.grounding.boxes import Box
from migrl.scoring.scores import BOX_DECIMALS
from migrl.scoring.tables import IOU_DECIMALS

BOX_ROUNDING = 0.5 * 10**-BOX_DECIMALS
"""How far a number of a line's box may be from the one that was scored, in the line's frame."""

IOU_ROUNDING = 0.5 * 10**-IOU_DECIMALS


def bound_iou(box: Box, target: Box, slack: tuple[float, float]) -> tuple[float, float]:
    """The least and the greatest IoU with `target` that a box can have whose corners are within `slack` of `box`.

    The bounds are safe, not tight: overlap and area are bounded each for itself.

    Args:
        box, target: in the same frame.
        slack: how far each x, and each y, may be off, in that frame.
    """
    across, down = slack
    inner = (box[0] + across, box[1] + down, box[2] - across, box[3] - down)
    outer = (box[0] - across, box[1] - down, box[2] + across, box[3] + down)
    least, greatest = _overlap(inner, target), _overlap(outer, target)
    if greatest == 0:
        return 0.0, 0.0
    # The union is the sum of both areas without the overlap, so IoU grows with the overlap and falls with the area.
    true_area = _overlap(target, target)
    low = least / (_overlap(outer, outer) + true_area - least)
    smallest_union = max(_overlap(inner, inner) + true_area - greatest, greatest)
    return low, min(1.0, greatest / smallest_union)


def _overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0
