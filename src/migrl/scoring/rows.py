"""One arm's answer to one sample, and its score: a row of `samples.jsonl`, read here, and written by `to_json`."""

import gzip
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError

from migrl.errors import UserError
from migrl.files import explain_fault
from migrl.grounding.answers import Status
from migrl.grounding.boxes import FRAMES, Frame, Size
from migrl.grounding.samples import BoxesTarget, ChoiceTarget, Sample, parse_sample
from migrl.scoring.completions import FoundBox, Score, score_completion, score_unanswered

_SAMPLE_KEYS = ("uid", "benchmark", "task", "images", "sizes", "question", "target", "cluster")
_LARGEST = 2**31 - 1  # an integer of JSON may have 4,000 digits, which no float holds
_Side = Annotated[int, Field(gt=0, le=_LARGEST)]
_Size = Annotated[tuple[_Side, _Side], Strict(False)]  # JSON has lists
_Box = Annotated[tuple[float, float, float, float], Strict(False)]


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """What tables read of an answer, anyone's: `truncated` and `tokens` are None where nobody says them."""

    sample: Sample
    score: Score
    truncated: bool | None
    tokens: int | None


@dataclass(frozen=True, slots=True)
class EvaluationRow(ScoredRow):
    """One arm's answer to one sample, whose `sizes` it holds, but not its facts.

    Attributes:
        truncated: whether the completion stopped at the token limit.
        tokens: its length.
        seed: of the training; None for an arm that is not trained, and where a recipe names only one.
        frame: the frame the model writes in.
        resized_sizes: (width, height) in px of each image as the model saw it.
        unanswered: the server that was asked left it without a usable reply; the completion is empty, and a miss.
    """

    truncated: bool
    tokens: int
    arm: str
    seed: int | None
    completion: str
    frame: Frame
    resized_sizes: tuple[Size, ...]
    prompt_hash: str
    unanswered: bool = False

    @property
    def who(self) -> str:
        """The arm for a message."""
        return name_arm(self.arm, self.seed)

    def to_json(self) -> dict[str, Any]:
        sample = self.sample
        return {
            "uid": sample.uid,
            "arm": self.arm,
            "benchmark": sample.benchmark,
            "task": sample.task,
            "cluster": sample.cluster,
            "images": list(sample.images),
            "sizes": [list(size) for size in sample.sizes],
            "resized_sizes": [list(size) for size in self.resized_sizes],
            "question": sample.question,
            "prompt_hash": self.prompt_hash,
            "frame": self.frame,
            "target": sample.target.to_json(),
            "completion": self.completion,
            "tokens": self.tokens,
            "truncated": self.truncated,
            **self.score.to_json(),
            **({} if self.seed is None else {"seed": self.seed}),
            **({"unanswered": True} if self.unanswered else {}),
        }


class _FoundShape(BaseModel):
    """One box of a list."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    image: Annotated[int, Field(ge=1)]
    boxes: Annotated[dict[Frame, _Box], Field(min_length=len(FRAMES))]


class _RowShape(BaseModel):
    """What a row holds beside its sample."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    arm: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)] = 0  # absent where `EvaluationRow.seed` is None
    prompt_hash: str
    frame: Frame
    resized_sizes: Annotated[tuple[_Size, ...], Strict(False)]
    completion: str
    tokens: Annotated[int, Field(ge=0, le=_LARGEST)]
    truncated: bool
    status: Status
    image: int | None
    boxes: Annotated[dict[Frame, _Box], Field(min_length=len(FRAMES))] | None
    letter: str | None
    iou: Annotated[float, Field(ge=0, le=1)] | None
    hit: bool
    found: Annotated[tuple[_FoundShape, ...], Strict(False)] | None = None
    weakest: Annotated[float, Field(ge=0, le=1)] | None = None
    unanswered: bool = False


def name_arm(arm: str, seed: int | None) -> str:
    """An arm for a message, with its training seed where there is one."""
    return f"arm {arm!r}" + ("" if seed is None else f", seed {seed}")


def rescore_row(row: EvaluationRow, *, tagged: bool = True) -> EvaluationRow:
    """The row as its raw completion, sizes and target say it must be; the stored score is not looked at.

    `tagged` as in `score_completion`.
    """
    if row.unanswered:
        return replace(row, score=score_unanswered(row.sample.target))
    score = score_completion(
        row.completion,
        row.sample.target,
        frame=row.frame,
        sizes=row.sample.sizes,
        resized_sizes=row.resized_sizes,
        truncated=row.truncated,
        tagged=tagged,
    )
    return replace(row, score=score)


def load_rows(path: Path) -> list[EvaluationRow]:
    """Every row of `samples.jsonl` or `samples.jsonl.gz`.

    Raises:
        UserError: the file is missing or torn, or a line is not a row (its number and the key are named).
    """
    remedy = "restore the file or run the evaluate stage again"
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {remedy}") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:  # a BadGzipFile is an OSError
        raise UserError(f"{path}: torn or not what its name says ({error}); {remedy}") from error
    lines = text.split("\n")
    if lines.pop():
        raise UserError(f"{path}, line {len(lines) + 1}: torn, it does not end in a newline; {remedy}")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); {remedy}") from error
        rows.append(parse_row(row, f"{path}, line {number}"))
    return rows


def parse_row(data: Any, where: str) -> EvaluationRow:
    """Build a row from decoded JSON, refusing anything that is not exactly one.

    Raises:
        UserError: naming `where` and the key at fault.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: a row is a JSON object, not {type(data).__name__}; run the evaluate stage again")
    sample = parse_sample({key: data[key] for key in _SAMPLE_KEYS if key in data}, where)
    try:
        shape = _RowShape.model_validate({key: value for key, value in data.items() if key not in _SAMPLE_KEYS})
    except ValidationError as error:
        raise UserError(f"{where}: {explain_fault(error)}; run the evaluate stage again") from error
    for key, sizes in (("sizes", sample.sizes), ("resized_sizes", shape.resized_sizes)):
        if len(sizes) != len(sample.images):
            raise UserError(
                f"{where}: key {key!r}: {len(sizes)} sizes for {len(sample.images)} images; "
                "run the evaluate stage again"
            )
    if (shape.iou is None) != isinstance(sample.target, ChoiceTarget):
        raise UserError(f"{where}: key 'iou': a box has one, a choice has none; run the evaluate stage again")
    if shape.found is not None and not isinstance(sample.target, BoxesTarget):
        raise UserError(f"{where}: key 'found': one answer was asked for, no list; run the evaluate stage again")
    if (shape.found is None) != (shape.weakest is None):
        raise UserError(f"{where}: key 'weakest': stands beside 'found'; run the evaluate stage again")
    found = None if shape.found is None else tuple(FoundBox(one.image, one.boxes) for one in shape.found)
    if shape.unanswered and (shape.completion or shape.tokens or shape.truncated):
        raise UserError(f"{where}: key 'unanswered': there is a completion; run the evaluate stage again")
    return EvaluationRow(
        sample=sample,
        score=Score(shape.status, shape.image, shape.boxes, shape.letter, shape.iou, shape.hit, found, shape.weakest),
        truncated=shape.truncated,
        tokens=shape.tokens,
        arm=shape.arm,
        seed=shape.seed if "seed" in data else None,
        completion=shape.completion,
        frame=shape.frame,
        resized_sizes=shape.resized_sizes,
        prompt_hash=shape.prompt_hash,
        unanswered=shape.unanswered,
    )


def pack_rows(rows: Iterable[EvaluationRow], path: Path) -> None:
    """Write `samples.jsonl.gz`, without time stamp or name: equal rows give equal bytes."""
    with path.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write("".join(json.dumps(row.to_json(), ensure_ascii=False) + "\n" for row in rows).encode())
