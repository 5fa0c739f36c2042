"""A peer's outputs on the samples of a run: the lines of `migrl score --details`, or raw completions.

A peer's file is read as untrusted. Every line is checked, and nothing in it decides which samples there are, their
tasks, targets or image sets: those are the run's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrl.benchmarks.box_parsers import MIG_BENCH_PARSERS, ZERO_SHOT_PARSERS
from migrl.benchmarks.letter_parsers import BLINK_PARSERS, MMIU_PARSERS, MUIRBENCH_PARSERS
from migrl.compare.rounding import BOX_ROUNDING, IOU_ROUNDING, bound_iou
from migrl.compare.sides import Reply, Rule, Side, read_reply, to_unit
from migrl.errors import UserError
from migrl.files import explain_fault, read_jsonl
from migrl.grounding.answers import READABLE, Status
from migrl.grounding.boxes import Box, Frame
from migrl.scoring.scores import Row, rescore_row
from migrl.scoring.tables import IOU_THRESHOLD, IOU_TOLERANCE, MAX_TOKENS, has_box, is_hit

BOX_RULES = frozenset((*MIG_BENCH_PARSERS, *ZERO_SHOT_PARSERS))
LETTER_RULES = frozenset((*BLINK_PARSERS, *MMIU_PARSERS, *MUIRBENCH_PARSERS))
LETTER_RULE = "strict"
"""The rule by which a run's letters are read, under either rule for its boxes."""

SHOWN_CHARS = 80
_REMEDY = "write it with `migrl score --details`, or as lines of uid and completion"
_UNKNOWN = Reply(False, "none")  # an answer to no sample of the run; it is found as a difference, or left out
_Letter = Annotated[str, Field(pattern="^[A-Z]$")]


class _Line(BaseModel):
    """Keys beyond those of a line travel along unread."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    uid: Annotated[str, Field(min_length=1)]


class _Raw(_Line):
    completion: str
    truncated: bool | None = None
    tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None


class _Detail(_Line):
    task: str
    status: Status
    hit: bool
    image: int | None = None
    letter: _Letter | None = None
    box: Annotated[list[float], Field(min_length=4, max_length=4)] | None = None
    frame: Frame | None = None
    iou: Annotated[float, Field(ge=0, le=1)] | None = None
    rule: str | None = None  # lines of older code do not say

    @property
    def names_image(self) -> bool:
        """Whether its rule reads the image of a box: only then is there a key for it."""
        return "image" in self.model_fields_set


_L = TypeVar("_L", bound=_Line)


def is_peer_file(path: Path) -> bool:
    """Whether a path is a peer's file: lines without the key `arm`, which every row of a run has.

    Raises:
        UserError: a file of something else than JSON objects, one a line.
    """
    if not path.is_file() or path.suffix == ".gz":
        return False
    rows = read_jsonl(path, remedy=_REMEDY)
    if not rows:
        raise UserError(f"{path}: an empty file; {_REMEDY}")
    return "arm" not in rows[0]


def read_peer(path: Path, run: Side, *, frame: Frame | None, rule: Rule) -> Side:
    """A peer's answers to a run's samples.

    Raw completions (`uid`, `completion`) are read in `frame` by `rule`, with the run's targets and sizes; lines of
    details (`uid`, `task`, `status`, `hit`, ...) are taken as they were read, and it is noted whether the run's targets
    and sizes score them alike. Uids that are none of the run's stay in, so that they are found as a difference.

    Raises:
        UserError: a broken line, a uid that comes twice, details that contradict themselves, name an unknown rule, or
            are of another task or kind than the run's sample, or a frame that is missing or not needed.
    """
    lines = read_jsonl(path, remedy=_REMEDY)
    raw = "completion" in lines[0]
    if raw and frame is None:
        raise UserError(f"{path}: raw completions; say with --frame what their numbers mean")
    if not raw and frame is not None:
        raise UserError(f"{path}: lines of details say their frame; leave out --frame")
    replies: dict[str, Reply] = {}
    blind = []
    for number, line in enumerate(lines, 1):
        where = f"{path}, record {number}"
        row = run.samples.get(_check(_Line, line, where).uid)
        uid = line["uid"]
        if uid in replies:
            raise UserError(f"{where}: uid {shorten(uid)} comes twice; keep one of its lines")
        if raw:
            replies[uid] = _read_raw(_check(_Raw, line, where), row, frame, rule)
        else:
            told = _check(_Detail, line, where)
            replies[uid] = _read_detail(told, row, where)
            if row is not None and has_box(row):
                blind.append(not told.names_image)
    if len(set(blind)) > 1:
        raise UserError(f"{path}: some boxes come with the key 'image' and some do not: two rules; {_REMEDY}")
    rules = sorted({reply.rule for reply in replies.values() if reply.rule is not None})
    made = f"raw completions in frame {frame}, read by the rule for A" if raw else "read and scored by the peer"
    made += f" by the rule {', '.join(rules)}" if rules else ""
    cut = raw and any(line.get("truncated") is None for line in lines)
    made += "; where it does not say that a reply was cut, the reply counts as whole" if cut else ""
    return Side(
        name="B",
        title=f"{path}, a peer's file",
        label="B, peer",
        samples={},
        replies=replies,
        names_image=rule == "strict" if raw else not any(blind),
        notes=(f"B: a peer's file, {made}; it does not tell its prompt, image limits and engine",),
    )


def _check(shape: type[_L], line: Mapping[str, Any], where: str) -> _L:
    try:
        return shape.model_validate(line)
    except ValidationError as error:
        raise UserError(f"{where}: {explain_fault(error)}; {_REMEDY}") from error


def _read_raw(said: _Raw, row: Row | None, frame: Frame | None, rule: Rule) -> Reply:
    if row is None:
        return _UNKNOWN
    asked = {**row, "completion": said.completion, "frame": frame, "tokens": said.tokens}
    return read_reply(rescore_row({**asked, "truncated": bool(said.truncated)}), rule)


def _read_detail(told: _Detail, row: Row | None, where: str) -> Reply:
    _check_rule(told, where)
    if row is None:
        return _UNKNOWN
    if told.task != row["task"]:
        remedy = "score with the annotations that the run was evaluated with"
        raise UserError(f"{where}: key 'task': {shorten(told.task)}, but the run's is {row['task']!r}; {remedy}")
    if has_box(row) != (told.iou is not None):
        kind = "a box, whose line has an IoU" if has_box(row) else "a letter, whose line has no IoU"
        raise UserError(f"{where}: key 'iou': the run's question asks for {kind}; score the right benchmark")
    if told.iou is None:
        hit = told.status in READABLE and told.letter == row["target"]["letter"]
        return Reply(told.hit, told.status, letter=told.letter, rule=told.rule, follows=told.hit == hit)
    # Whether a box is a hit was decided before its IoU was rounded.
    if told.hit != is_hit(told.iou) and abs(told.iou - IOU_THRESHOLD) > IOU_ROUNDING + IOU_TOLERANCE:
        raise UserError(f"{where}: key 'hit': {told.hit} with an IoU of {told.iou}; {_REMEDY}")
    image = told.image if told.image is not None and 1 <= told.image <= len(row["images"]) else None
    target = row["target"]
    unit: Box | None = None
    low = high = 0.0
    if told.box is not None:
        if told.frame is None:
            raise UserError(f"{where}: key 'frame': a box needs one; {_REMEDY}")
        x1, y1, x2, y2 = told.box
        unit = to_unit((x1, y1, x2, y2), told.frame, row, image or target["image"])
        if not told.names_image or image == target["image"] or not target.get("image_trusted", True):
            across, down, *_ = to_unit((BOX_ROUNDING,) * 4, told.frame, row, image or target["image"])
            low, high = bound_iou(unit, tuple(target["box_unit"]), (across, down))
    follows = low - IOU_ROUNDING <= told.iou <= high + IOU_ROUNDING
    # Without the image on the line, a rule that knows it may still have refused the box for being on another one.
    follows = follows or (not told.names_image and told.iou == 0)
    return Reply(told.hit, told.status, image, unit, iou=told.iou, rule=told.rule, follows=follows)


def _check_rule(told: _Detail, where: str) -> None:
    if told.rule is None:
        return
    known = LETTER_RULES if told.iou is None else BOX_RULES
    if told.rule not in known:
        raise UserError(f"{where}: key 'rule': {shorten(told.rule)} is none of {', '.join(sorted(known))}; {_REMEDY}")
    if told.iou is not None and told.names_image != (told.rule == "strict"):
        key = "has" if told.names_image else "lacks"
        raise UserError(f"{where}: key 'rule': {told.rule}, but the line {key} the key 'image'; {_REMEDY}")


def shorten(value: Any) -> str:
    """A value as a short text for a message; control characters are spelled out."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
