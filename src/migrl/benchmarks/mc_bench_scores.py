"""MC-Bench's two metrics; the header of `mc_bench.py` says how they differ from the official scorer.

Groups of detections are renamed to the true ones, COCO's evaluation matches boxes, and both metrics are
taken from its matches.
"""

import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.mc_bench import STYLES, McBench, McBox, McPair, rank_box
from migrl.grounding.boxes import Box, compute_iou
from migrl.statistics.intervals import wilson_interval

IOU_THRESHOLD = 0.5
MAX_DETECTIONS = 100  # of one group in one image; the best scores count
RESAMPLES = 1000
DECIMALS = 4
_RECALLS = np.linspace(0, 1, 101)


def score_mc_bench(bench: McBench, detections: Sequence[McBox], *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Both metrics in percent, over all pairs and by text style, whatever the order of pairs and detections.

    Returns:
        `ap50` with `ap50_low` and `ap50_high` (bootstrap), `pair_accuracy` with `low` and `high` (Wilson; it takes
        pairs as independent, though some share a picture), `n` pairs; the same under `styles` for each style that
        comes. None: `ap50` without a true box, its interval where `bootstrap_ap50` has none.
    """
    found: dict[int, list[McBox]] = {}
    for detection in detections:
        found.setdefault(detection.image_id, []).append(detection)
    regrouped = {pair.pair_id: regroup_detections(pair, found, bench.category_ids) for pair in bench.pairs}
    named = dict.fromkeys((*STYLES, *(pair.style for pair in bench.pairs)))
    styles = {style: [pair for pair in bench.pairs if pair.style == style] for style in named}
    scores = {
        style: _score_pairs(pairs, regrouped, bench.category_ids, resamples)
        for style, pairs in {"": bench.pairs, **styles}.items()
        if pairs
    }
    return {**scores.pop(""), "styles": scores}


def regroup_detections(pair: McPair, found: Mapping[int, Sequence[McBox]], category_ids: Sequence[int]) -> list[McBox]:
    """The detections of a pair, best first, each group renamed to the true group that it overlaps most.

    Args:
        found: detections by image id, in at most as many groups as there are `category_ids`.
    """
    detections = sorted((box for image in pair.images for box in found.get(image.image_id, ())), key=rank_box)
    groups = list(dict.fromkeys(detection.category_id for detection in detections))
    true_groups = sorted({truth.category_id for truth in pair.truths})
    names: dict[int, int] = {}
    if groups and true_groups:
        overlaps = [[_sum_ious(pair, detections, group, true) for true in true_groups] for group in groups]
        chosen = linear_sum_assignment(overlaps, maximize=True)
        names = {groups[row]: true_groups[column] for row, column in zip(*chosen, strict=True)}
    free = [category_id for category_id in category_ids if category_id not in names.values()]
    names |= zip([group for group in groups if group not in names], free, strict=False)
    return [replace(detection, category_id=names[detection.category_id]) for detection in detections]


def _sum_ious(pair: McPair, detections: Sequence[McBox], group: int, true_group: int) -> float:
    """Total IoU of the best one-to-one match of a predicted and a true group, over both images."""
    total = 0.0
    for image in pair.images:
        rows = [_find_corners(box) for box in detections if (box.image_id, box.category_id) == (image.image_id, group)]
        columns = [_find_corners(b) for b in pair.truths if (b.image_id, b.category_id) == (image.image_id, true_group)]
        if rows and columns:
            ious = np.array([[compute_iou(row, column) for column in columns] for row in rows[:MAX_DETECTIONS]])
            total += float(ious[linear_sum_assignment(ious, maximize=True)].sum())
    return total


def _find_corners(box: McBox) -> Box:
    x, y, width, height = box.box_xywh_px
    return x, y, x + width, y + height


def _score_pairs(
    pairs: Sequence[McPair], found: Mapping[int, Sequence[McBox]], category_ids: Sequence[int], resamples: int
) -> dict[str, Any]:
    evaluation = run_coco(pairs, [box for pair in pairs for box in found[pair.pair_id]], category_ids)
    ap50_low, ap50_high = bootstrap_ap50(evaluation, pairs, resamples)
    # A pair is right if something is found in exactly those images in which something is.
    hits = sum({box.image_id for box in p.truths} == {box.image_id for box in found[p.pair_id]} for p in pairs)
    low, high = wilson_interval(hits, len(pairs))
    shares = {"ap50": average_ap50(evaluation), "ap50_low": ap50_low, "ap50_high": ap50_high}
    shares |= {"pair_accuracy": hits / len(pairs), "low": low, "high": high}
    percents = {key: None if math.isnan(share) else round(100 * share, DECIMALS) for key, share in shares.items()}
    return {**percents, "n": len(pairs)}


def run_coco(pairs: Sequence[McPair], found: Sequence[McBox], category_ids: Sequence[int]) -> COCOeval:
    """COCO's evaluation at IoU 0.5 of regrouped detections. Its chatter on stdout is dropped; errors are raised."""
    with contextlib.redirect_stdout(io.StringIO()):
        indexes = COCO(), COCO()
        for index, boxes in zip(indexes, ([box for pair in pairs for box in pair.truths], found), strict=True):
            index.dataset = {
                "images": [{"id": image.image_id} for pair in pairs for image in pair.images],
                "categories": [{"id": category_id} for category_id in category_ids],
                "annotations": [
                    {
                        "id": number,  # from 1: COCOeval reads a match to box 0 as none
                        "image_id": box.image_id,
                        "category_id": box.category_id,
                        "bbox": list(box.box_xywh_px),
                        "area": box.box_xywh_px[2] * box.box_xywh_px[3],
                        "score": box.score,
                        "iscrowd": int(box.crowd),
                    }
                    for number, box in enumerate(boxes, 1)
                ],
            }
            index.createIndex()
        evaluation = COCOeval(*indexes, "bbox")
        evaluation.params.iouThrs = np.array([IOU_THRESHOLD])
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, math.inf]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def average_ap50(evaluation: COCOeval) -> float:
    """AP at IoU 0.5, 0 to 1: mean over groups, weighted by their true boxes; nan where there are none."""
    truths = [sum(_count_truths(entry) for entry in entries) for entries in _split_groups(evaluation)]
    group_aps = evaluation.eval["precision"][0, :, :, 0, 0].mean(axis=0)
    return float(np.average(group_aps, weights=truths)) if any(truths) else math.nan


def bootstrap_ap50(evaluation: COCOeval, pairs: Sequence[McPair], resamples: int, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of `average_ap50`, 0 to 1; whole sets of pairs that share a picture are drawn.

    COCO matches boxes image by image, so a resample only counts the matches of an image another number of times.
    2,000 pairs with 6,000 detections take less than a second. Interpolated precision makes it lean upwards a little.

    Returns:
        Low and high; nan where all pairs are one cluster, or where a resample holds no true box.
    """
    names = name_clusters([tuple(image.file_name for image in pair.images) for pair in pairs])
    units = {name: number for number, name in enumerate(sorted(set(names)))}
    unit_of = {image.image_id: units[name] for pair, name in zip(pairs, names, strict=True) for image in pair.images}
    groups = [_rank_matches(entries, unit_of) for entries in _split_groups(evaluation)]
    rng = np.random.default_rng(seed)
    draws = []
    for times in rng.multinomial(len(units), np.full(len(units), 1 / len(units)), size=resamples):
        counts = [int(times @ truths) for _, _, truths in groups]
        if len(units) < 2 or not any(counts):
            return math.nan, math.nan
        aps = [weigh_precision(hits, times[of], n) for (hits, of, _), n in zip(groups, counts, strict=True)]
        draws.append(np.average(aps, weights=counts))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _split_groups(evaluation: COCOeval) -> Iterator[list[dict[str, Any]]]:
    """COCO's matches, one entry an image that holds something, group by group."""
    size = len(evaluation.params.imgIds)
    for start in range(0, len(evaluation.evalImgs), size):
        yield [entry for entry in evaluation.evalImgs[start : start + size] if entry is not None]


def _count_truths(entry: Mapping[str, Any]) -> int:
    return int(np.count_nonzero(entry["gtIgnore"] == 0))


def _rank_matches(entries: Sequence[Mapping[str, Any]], unit_of: Mapping[int, int]) -> tuple[npt.NDArray[Any], ...]:
    """Of one group: whether each detection hits and its unit, best score first; the number of true boxes by unit."""
    truths = np.zeros(max(unit_of.values()) + 1, dtype=np.int64)
    matches = []
    for entry in entries:
        unit = unit_of[entry["image_id"]]
        truths[unit] += _count_truths(entry)
        columns = zip(entry["dtScores"], entry["dtMatches"][0] > 0, entry["dtIgnore"][0], strict=True)
        matches += [(score, hit, unit) for score, hit, ignored in columns if not ignored]
    matches.sort(key=lambda match: -match[0])
    return np.array([m[1] for m in matches], bool), np.array([m[2] for m in matches], np.int64), truths


def weigh_precision(hits: npt.NDArray[Any], times: npt.NDArray[Any], truths: int) -> float:
    """COCO's AP, 0 to 1, of ranked detections that each come `times` often, against so many true boxes."""
    if not truths or not times.any():
        return 0.0
    right, seen = np.cumsum(times * hits), np.cumsum(times)
    precision = np.maximum.accumulate((right / np.maximum(seen, 1))[::-1])[::-1]
    reached = np.searchsorted(right / truths, _RECALLS)
    return float(precision[reached[reached < len(precision)]].sum() / len(_RECALLS))
