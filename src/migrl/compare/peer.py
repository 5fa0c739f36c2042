"""A peer's outputs on the samples of a run: the lines of `migrl score --details`, or raw completions.

A peer's file is read as untrusted. Every line is checked, and nothing in it decides which samples there are, their
tasks, targets or image sets: those are the run's.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import isclose
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrl.benchmarks import BENCHMARKS
from migrl.compare.sides import Reply, Rule, Side, read_reply, to_unit
from migrl.errors import UserError
from migrl.files import explain_fault, read_jsonl
from migrl.grounding.answers import READABLE, Status
from migrl.grounding.boxes import Box, Frame, compute_iou
from migrl.grounding.samples import BoxTarget, ChoiceTarget, Sample
from migrl.scoring.completions import Score, is_hit
from migrl.scoring.rows import EvaluationRow, rescore_row
from migrl.scoring.tables import MAX_TOKENS

IOU_SLACK = 1e-6
"""How far the IoU of a line's box may be from the IoU on the line, which is rounded."""

_REMEDY = "write it with `migrl score --details`, or as lines of uid and completion"
_UNKNOWN = Reply(
    Score("none", None, None, None, None, False)
)  # an answer to no sample of the run; it is found as a difference, or left out


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
    rule: str


class _LetterDetail(_Detail):
    letter: Annotated[str, Field(pattern="^[A-Z]$")] | None


class _BoxDetail(_Detail):
    box: Annotated[list[float], Field(min_length=4, max_length=4)] | None
    frame: Frame
    iou: Annotated[float, Field(ge=0, le=1)]
    image: int | None = None


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
        UserError: a broken line, a uid that comes twice, details that name a rule which the benchmark does not have, or
            are of another task or kind than the run's sample, or a frame that is missing or not needed.
    """
    lines = read_jsonl(path, remedy=_REMEDY)
    raw = "completion" in lines[0]
    if raw and frame is None:
        raise UserError(f"{path}: raw completions; say with --frame what their numbers mean")
    if not raw and frame is not None:
        raise UserError(f"{path}: lines of details say their frame; leave out --frame")
    replies: dict[str, Reply] = {}
    for number, line in enumerate(lines, 1):
        where = f"{path}, record {number}"
        uid = _check(_Line, line, where).uid
        if uid in replies:
            raise UserError(f"{where}: uid {uid!r} comes twice; keep one of its lines")
        if uid not in run.samples:
            replies[uid] = _UNKNOWN
        elif frame is not None:
            replies[uid] = _read_raw(_check(_Raw, line, where), run.samples[uid], frame, rule)
        else:
            replies[uid] = _read_detail(line, run.samples[uid], where)
    samples = {uid: run.samples[uid] for uid in replies if uid in run.samples}
    if raw:
        made, names_image = f"raw completions in frame {frame}, read by the rule for A", rule == "strict"
        if any(line.get("truncated") is None for line in lines):
            made += "; where it does not say that a reply was cut, the reply counts as whole"
    else:
        rules = {uid: str(replies[uid].rule) for uid in samples}
        made = f"read and scored by the peer by the rule {', '.join(sorted(set(rules.values())))}"
        blind = {rules[uid] != "strict" for uid, row in samples.items() if isinstance(row.sample.target, BoxTarget)}
        if len(blind) > 1:
            raise UserError(f"{path}: some boxes are read by the rule strict and some by another; {_REMEDY}")
        names_image = blind != {True}
    return Side(
        name="B",
        title=f"{path}, a peer's file",
        label="B, peer",
        samples=samples,
        replies=replies,
        names_image=names_image,
        notes=(f"B: a peer's file, {made}; it does not tell its prompt, image limits and engine",),
        is_peer=True,
    )


def _check(shape: type[_L], line: Mapping[str, Any], where: str) -> _L:
    try:
        return shape.model_validate(line)
    except ValidationError as error:
        raise UserError(f"{where}: {explain_fault(error)}; {_REMEDY}") from error


def _read_raw(said: _Raw, row: EvaluationRow, frame: Frame, rule: Rule) -> Reply:
    answered = replace(row, completion=said.completion, frame=frame, truncated=bool(said.truncated))
    return replace(read_reply(rescore_row(answered), rule), tokens=said.tokens)


def _read_detail(line: Mapping[str, Any], row: EvaluationRow, where: str) -> Reply:
    target = row.sample.target
    if isinstance(target, ChoiceTarget):
        letter = _check(_LetterDetail, line, where)
        _check_asked(letter, row.sample, where)
        hit = letter.status in READABLE and letter.letter == target.letter
        score = Score(letter.status, None, None, letter.letter, None, letter.hit)
        return Reply(score, rule=letter.rule, follows=letter.hit == hit)
    if not isinstance(target, BoxTarget):
        raise UserError(f"{where}: sample {row.sample.uid!r} asks for a list, which details cannot hold; {_REMEDY}")
    told = _check(_BoxDetail, line, where)
    _check_asked(told, row.sample, where)
    image = told.image if told.image is not None and 1 <= told.image <= len(row.sample.images) else None
    boxes, iou = _measure(told, row, target, image)
    # Without the image on the line, a rule that knows it may still have refused the box for being on another one.
    follows = isclose(iou, told.iou, abs_tol=IOU_SLACK) or (told.rule != "strict" and told.iou == 0)
    follows = follows and told.hit == is_hit(told.iou)
    return Reply(Score(told.status, image, boxes, None, told.iou, told.hit), rule=told.rule, follows=follows)


def _check_asked(told: _Detail, sample: Sample, where: str) -> None:
    if told.task != sample.task:
        remedy = "score with the annotations that the run was evaluated with"
        raise UserError(f"{where}: key 'task': {told.task!r}, but the run's is {sample.task!r}; {remedy}")
    known = BENCHMARKS[sample.benchmark].parsers if sample.benchmark in BENCHMARKS else ("strict",)
    if told.rule not in known:
        rules = ", ".join(known)
        raise UserError(f"{where}: key 'rule': {told.rule!r} is none of {sample.benchmark}'s ({rules}); {_REMEDY}")


def _measure(
    told: _BoxDetail, row: EvaluationRow, target: BoxTarget, image: int | None
) -> tuple[dict[Frame, Box] | None, float]:
    """A line's box in the unit frame, and its IoU by the run's target and sizes."""
    if told.box is None:
        return None, 0.0
    x1, y1, x2, y2 = told.box
    box_unit = to_unit((x1, y1, x2, y2), told.frame, row, image or target.image)
    elsewhere = told.rule == "strict" and image != target.image and target.image_trusted
    return {"unit": box_unit}, 0.0 if elsewhere else compute_iou(box_unit, target.box_unit)
