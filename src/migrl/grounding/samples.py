"""Samples, their targets, and JSONL logs that survive a kill.

A sample is one question over 1..n images with its target. Samples travel between stages as JSONL;
reading is strict, because files may come from elsewhere: every error names file, line and key.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from migrl.errors import UserError
from migrl.files import is_unicode, read_jsonl
from migrl.grounding.boxes import Box, BoxError, Size, check_numbers
from migrl.grounding.prompts import TargetKind

_LARGEST_SIDE = 2**31 - 1  # no picture format has longer sides; a number of JSON may have 4,000 digits
TEXTS = ("uid", "benchmark", "task", "question", "cluster")
MAX_OPTIONS = 26  # a letter each
Defect = Literal["", "inverted", "out_of_range"]
_DEFECT_TEXTS = {
    "": "has no defect, but is marked as having one",
    "inverted": "is empty or inverted: x1 < x2 and y1 < y2 are required",
    "out_of_range": "is outside 0 to 1: another frame?",
}


@dataclass(frozen=True)
class BoxTarget:
    """The true box, in unit frame of image number `image` (1-based).

    Some benchmarks do not say reliably in which image the box lies: then `image_trusted` is False, the
    image is the best guess, and a hit needs the right box only. A published box that no answer can hit
    stays as it is and is named by `defect`; it stays in every denominator.
    """

    image: int
    box_unit: Box
    image_trusted: bool = True
    defect: Defect = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON, without what is the rule."""
        extra: dict[str, Any] = {} if self.image_trusted else {"image_trusted": False}
        if self.defect:
            extra["defect"] = self.defect
        return {"image": self.image, "box_unit": list(self.box_unit), **extra}


@dataclass(frozen=True)
class BoxesTarget:
    """Every true box of a question that any number of boxes may answer, in one image, in several, or none.

    `groups` are the benchmark's own numbers for what belongs together, one a box, where it has such.
    """

    boxes: tuple[BoxTarget, ...]
    groups: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON, without groups where there are none."""
        boxes = [box.to_json() for box in self.boxes]
        return {"boxes": boxes, **({"groups": list(self.groups)} if self.groups else {})}


@dataclass(frozen=True)
class ChoiceTarget:
    """The true letter among `options` lettered options."""

    letter: str
    options: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Target = BoxTarget | BoxesTarget | ChoiceTarget
_KINDS: dict[type[Target], TargetKind] = {BoxTarget: "box", BoxesTarget: "boxes", ChoiceTarget: "choice"}


def list_boxes(target: Target) -> tuple[BoxTarget, ...]:
    """The true boxes of a target of either kind; none for a choice."""
    match target:
        case BoxTarget():
            return (target,)
        case BoxesTarget(boxes=boxes):
            return boxes
    return ()


@dataclass(frozen=True)
class Sample:
    """One question over images.

    `images` are paths relative to the data folder; `cluster` names the image set, so that questions
    over the same pictures are resampled together; `facts` is what the scripted teacher knows. `sizes`, one
    (width, height) in px an image, are those of the decoded pictures: fetch stores them, and whoever prepares
    a folder may leave them out.
    """

    uid: str
    benchmark: str
    task: str
    images: tuple[str, ...]
    question: str
    target: Target
    cluster: str
    facts: str = ""
    sizes: tuple[Size, ...] = ()

    @property
    def kind(self) -> TargetKind:
        return _KINDS[type(self.target)]

    def to_json(self) -> dict[str, Any]:
        data = {**asdict(self), "target": self.target.to_json()}
        if not self.sizes:
            del data["sizes"]
        return data


def parse_sample(data: Any, where: str) -> Sample:
    """Build a sample from decoded JSON, refusing anything that is not exactly one.

    Raises:
        UserError: naming `where` and the key at fault.
    """

    def fail(key: str, reason: str) -> UserError:
        return UserError(f"{where}: key {key!r}: {reason}; rebuild the file or remove the record")

    if not isinstance(data, dict):
        raise UserError(f"{where}: a sample is a JSON object, not {type(data).__name__}; rebuild the file")
    known = {field.name for field in fields(Sample)}
    for key in data.keys() - known:
        raise fail(key, "not a key of a sample")
    for key in known - data.keys() - {"facts", "sizes"}:
        raise fail(key, "missing")
    for key in TEXTS:
        if not isinstance(data[key], str) or not data[key]:
            raise fail(key, "must be a non-empty text")
    images, facts = data["images"], data.get("facts", "")
    if not isinstance(images, list | tuple) or not images or not all(isinstance(p, str) and p for p in images):
        raise fail("images", "must be a non-empty list of paths")
    if not isinstance(facts, str):
        raise fail("facts", f"must be a text, not {type(facts).__name__}")
    for key, text in [*((key, data[key]) for key in TEXTS), ("facts", facts), *(("images", path) for path in images)]:
        if not is_unicode(text):
            raise fail(key, "holds half of a surrogate pair, which no file can hold")
    for path in images:
        if "\0" in path:
            raise fail("images", f"{path!r} is no name of a file")
        if path.startswith("/") or ".." in path.split("/"):
            raise fail("images", f"{path!r} leaves the data folder")
    return Sample(
        uid=data["uid"],
        benchmark=data["benchmark"],
        task=data["task"],
        images=tuple(images),
        question=data["question"],
        target=_parse_target(data["target"], len(images), fail),
        cluster=data["cluster"],
        facts=facts,
        sizes=_parse_sizes(data["sizes"], len(images), fail) if "sizes" in data else (),
    )


def _parse_sizes(data: Any, image_count: int, fail: Any) -> tuple[Size, ...]:
    if not isinstance(data, list | tuple) or len(data) != image_count:
        raise fail("sizes", f"must be one [width, height] for each of the {image_count} images")
    for size in data:
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(side) is int for side in size):
            raise fail("sizes", f"{size!r} is no pair of whole numbers, width and height in px")
        if not all(0 < side <= _LARGEST_SIDE for side in size):
            raise fail("sizes", f"{size!r} is no size in px")
    return tuple((width, height) for width, height in data)


def _parse_target(data: Any, image_count: int, fail: Any) -> Target:
    match data:
        case {"image": int(image), "box_unit": [*numbers], **extra} if not isinstance(image, bool):
            if not 1 <= image <= image_count:
                raise fail("target", f"image {image} of {image_count}")
            if unknown := [key for key in extra if key not in ("image_trusted", "defect")]:
                raise fail("target", f"{unknown[0]!r} is not a key of a box")
            trusted, defect = extra.get("image_trusted", True), extra.get("defect", "")
            if not isinstance(trusted, bool) or defect not in get_args(Defect):
                raise fail("target", f"image_trusted is true or false, defect one of {get_args(Defect)}")
            found, box_unit = find_defect(numbers, fail)
            if found != defect:
                raise fail("target", f"box_unit {list(box_unit)} {_DEFECT_TEXTS[found]}")
            return BoxTarget(image, box_unit, trusted, defect)
        case {"boxes": [*boxes], **extra}:
            if unknown := [key for key in extra if key != "groups"]:
                raise fail("target", f"{unknown[0]!r} is not a key of a list of boxes")
            targets = [_parse_target(box, image_count, fail) for box in boxes]
            trusted_boxes = tuple(one for one in targets if isinstance(one, BoxTarget) and one.image_trusted)
            if len(trusted_boxes) < len(targets):
                raise fail("target", "boxes are a list of {image, box_unit}, each in an image that is trusted")
            groups = extra.get("groups", [])
            if not isinstance(groups, list | tuple) or any(type(group) is not int or group < 0 for group in groups):
                raise fail("target", "groups are whole numbers from 0")
            if groups and len(groups) != len(targets):
                raise fail("target", f"{len(groups)} groups for {len(targets)} boxes")
            return BoxesTarget(trusted_boxes, tuple(groups))
        case {"letter": str(letter), "options": int(options)} if not isinstance(options, bool):
            if not 1 <= options <= MAX_OPTIONS:
                raise fail("target", f"options are 1 to {MAX_OPTIONS}")
            if len(letter) != 1 or not 0 <= ord(letter) - ord("A") < options:
                raise fail("target", f"letter {letter!r} is not one of {options} options")
            return ChoiceTarget(letter, options)
    raise fail("target", "must be {image, box_unit}, {boxes} or {letter, options}")


def find_defect(numbers: list[Any], fail: Any) -> tuple[Defect, Box]:
    """Four finite numbers as they stand, and what keeps them from being a box of an image."""
    try:
        box = check_numbers(numbers)
    except BoxError as error:
        raise fail("target", str(error)) from error
    if not all(0 <= v <= 1 for v in box):
        return "out_of_range", box
    return ("" if box[0] < box[2] and box[1] < box[3] else "inverted"), box


def read_samples(path: Path) -> list[Sample]:
    """Every sample of a JSONL file, uids unique.

    Raises:
        UserError: a broken line or record, or a uid that comes twice.
    """
    samples, seen = [], set()
    for number, row in enumerate(read_jsonl(path), 1):
        sample = parse_sample(row, f"{path}, record {number}")
        if sample.uid in seen:
            raise UserError(f"{path}, record {number}: uid {sample.uid!r} comes twice; remove one of them")
        seen.add(sample.uid)
        samples.append(sample)
    return samples
