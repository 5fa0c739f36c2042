"""Rule-based rewards, computed by the evaluation's own scorer.

    accuracy  plain IoU if the right image is named (`iou`), the same but 0 below the hit threshold
              (`gated_iou`), or 1 for a hit (`hit`); for choices, 1 for the right letter
    format    1 for exactly one think block and one well-formed answer block

Raw IoU with advantages divided by the group's std blows the tiny spread of an all-miss group up to
full size (measured, reproduce/tiny_base/LOG.md); so the gate is a recipe key, and the fraction of
groups without variance is counted on hits.
"""

from collections.abc import Callable
from typing import Any, Literal

from migrl.grounding.answers import has_exact_form
from migrl.grounding.boxes import Frame
from migrl.grounding.samples import ChoiceTarget, Target, read_target
from migrl.scoring.completions import Score, score_completion

AccuracyKind = Literal["iou", "gated_iou", "hit"]
RewardFunction = Callable[..., list[float]]


def compute_accuracy_reward(score: Score, kind: AccuracyKind) -> float:
    """Reward of one scored completion."""
    if score.iou is None or kind == "hit":
        return float(score.hit)
    if kind == "gated_iou":
        return score.iou if score.hit else 0.0
    return score.iou


def compute_format_reward(completion: str, target: Target) -> float:
    """1 if the completion has the exact output form for its kind of target, else 0."""
    return float(has_exact_form(completion, "choice" if isinstance(target, ChoiceTarget) else "box"))


def measure_zero_variance(hits: list[bool], group: int) -> float:
    """Fraction of groups whose rollouts all hit or all miss: they teach nothing."""
    groups = [hits[i : i + group] for i in range(0, len(hits), group)]
    return sum(len(set(some)) == 1 for some in groups) / len(groups)


def make_reward_functions(kind: AccuracyKind, group: int, frame: Frame, end_tokens: list[int]) -> list[RewardFunction]:
    """The two reward functions in trl's form: `(prompts, completions, <dataset columns>) -> rewards`.

    The columns `target`, `sizes` and `resized_sizes` come from the RL data set; rows of one group are consecutive, as
    trl samples them. A completion that none of `end_tokens` ends was cut at the limit, as in evaluation.
    """

    ends = [[token] for token in end_tokens]

    def accuracy(
        completions: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        target: list[dict[str, Any]],
        sizes: list[list[list[int]]],
        resized_sizes: list[list[list[int]]],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float]:
        scores = [
            score_completion(
                completion[0]["content"],
                goal,
                frame=frame,
                sizes=[(width, height) for width, height in size],
                resized_sizes=[(width, height) for width, height in resized],
                truncated=ids[-1:] not in ends,
            )
            for completion, ids, goal, size, resized in zip(
                completions, completion_ids, map(restore_target, target), sizes, resized_sizes, strict=True
            )
        ]
        hits = [score.hit for score in scores]
        log_metric("hit", sum(hits) / len(hits))
        log_metric("zero_variance", measure_zero_variance(hits, group))
        return [compute_accuracy_reward(score, kind) for score in scores]

    def format(completions: list[list[dict[str, str]]], target: list[dict[str, Any]], **columns: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        return [compute_format_reward(text, restore_target(goal)) for text, goal in zip(texts, target, strict=True)]

    return [accuracy, format]


def restore_target(columns: dict[str, Any]) -> Target:
    """A target from its row of a table of mixed targets, which has null keys."""
    return read_target({key: value for key, value in columns.items() if value is not None})
