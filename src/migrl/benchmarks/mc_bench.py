"""MC-Bench: find all that a text means in a pair of images; an optional benchmark, whose data is got by hand.

Source      `mc-bench_v0.2_val.json` and `MC-Bench_images.zip` from the cloud drives that the repository
            XuYunqiu/MC-Bench names (arXiv 2410.12332); no script can fetch them reliably.
Version     0.2: 2,000 pairs in three text styles, 4,000 images, 3,203 boxes in groups 1 to 7, ids from 0.
Licence     none stated, so nothing of it is kept here. Pictures come from COCO, D3, WinoGAViL, Mantis-Eval and others,
            and from BLINK's val multi-view task: whoever tunes on MC-Bench has seen BLINK pictures.
Target      each detection names its image. Boxes may lie in one image, both or none; what counts as present is the
            boxes, not `positive_sample`, which disagrees by published counts (291 negatives, about 286 without box).
            A category is a group of things that belong together within one pair; its number means nothing beyond.
Scorer      `eval_mc_bench.py` on `MC-Bench_coco_format.json` (the same boxes without text styles). Instances: COCO AP
            at IoU 0.5, 100 detections a group and image; mean over groups weighted by their number of boxes, after
            the predicted groups of a pair are renamed to fit. Pairs: right if in both images something is found
            exactly where something is.
Different   Its renaming keeps the last pair only, merges groups that should swap, and fails where no second group
            exists. Ours holds for every pair, whatever number a predicted group bears: groups are matched one to one
            by total IoU (there: mean IoU, only in pairs with a second group and not with more predicted groups than
            true ones); the others take the lowest free numbers, best score first, so that no false find hides in a
            rare group. COCOeval counts whoever finds the box with id 0 as wrong; boxes are numbered from 1 here.
            Equal scores are ordered by image and box, not by place in the file. An empty list of detections has a
            score. Crowd boxes, which COCO lets nobody miss, carry no weight (none are known). Pairs come from
            `descriptions`, not from neighbouring ids. Numbers are percent, by style too, and have intervals.
Checked     AP against cases worked out by hand; keys and values against excerpts of a public copy of v0.2. The
            loader has not read the whole official file, and no published score was recomputed.
"""

import contextlib
import io
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]
from scipy.optimize import linear_sum_assignment

from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.fields import Record, read_json_file
from migrl.boxes import compute_iou
from migrl.errors import UserError
from migrl.stats import wilson_interval

STYLES = ("Referring", "Comparison", "Reasoning")
IOU_THRESHOLD = 0.5
MAX_DETECTIONS = 100  # of one group in one image; the best scores count
EDGE_PX = 1.0  # how far rounding to whole pixels may push a box past its image
RESAMPLES = 1000
DECIMALS = 4
_RECALLS = np.linspace(0, 1, 101)
_MAX_WHOLE = 2**31 - 1
_KEYS = {
    "descriptions": ("id", "images_id", "text", "positive_sample", "text_style"),
    "images": ("id", "text_id", "inter_img_id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "text_id", "category_id", "area", "bbox", "iscrowd"),
    "categories": ("id", "name"),
}
_DETECTION_KEYS = ("image_id", "category_id", "bbox", "score")
_TRUTH_REMEDY = "unpack mc-bench_v0.2_val.json again, or correct the record"
_DETECTION_REMEDY = "write the detections again, as a COCO result list in pixels of the original images"

XywhBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class McImage:
    """One image; `file_name` is relative to the folder of images."""

    image_id: int
    file_name: str
    width_px: int
    height_px: int


@dataclass(frozen=True)
class McBox:
    """A true or a predicted box of one group: left, top, width, height in px of the original image.

    Detections have a score, 0 to 1; only true boxes may be crowds.
    """

    image_id: int
    category_id: int
    box_xywh_px: XywhBox
    score: float = 1.0
    crowd: bool = False


@dataclass(frozen=True)
class McPair:
    """One question: a text, two images in reading order, and every true box in either; there may be none."""

    pair_id: int
    text: str
    style: str
    images: tuple[McImage, McImage]
    truths: tuple[McBox, ...]


@dataclass(frozen=True)
class McBench:
    """All pairs by id, and the numbers that groups may bear, ascending."""

    pairs: tuple[McPair, ...]
    category_ids: tuple[int, ...]


@dataclass(frozen=True)
class _Entry(Record):
    """One record of one list of a file."""

    place: str
    remedy: str

    def fail(self, key: str, reason: str) -> UserError:
        return UserError(f"{self.path}, {self.place}[{self.index}]: key {key!r}: {reason}; {self.remedy}")

    def number(self, key: str, high: float) -> float:
        value = self.data[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= high:
            raise self.fail(key, f"must be a number from 0 to {high:g}")
        return value

    def whole(self, key: str, low: int = 0, high: int = _MAX_WHOLE) -> int:
        value = self.data[key]
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.fail(key, f"must be a whole number from {low} to {high}")
        return value

    def known(self, key: str, what: str, ids: Container[int]) -> int:
        value = self.whole(key)
        if value not in ids:
            raise self.fail(key, f"{value} is the id of no {what}")
        return value

    def box(self, images: Mapping[int, McImage], category_ids: Container[int], **more: Any) -> McBox:
        """The box of the record, which must lie in its image, up to rounding."""
        image = images[self.known("image_id", "image", images)]
        category_id = self.known("category_id", "category", category_ids)
        try:
            x, y, width, height = (float(number) for number in self.numbers("bbox", self.data["bbox"]))
        except OverflowError as error:
            raise self.fail("bbox", "a number is too large") from error
        inside = x + width <= image.width_px + EDGE_PX and y + height <= image.height_px + EDGE_PX
        if width <= 0 or height <= 0 or not inside:
            place = f"image {image.image_id} of {image.width_px} x {image.height_px} px"
            raise self.fail("bbox", f"{[x, y, width, height]} (xywh) is empty or leaves {place}")
        return McBox(image.image_id, category_id, (x, y, width, height), **more)


def _open_entries(path: Path, place: str, rows: Any, keys: Sequence[str], remedy: str) -> Iterator[_Entry]:
    """The records of one list, with exactly their keys."""
    if not isinstance(rows, list):
        raise UserError(f"{path}: {place} must be a JSON list, not {type(rows).__name__}; {remedy}")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{path}, {place}[{index}]: must be an object, not {type(row).__name__}; {remedy}")
        entry = _Entry(path, index, row, place, remedy)
        for key in (*keys, *row):
            if key not in row or key not in keys:
                raise entry.fail(key, "unknown key" if key in row else "missing")
        yield entry


def _open_table(path: Path, place: str, data: Any) -> dict[int, _Entry]:
    """The records of one list of the truth file, by id."""
    if not isinstance(data, dict) or not data.get(place):
        raise UserError(f"{path}: key {place!r}: missing or empty; {_TRUTH_REMEDY}")
    table: dict[int, _Entry] = {}
    for entry in _open_entries(path, place, data[place], _KEYS[place], _TRUTH_REMEDY):
        if table.setdefault(entry.whole("id"), entry) is not entry:
            raise entry.fail("id", f"{entry.data['id']} comes twice")
    return table


def load_mc_bench(path: Path) -> McBench:
    """Read `mc-bench_v0.2_val.json`. Images are not opened.

    Raises:
        UserError: a broken file or record, naming file, list, index and key, with the remedy.
    """
    data = read_json_file(path)
    descriptions, rows, annotations, categories = (_open_table(path, place, data) for place in _KEYS)
    for entry in categories.values():
        entry.text("name")
    listed = {text_id: _read_image_ids(entry, rows) for text_id, entry in descriptions.items()}
    images: dict[int, McImage] = {}
    for image_id, entry in rows.items():
        if image_id not in listed[entry.known("text_id", "description", descriptions)]:
            raise entry.fail("text_id", f"description {entry.data['text_id']} does not list this image")
        name = entry.path_inside("file_name", entry.text("file_name"))
        images[image_id] = McImage(image_id, name, entry.whole("width", 1), entry.whole("height", 1))
    truths: dict[int, list[McBox]] = {text_id: [] for text_id in descriptions}
    for entry in annotations.values():
        entry.number("area", math.inf)  # only checked: a box has the area of its sides
        truth = entry.box(images, categories, crowd=entry.whole("iscrowd", 0, 1) == 1)
        if entry.whole("text_id") != rows[truth.image_id].data["text_id"]:
            raise entry.fail("text_id", f"not the description of image {truth.image_id}")
        truths[entry.data["text_id"]].append(truth)
    pairs = [_read_pair(entry, rows, images, truths[text_id]) for text_id, entry in sorted(descriptions.items())]
    return McBench(tuple(pairs), tuple(sorted(categories)))


def _read_image_ids(entry: _Entry, rows: Mapping[int, _Entry]) -> list[int]:
    ids = entry.data["images_id"]
    if not isinstance(ids, list) or len(ids) != 2 or any(type(image_id) is not int for image_id in ids):
        raise entry.fail("images_id", "must be the ids of two images")
    if ids[0] == ids[1] or not set(ids) <= rows.keys():
        raise entry.fail("images_id", f"{ids} are not two known images")
    return ids


def _read_pair(entry: _Entry, rows: Mapping[int, _Entry], images: Mapping[int, McImage], truths: list[McBox]) -> McPair:
    places = {}
    for image_id in entry.data["images_id"]:
        if rows[image_id].data["text_id"] != entry.data["id"]:
            raise entry.fail("images_id", f"image {image_id} belongs to another description")
        place = rows[image_id].whole("inter_img_id", 0, 1)
        if place in places:
            raise rows[image_id].fail("inter_img_id", f"both images of description {entry.data['id']} are {place}")
        places[place] = images[image_id]
    entry.flag("positive_sample")
    style = entry.text("text_style")
    if style not in STYLES:
        raise entry.fail("text_style", f"must be one of {', '.join(STYLES)}")
    return McPair(entry.data["id"], entry.text("text"), style, (places[0], places[1]), tuple(sorted(truths, key=_rank)))


def load_detections(path: Path, bench: McBench) -> tuple[McBox, ...]:
    """Read a COCO result list: `image_id`, `category_id`, `bbox` (xywh in px), `score` (0 to 1). It may be empty.

    Raises:
        UserError: a broken file or record, or an id that the benchmark does not know, naming file, index and key.
    """
    images = {image.image_id: image for pair in bench.pairs for image in pair.images}
    entries = _open_entries(path, "detections", read_json_file(path), _DETECTION_KEYS, _DETECTION_REMEDY)
    return tuple(entry.box(images, bench.category_ids, score=entry.number("score", 1.0)) for entry in entries)


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
    styles = {style: [pair for pair in bench.pairs if pair.style == style] for style in STYLES}
    scores = {
        style: _score_pairs(pairs, regrouped, bench.category_ids, resamples)
        for style, pairs in {"": bench.pairs, **styles}.items()
        if pairs
    }
    return {**scores.pop(""), "styles": scores}


def _rank(box: McBox) -> tuple[float, int, XywhBox, int]:
    return -box.score, box.image_id, box.box_xywh_px, box.category_id


def regroup_detections(pair: McPair, found: Mapping[int, Sequence[McBox]], category_ids: Sequence[int]) -> list[McBox]:
    """The detections of a pair, best first, each group renamed to the true group that it overlaps most.

    Args:
        found: detections by image id, in at most as many groups as there are `category_ids`.
    """
    detections = sorted((box for image in pair.images for box in found.get(image.image_id, ())), key=_rank)
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


def _find_corners(box: McBox) -> XywhBox:
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
        Low and high; nan where all pairs hang together, or where a resample holds no true box.
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
