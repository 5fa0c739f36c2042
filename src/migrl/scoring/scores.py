"""From evaluation rows to `scores.json`: one table, and checks that arms compare."""

import gzip
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrl.errors import UserError
from migrl.files import explain_fault
from migrl.grounding.answers import Status
from migrl.grounding.boxes import Frame
from migrl.grounding.samples import parse_sample, read_target
from migrl.recipe import is_trained
from migrl.scoring.completions import score_completion
from migrl.scoring.official import score_officially
from migrl.scoring.tables import summarize_rows

Row = dict[str, Any]
_SAMPLE_KEYS = ("uid", "benchmark", "task", "images", "question", "target", "cluster")
_SHARED_KEYS = ("prompt_hash", "frame", "resized_sizes", "sizes", *_SAMPLE_KEYS[1:])
_LARGEST = 2**31 - 1  # an integer of JSON may have 4,000 digits, which no float holds
_Side = Annotated[int, Field(gt=0, le=_LARGEST)]


class _RowShape(BaseModel):
    """What a row holds beside its sample; keys beyond these travel along unread."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)

    arm: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0)] = 0  # of the training; only where there are several
    prompt_hash: str
    frame: Frame
    sizes: list[Annotated[list[_Side], Field(min_length=2, max_length=2)]]
    resized_sizes: list[Annotated[list[_Side], Field(min_length=2, max_length=2)]]
    completion: str
    tokens: Annotated[int, Field(ge=0, le=_LARGEST)]
    truncated: bool
    status: Status
    image: int | None
    boxes: dict[Frame, list[float]] | None
    letter: str | None
    iou: Annotated[float, Field(ge=0, le=1)] | None
    hit: bool


def load_rows(path: Path) -> list[Row]:
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
        _check_shape(row, f"{path}, line {number}")
        rows.append(row)
    return rows


def _check_shape(row: Any, where: str) -> None:
    if not isinstance(row, dict):
        raise UserError(f"{where}: a row is a JSON object, not {type(row).__name__}; run the evaluate stage again")
    parse_sample({key: row[key] for key in _SAMPLE_KEYS if key in row}, where)
    try:
        _RowShape.model_validate(row)
    except ValidationError as error:
        raise UserError(f"{where}: {explain_fault(error)}; run the evaluate stage again") from error
    for key in ("sizes", "resized_sizes"):
        if len(row[key]) != len(row["images"]):
            raise UserError(
                f"{where}: key {key!r}: {len(row[key])} sizes for {len(row['images'])} images; "
                "run the evaluate stage again"
            )
    if (row["iou"] is None) != ("letter" in row["target"]):
        raise UserError(f"{where}: key 'iou': a box has one, a choice has none; run the evaluate stage again")


def check_rows(rows: Sequence[Row]) -> None:
    """Refuse rows whose arms cannot be compared.

    Raises:
        UserError: an (arm, seed, uid) comes twice, arms answered different samples or were trained with other
            seeds, or one sample was put to two arms with another prompt, frame, image size, target or image set
            (the key is named).
    """
    arms: dict[tuple[str, int | None], set[str]] = {}
    firsts: dict[str, Row] = {}
    for row in rows:
        arm, uid = name_arm(row), row["uid"]
        uids = arms.setdefault((row["arm"], row.get("seed")), set())
        if uid in uids:
            raise UserError(f"{arm}, sample {uid!r}: comes twice; remove one of the two rows")
        uids.add(uid)
        first = firsts.setdefault(uid, row)
        for key in _SHARED_KEYS:
            if row[key] != first[key]:
                raise UserError(
                    f"sample {uid!r}: key {key!r} is {row[key]!r} for {arm} and {first[key]!r} for "
                    f"{name_arm(first)}; evaluate both arms with the same prompts, images and limits"
                )
    for (arm, seed), uids in arms.items():
        missing = sorted(firsts.keys() - uids)
        if missing:
            raise UserError(
                f"{name_arm({'arm': arm, 'seed': seed})}: {len(missing)} samples that other arms answered are missing, "
                f"such as {missing[0]!r}; finish its evaluation"
            )
    _check_seeds(arms)


def _check_seeds(arms: Collection[tuple[str, int | None]]) -> None:
    """Refuse a trained arm that lacks a training seed of the others, and a base that has one."""
    every = {seed for _, seed in arms if seed is not None}
    for arm in sorted({arm for arm, _ in arms}) if every else ():
        named = {seed for other, seed in arms if other == arm}
        due = every if is_trained(arm) else {None}
        if named != due:
            raise UserError(
                f"arm {arm!r}: its rows are of {_list_seeds(named)}, and should be of {_list_seeds(due)}; evaluate "
                "every trained arm with every training seed, and the base once, without one"
            )


def _list_seeds(seeds: Collection[int | None]) -> str:
    known = sorted(seed for seed in seeds if seed is not None)
    return " and ".join([*(["no seed"] if None in seeds else []), *(f"seed {seed}" for seed in known)])


def name_arm(row: Mapping[str, Any]) -> str:
    """The arm of a row for a message, with its training seed where it names one."""
    seed = row.get("seed")
    return f"arm {row['arm']!r}" + ("" if seed is None else f", seed {seed}")


def rescore_row(row: Row, *, tagged: bool = True) -> Row:
    """The row as its raw completion, sizes and target say it must be; stored scores are not looked at.

    `tagged` as in `score_completion`.
    """
    return {
        **row,
        **score_completion(
            row["completion"],
            read_target(row["target"]),
            frame=row["frame"],
            sizes=[(width, height) for width, height in row["sizes"]],
            resized_sizes=[(width, height) for width, height in row["resized_sizes"]],
            truncated=row["truncated"],
            tagged=tagged,
        ).to_json(),
    }


def compute_scores(rows: Sequence[Row]) -> dict[str, Any]:
    """The content of `scores.json`: arm -> benchmark -> accuracies in percent, intervals, parse ledger.

    Benchmarks of boxes also hold `compat`, the score by the official script's rule.

    Raises:
        UserError: as `check_rows`.
    """
    check_rows(rows)
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row["arm"], {}).setdefault(row["benchmark"], []).append(row)
    return {
        arm: {benchmark: _score_benchmark(groups[arm][benchmark]) for benchmark in sorted(groups[arm])}
        for arm in sorted(groups)
    }


def _score_benchmark(rows: list[Row]) -> dict[str, Any]:
    official = score_officially(rows)
    return summarize_rows(rows) | ({"compat": official} if official else {})
