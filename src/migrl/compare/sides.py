"""One side of a comparison: an arm of a run, each answer read anew from its raw completion."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from migrl.errors import UserError
from migrl.evidence.evaluations import EVALUATIONS, read_evaluations
from migrl.grounding.boxes import Box, Frame, convert_box
from migrl.grounding.samples import BoxTarget
from migrl.report.text import name_arm
from migrl.scoring.completions import Score
from migrl.scoring.official import read_officially
from migrl.scoring.rows import EvaluationRow, load_rows, rescore_row

Name = Literal["A", "B"]
Rule = Literal["strict", "official"]
ROW_FILES = ("samples.jsonl.gz", "samples.jsonl")


@dataclass(frozen=True)
class Reply:
    """What was read from one answer. `completion`, `tokens` and `truncated` are None where a peer does not tell them.

    The score's box is there in the unit frame at least, of the image that is named, or of the target's. Of a peer's
    line `rule` is the rule that it says it was read by, and `follows` is False where the run's target and sizes score
    otherwise what the line holds.
    """

    score: Score
    completion: str | None = None
    tokens: int | None = None
    truncated: bool | None = None
    rule: str | None = None
    follows: bool = True


@dataclass(frozen=True)
class Side:
    """One side: who answered, and by uid the rows that say what was asked and the answers.

    A peer's rows are the run's; an answer of it to none of the run's samples has no row. `title` says who answered,
    `label` so in two words; `names_image` whether the rule reads the image of a box; `evaluation` is the arm's entry in
    evaluations.json, None without that file; `notes` are sentences on what a reader should know of this side.
    """

    name: Name
    title: str
    label: str
    samples: Mapping[str, EvaluationRow]
    replies: Mapping[str, Reply]
    names_image: bool
    evaluation: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    is_peer: bool = False


@dataclass(frozen=True)
class Run:
    """The rows of a run, as they lie in `file`; `path` is what the user named."""

    path: Path
    file: Path
    rows: tuple[EvaluationRow, ...]


def read_run(path: Path) -> Run:
    """The rows of a results folder, of the folder of stage evaluate or report, or of a file of samples.

    Raises:
        UserError: no samples there, a folder that holds them packed and unpacked, or broken ones.
    """
    if path.is_file():
        return Run(path, path, tuple(load_rows(path)))
    found = [path / name for name in ROW_FILES if (path / name).is_file()]
    if not found:
        raise UserError(f"{path}: holds no samples.jsonl; name a results folder, or runs/<recipe>/evaluate")
    if len(found) > 1:
        raise UserError(f"{path}: holds both {' and '.join(ROW_FILES)}; name the file")
    return Run(path, found[0], tuple(load_rows(found[0])))


def pick_arm(name: Name, run: Run, arm: str, *, seed: int | None = None, rule: Rule = "strict") -> Side:
    """One arm of a run, read by a rule.

    Raises:
        UserError: a uid that comes twice, an arm or seed that is not there, or several training seeds and none named.
    """
    chosen = [row for row in run.rows if row.arm == arm]
    if not chosen:
        arms = ", ".join(sorted({repr(row.arm) for row in run.rows})) or "none"
        raise UserError(f"{run.file}: no arm {arm!r}; name one with {_option('--arm', name)}: {arms}")
    chosen, seed = _pick_seed(chosen, run.file, name, seed)
    samples: dict[str, EvaluationRow] = {}
    for row in chosen:
        uid = row.sample.uid
        if uid in samples:
            raise UserError(f"{run.file}: arm {arm!r}, sample {uid!r}: comes twice; remove one of the two rows")
        samples[uid] = row
    read = {uid: rescore_row(row) for uid, row in samples.items()}
    changed = sum(read[uid].score.hit != row.score.hit for uid, row in samples.items())
    note = f"{name}: {changed} stored hits are not what this code reads in the completions; its own reading counts"
    return Side(
        name=name,
        title=f"{run.path}, arm {arm}" + ("" if seed is None else f", training seed {seed}"),
        label=f"{name}, {name_arm(arm)}",
        samples=samples,
        replies={uid: read_reply(row, rule) for uid, row in read.items()},
        names_image=rule == "strict",
        evaluation=_find_evaluation(run.file.parent, arm, seed),
        notes=(note,) if changed else (),
    )


def _pick_seed(
    rows: list[EvaluationRow], file: Path, name: Name, seed: int | None
) -> tuple[list[EvaluationRow], int | None]:
    seeds = sorted({row.seed for row in rows if row.seed is not None})
    if seed is None and len(seeds) <= 1:
        return rows, seeds[0] if seeds else None
    if seed not in seeds:
        known = ", ".join(map(str, seeds)) or "none is stated"
        wanted = "several training seeds" if seed is None else f"no training seed {seed}"
        raise UserError(f"{file}: {wanted} of this arm; name one with {_option('--seed', name)}: {known}")
    return [row for row in rows if row.seed == seed], seed


def _option(option: str, name: Name) -> str:
    return option if name == "A" else f"{option}-b"


def _find_evaluation(folder: Path, arm: str, seed: int | None) -> Mapping[str, Any] | None:
    file = folder / EVALUATIONS
    if not file.is_file():
        return None
    found = [entry for entry in read_evaluations(file) if (entry["arm"], entry["seed"]) == (arm, seed)]
    if not found:
        raise UserError(f"{file}: does not say how arm {arm!r}, seed {seed}, was evaluated; evaluate again")
    return found[0]


def read_reply(row: EvaluationRow, rule: Rule) -> Reply:
    """What a rescored row's completion says by a rule; letters are read by one rule, ours, under either name."""
    score = row.score
    if rule == "official" and isinstance(row.sample.target, BoxTarget):
        score = read_officially(row).score
        for frame, box in (score.boxes or {}).items():
            score = replace(score, boxes={"unit": to_unit(box, frame, row, row.sample.target.image)})
    return Reply(score, row.completion, row.tokens, row.truncated)


def to_unit(box: Box, frame: Frame, row: EvaluationRow, image: int) -> Box:
    """A box of one of a row's images (1-based) in the unit frame."""
    original, resized = row.sample.sizes[image - 1], row.resized_sizes[image - 1]
    return convert_box(box, frame, "unit", original_size=original, resized_size=resized)
