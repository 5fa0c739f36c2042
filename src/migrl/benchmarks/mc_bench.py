"""MC-Bench: find all that a text means in a pair of images; an optional benchmark, whose data is got by hand.

A recipe that names it in `source.benchmarks` asks for a list of boxes a question (`load_samples`), and scores it by our
rule and by this scorer (scoring/detections.py says what AP50 means without confidences). `migrl score mc_bench` scores
anyone's result list.

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

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item
from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.fields import Record, read_json_file
from migrl.errors import UserError
from migrl.grounding.samples import BoxesTarget, BoxTarget, Sample

STYLES = ("Referring", "Comparison", "Reasoning")
EDGE_PX = 1.0  # how far rounding to whole pixels may push a box past its image
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


def rank_box(box: McBox) -> tuple[float, int, XywhBox, int]:
    """Key that sorts boxes by score, best first, and equal scores by place."""
    return -box.score, box.image_id, box.box_xywh_px, box.category_id


@dataclass(frozen=True)
class McPair:
    """One question: a text, its images in reading order (MC-Bench's are two), and every true box; there may be none."""

    pair_id: int
    text: str
    style: str
    images: tuple[McImage, ...]
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
    return McPair(
        entry.data["id"], entry.text("text"), style, (places[0], places[1]), tuple(sorted(truths, key=rank_box))
    )


_QUESTION = "Locate everything that this text means in the two images. There may be none: {}"


def load_samples(annotations: Path, images: Path, name: str) -> Annotations:
    """Every pair as a sample that asks for a list; its task is the text style. uids are `<name>:<description's id>`.

    Groups stay beside the boxes. A crowd, which COCO lets nobody miss, is no true box: its samples are counted.

    Raises:
        UserError: as `load_mc_bench`.
    """
    pairs = load_mc_bench(annotations).pairs
    clusters = name_clusters([tuple(image.file_name for image in pair.images) for pair in pairs])
    items, crowds = [], []
    for pair, cluster in zip(pairs, clusters, strict=True):
        uid = f"{name}:{pair.pair_id}"
        truths = [truth for truth in pair.truths if not truth.crowd]
        target = BoxesTarget(
            tuple(_to_target(truth, pair.images) for truth in truths), tuple(truth.category_id for truth in truths)
        )
        paths = tuple(image.file_name for image in pair.images)
        sizes = tuple((image.width_px, image.height_px) for image in pair.images)
        question = _QUESTION.format(pair.text)
        items.append(Item(Sample(uid, name, pair.style, paths, question, target, cluster, sizes=sizes)))
        if len(truths) < len(pair.truths):
            crowds.append(uid)
    return Annotations("0.2", tuple(items), {"crowd": tuple(crowds)} if crowds else {})


def _to_target(truth: McBox, images: Sequence[McImage]) -> BoxTarget:
    """A true box in unit frame; rounding past the edge is cut."""
    number, image = next((n, one) for n, one in enumerate(images, 1) if one.image_id == truth.image_id)
    x, y, width, height = truth.box_xywh_px
    right, bottom = min((x + width) / image.width_px, 1.0), min((y + height) / image.height_px, 1.0)
    return BoxTarget(number, (x / image.width_px, y / image.height_px, right, bottom))


def load_detections(path: Path, bench: McBench) -> tuple[McBox, ...]:
    """Read a COCO result list: `image_id`, `category_id`, `bbox` (xywh in px), `score` (0 to 1). It may be empty.

    Raises:
        UserError: a broken file or record, or an id that the benchmark does not know, naming file, index and key.
    """
    images = {image.image_id: image for pair in bench.pairs for image in pair.images}
    entries = _open_entries(path, "detections", read_json_file(path), _DETECTION_KEYS, _DETECTION_REMEDY)
    return tuple(entry.box(images, bench.category_ids, score=entry.number("score", 1.0)) for entry in entries)


MC_BENCH = Benchmark("mc_bench", load_samples, {}, {"0.2": 2000})
"""Its detections are scored by mc_bench_scores.py, not by a parser."""
