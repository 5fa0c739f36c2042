"""How well a list of boxes fits the true ones: the reward, and the metric, where any number of boxes may be right.

With found boxes P, true boxes T, and the one-to-one match M of largest total IoU, in which boxes of different images
never meet:

    IoU of a list = sum of IoU(p, t) over (p, t) in M / max(|P|, |T|),    1 where P and T are both empty

Each surplus box and each missing one counts as a box of IoU 0, so nothing is gained by guessing. The value lies in
[0, 1], and for one found and one true box it is their plain IoU.
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from migrl.grounding.boxes import Box, compute_iou
from migrl.grounding.samples import BoxTarget


def match_boxes(found: Sequence[tuple[int, Box]], true: Sequence[BoxTarget]) -> list[float]:
    """The IoUs of the match, 0 to 1, as many as the shorter side has boxes.

    Args:
        found: the image of each box (1-based), and the box in unit frame.
    """
    if not found or not true:
        return []
    ious = np.array(
        [[compute_iou(box, one.box_unit) if image == one.image else 0.0 for one in true] for image, box in found]
    )
    return [float(iou) for iou in ious[linear_sum_assignment(ious, maximize=True)]]


def measure_match(ious: Sequence[float], found: int, true: int) -> tuple[float, float]:
    """The IoU of a list, and that of its weakest box: 0 where one is surplus or missing, 1 where there is none at all.

    Args:
        ious: of the match.
        found, true: how many boxes there are on either side.
    """
    most = max(found, true)
    if not most:
        return 1.0, 1.0
    return min(sum(ious) / most, 1.0), min(ious) if found == true else 0.0
