"""Answers with any number of boxes, scored as MC-Bench scores detections: AP50 and pair accuracy.

An answer is one list without confidences, so each of its boxes has the same, CONFIDENCE. AP50 then ranks nothing: it
degenerates to about precision times recall at the one working point that the list is, its ties ordered by image and
place. It says how good the lists are, and must not be set beside the AP of detectors whose boxes bear scores.

A list names no groups, so all boxes of an answer are one group, which is matched with the true group that it overlaps
most; the others of that question are missed. An unreadable answer finds nothing, which is right where there is nothing.
"""

from collections.abc import Sequence
from typing import Any

from migrl.benchmarks.mc_bench import McBench, McBox, McImage, McPair, XywhBox
from migrl.grounding.boxes import Box, convert_box
from migrl.grounding.samples import BoxesTarget
from migrl.scoring.rows import EvaluationRow

CONFIDENCE = 1.0
MEANING = (
    "An answer is one list of boxes of equal confidence, so AP50 has nothing to rank: it is about precision times "
    "recall, and must not be set beside the AP of detectors whose boxes bear scores."
)


def score_detections(rows: Sequence[EvaluationRow]) -> dict[str, Any]:
    """AP50 and pair accuracy of lists, in percent, with intervals; the same by task under `styles`.

    A sample that several training seeds answered comes several times.
    """
    from migrl.benchmarks.mc_bench_scores import score_mc_bench  # loads pycocotools, which only lists need

    pairs, found = [], []
    first = 0
    for number, row in enumerate(rows):
        pairs.append(_make_pair(row, number, first))
        for box in row.score.found or ():
            found.append(McBox(first + box.image, 1, _to_xywh(box.boxes["original_px"]), CONFIDENCE))
        first += len(row.sample.images)
    groups = {box.category_id for pair in pairs for box in pair.truths} | {1}
    scores = score_mc_bench(McBench(tuple(pairs), tuple(sorted(groups))), found)
    return {"rule": "coco_ap50", "confidence": CONFIDENCE, **scores}


def _make_pair(row: EvaluationRow, number: int, first: int) -> McPair:
    """A row's question as a pair, of as many images as it has; the first of them has the id after `first`."""
    sample = row.sample
    assert isinstance(sample.target, BoxesTarget)
    images = [
        McImage(first + place, name, *size)
        for place, (name, size) in enumerate(zip(sample.images, sample.sizes, strict=True), 1)
    ]
    groups = sample.target.groups or [1] * len(sample.target.boxes)
    truths = []
    for box, group in zip(sample.target.boxes, groups, strict=True):
        size = sample.sizes[box.image - 1]
        box_px = convert_box(box.box_unit, "unit", "original_px", original_size=size, resized_size=size)
        truths.append(McBox(first + box.image, group, _to_xywh(box_px)))
    return McPair(number, sample.question, sample.task, tuple(images), tuple(truths))


def _to_xywh(box_px: Box) -> XywhBox:
    left, top, right, bottom = box_px
    return left, top, right - left, bottom - top
