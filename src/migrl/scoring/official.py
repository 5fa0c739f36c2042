"""The official score of an evaluation: the same completions as the authors' scripts would read them.

Our own score reads the last answer and demands the right image. The official rules read the first box
anywhere and never look at the image, so that the two stand side by side in `scores.json` and in the report.
"""

from dataclasses import replace

from migrl.benchmarks import OFFICIAL_RULES, OfficialRule
from migrl.errors import UserError
from migrl.grounding.samples import BoxTarget
from migrl.scoring.completions import score_by_rule
from migrl.scoring.rows import EvaluationRow, rescore_row


def has_rule(benchmark: str) -> bool:
    """Whether a benchmark of boxes has an official rule here; where nobody has stated one, none is guessed."""
    return OFFICIAL_RULES.get(benchmark) is not None


def find_rule(benchmark: str) -> OfficialRule:
    """The rule of the official script for a benchmark of boxes.

    Raises:
        UserError: it has none.
    """
    rule = OFFICIAL_RULES.get(benchmark)
    if rule is None:
        raise UserError(f"benchmark {benchmark!r}: no official rule is known for it; read it by the strict rule")
    return rule


def read_officially(row: EvaluationRow) -> EvaluationRow:
    """A box's row with the score that its benchmark's official rule gives it.

    Raises:
        UserError: as `find_rule`.
    """
    assert isinstance(row.sample.target, BoxTarget)
    if row.unanswered:
        return rescore_row(row)
    score = score_by_rule(
        row.completion,
        row.sample.target,
        find_rule(row.sample.benchmark).parse,
        frame=row.frame,
        sizes=list(zip(row.sample.sizes, row.resized_sizes, strict=True)),
    )
    return replace(row, score=score)
