"""Reasoning grounding: LISA val and test, LLMSeg, ReVOS, ReasonVOS as boxes; the paper's out-of-domain sets (assumed).

Source      Hub dataset GD-ML/UniVG-R1-data, `zero_shot_evaluation/*.json`; pictures: SuleBai/UniVG-R1-zeroshot,
            `zero-shot.zip`. How boxes came from the masks of the four projects is not published (LISA: the first
            polygon of a picture); the released boxes are used as they are.
Version     one. Published lengths: LISA val 200, LISA test 779, ReasonVOS 458; the others are recorded at first fetch.
Licence     MIT (boxes); pictures keep the terms of their sources, ReVOS CC-BY-NC-SA-4.0, ReasonVOS non-commercial.
Target      the only image (LISA, LLMSeg), the third frame (ReVOS, ReasonVOS). Boxes are pixels of that image, so
            loading reads its size; a missing image is an error.
Scorer      UniVG-R1 `eval/zero_shot/*`: first `(x, y), (x, y)` anywhere, permille, IoU with 1e-6 in the denominator
            (on boxes of area up to 1, so an IoU is at most 1e-6 / area too small), mean over items; every exception,
            an unreadable picture and an empty true box included, counts as 0.
Different   plain IoU without the 1e-6; true boxes that are empty or leave the picture are counted as defects and stay
            in the denominator; a missing picture stops the run instead of scoring 0.
Checked     against the format that the official loaders imply; no real file was at hand.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item, OfficialRule
from migrl.benchmarks.box_parsers import ZERO_SHOT_PARSERS
from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.fields import Record, is_list, open_record, read_json_list
from migrl.benchmarks.readings import ExactBox
from migrl.grounding.images import MissingPictures, find_missing, read_image_size
from migrl.grounding.samples import BoxTarget, Defect, Sample

COUNTS = {"lisa_val": 200, "lisa_test": 779, "reasonvos": 458}
TARGET_FRAME = 3
_DIGITS = re.compile(r"\d+")
_FRAME_SUFFIXES = (".jpg", ".png")

# What a set's loader makes of a record: image paths below the images folder, the instruction, and the box in pixels.
_Parts = tuple[tuple[str, ...], str, Any]


def load_reasoning_grounding(annotations: Path, images: Path, name: str) -> Annotations:
    """Every record of one set; uids are `<name>:<index>`.

    Raises:
        UserError: a broken file or record (file, index and key are named), or a missing or corrupt picture.
    """
    chosen = _SETS[name]
    roots = _list_roots(images, chosen.folder)
    rows = read_json_list(annotations)
    parts = []
    for index, row in enumerate(rows):
        record = open_record(annotations, index, row, chosen.keys, optional=None)
        parts.append((record, *chosen.read_parts(record, images, roots)))
    named = {path: record for record, paths, _, _ in reversed(parts) for path in paths}
    if missing := find_missing(images, reversed(named)):
        where = f"{annotations}, record {named[missing[0]].index}: key {chosen.keys[0]!r}"
        raise MissingPictures(where, missing)
    clusters = name_clusters([paths for _, paths, _, _ in parts])
    items: list[Item] = []
    defects: dict[str, list[str]] = {}
    for (record, paths, instruction, box_px), cluster in zip(parts, clusters, strict=True):
        number = 1 if len(paths) == 1 else TARGET_FRAME
        uid = f"{name}:{record.index}"
        box, defect = _to_unit(record, box_px, read_image_size(images / paths[number - 1]))
        if defect:
            defects.setdefault(defect, []).append(uid)
        x1, y1, x2, y2 = (float(v) for v in box)
        target = BoxTarget(number, (x1, y1, x2, y2), defect=defect)
        question = chosen.question_form.format(instruction)
        items.append(Item(Sample(uid, name, name, paths, question, target, cluster), exact_box_unit=box))
    return Annotations("released", tuple(items), {kind: tuple(uids) for kind, uids in sorted(defects.items())})


def _read_lisa(record: Record, images: Path, roots: Sequence[str]) -> _Parts:
    instruction = record.data["instruction"]
    if is_list(instruction):  # Visual-RFT's copy holds several wordings; the first is used
        instruction = record.texts("instruction")[0]
    else:
        instruction = record.text("instruction")
    boxes = record.data["boxes"]
    if not is_list(boxes) or not boxes:
        raise record.fail("boxes", "must be a list with at least one box")
    return (
        (_find_picture(record, "image_path", record.text("image_path"), images, roots),),
        instruction,
        record.numbers("boxes", boxes[0]),
    )


def _read_llmseg(record: Record, images: Path, roots: Sequence[str]) -> _Parts:
    rows = record.data["bbox"]
    if not is_list(rows) or not all(is_list(row) for row in rows):
        raise record.fail("bbox", "must be a list of lists of numbers")
    flat = [number for row in rows for number in row]
    if len(flat) % 4:
        raise record.fail("bbox", f"must hold four numbers a box, not {len(flat)} in all")
    return (
        (_find_picture(record, "image_path", record.text("image_path"), images, roots),),
        record.text("question"),
        record.numbers("bbox", flat[:4]),
    )


def _read_revos(record: Record, images: Path, roots: Sequence[str]) -> _Parts:
    video = record.path_inside("video_id", record.text("video_id"))
    video = next((f"{root}{video}" for root in roots if (images / root / video).is_dir()), video)
    frames = record.data["frames"]
    if not is_list(frames) or len(frames) < TARGET_FRAME or not all(_is_index(frame) for frame in frames):
        raise record.fail("frames", f"must be at least {TARGET_FRAME} frame numbers")
    names = _list_frames(images / video)
    if max(frames) >= len(names):
        raise record.fail("frames", f"frame {max(frames)} of {len(names)} in {images / video}")
    paths = tuple(f"{video}/{names[frame]}" for frame in frames)
    return paths, record.text("question"), record.numbers("bbox_list", _third(record))


def _read_reasonvos(record: Record, images: Path, roots: Sequence[str]) -> _Parts:
    paths = tuple(_find_picture(record, "image_list", name, images, roots) for name in record.texts("image_list"))
    if len(paths) < TARGET_FRAME:
        raise record.fail("image_list", f"must name at least {TARGET_FRAME} frames")
    text = _third(record)
    if isinstance(text, str) and "-" in text:
        raise record.fail("bbox_list", f"numbers must not be negative, not {text[:80]!r}")
    numbers = [int(digits[:15]) for digits in _DIGITS.findall(text)] if isinstance(text, str) else text
    return paths, record.text("question"), record.numbers("bbox_list", numbers)


def _third(record: Record) -> Any:
    boxes = record.data["bbox_list"]
    if not is_list(boxes) or len(boxes) < TARGET_FRAME:
        raise record.fail("bbox_list", f"must hold a box for each frame, at least {TARGET_FRAME}")
    return boxes[TARGET_FRAME - 1]


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _list_frames(folder: Path) -> list[str]:
    """Frame files of a video in the order of the first number in their names, as the official loader has it."""
    names = [path.name for path in folder.glob("*") if path.suffix in _FRAME_SUFFIXES and _DIGITS.search(path.name)]
    return sorted(names, key=lambda name: (int(_DIGITS.findall(name)[0]), name))


def _list_roots(images: Path, known: str) -> list[str]:
    """Where a set's paths may start below the images folder: at its own folder, or at the top.

    How the released zip is laid out is not documented; the official scripts name the sets' folders. One folder
    around all of them is allowed for.
    """
    wrappers = ["", *(f"{path.name}/" for path in sorted(images.glob("*")) if path.is_dir())]
    return [f"{wrapper}{known}" for wrapper in wrappers] + (wrappers if known else [])


def _find_picture(record: Record, key: str, name: str, images: Path, roots: Sequence[str]) -> str:
    """A picture's path below the images folder; released paths may open with folders of the authors' machine."""
    parts = name.split("/")
    if ".." in parts or "\\" in name or "\0" in name or not parts[-1]:
        raise record.fail(key, f"{name!r} is no path inside the data folder")
    relative = [part for part in parts if part not in ("", ".")]
    for start in range(len(relative)):
        path = "/".join(relative[start:])
        for root in roots:
            if (images / root / path).is_file():
                return f"{root}{path}"
    return "/".join(relative)


def _to_unit(record: Record, box_px: Any, size: tuple[int, int]) -> tuple[ExactBox, Defect]:
    width, height = size
    x1, y1, x2, y2 = (Fraction(str(v)) for v in box_px)
    box = (x1 / width, y1 / height, x2 / width, y2 / height)
    if max(box) > 1:
        return box, "out_of_range"
    return box, "" if x1 < x2 and y1 < y2 else "inverted"


_IMAGE_FORM = "Give the bounding box of what this instruction asks for in the image: {}"
_VIDEO_FORM = (
    "The images are frames of a video, in order. Give the bounding box in the third image of what this "
    "instruction asks for: {}"
)


@dataclass(frozen=True)
class _Set:
    """The keys a record must have, how its parts are read, the question around the instruction, the set's folder."""

    keys: tuple[str, ...]
    read_parts: Callable[[Record, Path, Sequence[str]], _Parts]
    question_form: str
    folder: str = ""


_LISA = _Set(("image_path", "instruction", "boxes"), _read_lisa, _IMAGE_FORM)
_SETS = {
    "lisa_val": _LISA,
    "lisa_test": _LISA,
    "llmseg": _Set(("image_path", "question", "bbox"), _read_llmseg, _IMAGE_FORM, "LLMSeg/images/"),
    "revos": _Set(("video_id", "frames", "question", "bbox_list"), _read_revos, _VIDEO_FORM, "ReVOS_eval/"),
    "reasonvos": _Set(("image_list", "question", "bbox_list"), _read_reasonvos, _VIDEO_FORM),
}

QUESTION_LEADS = {name: chosen.question_form.removesuffix("{}") for name, chosen in _SETS.items()}
"""Of each set the words of ours that stand before its instruction in a question."""

REASONING_GROUNDING = tuple(
    Benchmark(
        name,
        load_reasoning_grounding,
        ZERO_SHOT_PARSERS,
        {"released": COUNTS[name]} if name in COUNTS else {},
        official=OfficialRule("zero_shot_script", ZERO_SHOT_PARSERS["compat"]),
    )
    for name in _SETS
)
