"""Ref-L4: one object of one picture by a long description; one of the paper's seven out-of-domain sets (assumed).

Source      Hub dataset JierunChen/Ref-L4 (arXiv 2406.16866): `ref-l4-val.parquet`, `ref-l4-test.parquet` and
            `images.tar.gz`, which the user unpacks. No commit is known.
Version     one. 45,341 descriptions, val and test together, which the authors' "all" means.
Licence     CC BY-NC 4.0; pictures come from COCO 2014 and Objects365, and keep their terms.
Target      the only picture. Boxes are xywh in its pixels, so loading reads its size; a missing picture is an error.
Scorer      `ref_l4/evaluation.py` takes boxes, not text: accuracy over descriptions at IoU > 0.5 (also 0.75, 0.9, the
            mean over 0.5 to 0.95, by size, and the mean over 365 categories).
Different   IoU of exactly 0.5 is a hit here. Only the first of its accuracies: mean over descriptions, so one task. No
            official rule for text exists, so there is no official score; `compat` reads a box without tags or image.
            A true box that is empty or leaves its picture is counted as a defect and stays in the denominator.
Checked     the columns `id`, `file_name` and `bbox` against the authors' loader and evaluator, `caption` against their
            description alone; no real file was at hand.
"""

from fractions import Fraction
from pathlib import Path

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item
from migrl.benchmarks.box_parsers import read_box_only, read_strict
from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.fields import open_record, read_json_list
from migrl.benchmarks.parquet import list_parquet, read_rows
from migrl.benchmarks.readings import ExactBox
from migrl.grounding.images import MissingPictures, find_missing, read_image_size
from migrl.grounding.samples import BoxTarget, Defect, Sample

KEYS = ("id", "file_name", "caption", "bbox")
_QUESTION = "Give the bounding box of what this sentence describes in the image: {}"


def load_ref_l4(annotations: Path, images: Path, name: str = "ref_l4") -> Annotations:
    """Every description of a parquet file, or of all `ref-l4-*.parquet` below a folder; uids are `<name>:<place>`.

    A JSON list of the same records is read as well.

    Raises:
        UserError: a broken file or record (file, place and key are named), or a missing or corrupt picture.
    """
    if annotations.suffix == ".json":
        rows = read_json_list(annotations)
    else:
        columns: dict[str, str | None] = dict.fromkeys(KEYS)
        rows = [row for path in list_parquet(annotations, "ref-l4-*.parquet") for row in read_rows(path, columns)]
    records = [open_record(annotations, index, row, KEYS, optional=None) for index, row in enumerate(rows)]
    names = [record.path_inside("file_name", record.text("file_name")) for record in records]
    if missing := find_missing(images, names):
        raise MissingPictures(f"{annotations}, key 'file_name'", missing)
    sizes = {path: read_image_size(images / path) for path in dict.fromkeys(names)}
    items: list[Item] = []
    defects: dict[str, list[str]] = {}
    for record, path, cluster in zip(records, names, name_clusters([(path,) for path in names]), strict=True):
        uid, (width, height) = f"{name}:{record.index}", sizes[path]
        x, y, w, h = (Fraction(str(v)) for v in record.numbers("bbox", record.data["bbox"]))
        box: ExactBox = (x / width, y / height, (x + w) / width, (y + h) / height)
        defect: Defect = "out_of_range" if max(box) > 1 else "" if w and h else "inverted"
        if defect:
            defects.setdefault(defect, []).append(uid)
        x1, y1, x2, y2 = (float(v) for v in box)
        target = BoxTarget(1, (x1, y1, x2, y2), defect=defect)
        question = _QUESTION.format(record.text("caption"))
        items.append(Item(Sample(uid, name, name, (path,), question, target, cluster), exact_box_unit=box))
    return Annotations("released", tuple(items), {kind: tuple(uids) for kind, uids in sorted(defects.items())})


REF_L4 = Benchmark(
    "ref_l4",
    load_ref_l4,
    {"box_only": read_box_only, "strict": read_strict},
    {"released": 45_341},
    compat={"released": "box_only"},
)
