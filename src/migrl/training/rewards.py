"""Rule-based rewards: each is a function of one rollout, which evaluation's own scorer has read, and has a maximum.

    accuracy        IoU if the right image is named; for choices, 1 for the right letter
    gated_accuracy  the same, but 0 without a hit
    hit             1 for a hit
    format          1 for exactly one think block and one well-formed answer block
    truncation      -1 for a completion that was cut at the limit

Where any number of boxes may be right, IoU is that of the list, sum of the matched boxes' IoUs / max(found, true), from
0 to 1 and 1 for an empty answer where nothing is to be found (scoring/matching.py); a hit finds every box at IoU 0.5
and no other, and the well-formed answer is a list.

A recipe lists those it wants with their weights, `grpo.rewards: [{name: accuracy, weight: 1}, ...]`. To add one: a
function here, its line in REWARDS, and its name in `recipe.RewardName`.

Raw IoU with advantages divided by the group's std blows the tiny spread of an all-miss group up to full size (measured,
reproduce/tiny_base/LOG.md); so there are gated ones, and the share of groups without variance is counted on hits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from migrl.grounding.answers import has_exact_form
from migrl.models.inputs import ModelInput
from migrl.recipe import RewardSettings
from migrl.scoring.completions import Score
from migrl.training.rollouts import score_answer

RewardFunction = Callable[..., list[float]]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of the prompt `item`, and its score as in evaluation."""

    item: ModelInput
    completion: str
    tokens: int
    truncated: bool
    score: Score


@dataclass(frozen=True)
class Reward:
    """What a rollout earns; a perfect one earns `maximum`, which is 0 for a penalty."""

    compute: Callable[[Rollout], float]
    maximum: float


def reward_accuracy(rollout: Rollout) -> float:
    score = rollout.score
    return float(score.hit if score.iou is None else score.iou)


def reward_gated_accuracy(rollout: Rollout) -> float:
    return reward_accuracy(rollout) if rollout.score.hit else 0.0


def reward_hit(rollout: Rollout) -> float:
    return float(rollout.score.hit)


def reward_format(rollout: Rollout) -> float:
    return float(has_exact_form(rollout.completion, rollout.item.sample.kind))


def reward_truncation(rollout: Rollout) -> float:
    return -float(rollout.truncated)


REWARDS: dict[str, Reward] = {
    "accuracy": Reward(reward_accuracy, maximum=1),
    "gated_accuracy": Reward(reward_gated_accuracy, maximum=1),
    "hit": Reward(reward_hit, maximum=1),
    "format": Reward(reward_format, maximum=1),
    "truncation": Reward(reward_truncation, maximum=0),
}


class RolloutReader:
    """Reads a batch's completions once for all rewards, and logs `hit` and `zero_variance` of it."""

    def __init__(self, items: Sequence[ModelInput], group: int, end_tokens: Sequence[int]) -> None:
        self.items = {item.sample.uid: item for item in items}
        self.group = group
        self.ends = [[token] for token in end_tokens]
        self.rollouts: list[Rollout] = []  # of the batch that was read last
        self._batch: list[list[dict[str, str]]] = []

    def read(
        self,
        uid: list[str],
        completions: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        log_metric: Callable[[str, float], None],
    ) -> list[Rollout]:
        """The rollouts of a batch, rows of one group consecutive, as trl samples them.

        A completion that no end token ends was cut at the limit, as in evaluation.
        """
        if completions is not self._batch:  # trl hands each reward the same list
            rows = zip(uid, completions, completion_ids, strict=True)
            self.rollouts = [self._read_one(self.items[name], some[0]["content"], ids) for name, some, ids in rows]
            self._batch = completions
            hits = [rollout.score.hit for rollout in self.rollouts]
            log_metric("hit", sum(hits) / len(hits))
            log_metric("zero_variance", measure_zero_variance(hits, self.group))
        return self.rollouts

    def _read_one(self, item: ModelInput, text: str, ids: list[int]) -> Rollout:
        truncated = ids[-1:] not in self.ends
        score = score_answer(item, text, truncated=truncated)
        return Rollout(item, text, len(ids), truncated, score)


def measure_zero_variance(hits: list[bool], group: int) -> float:
    """Share of groups whose rollouts all hit or all miss: they teach nothing."""
    groups = [hits[i : i + group] for i in range(0, len(hits), group)]
    return sum(len(set(some)) == 1 for some in groups) / len(groups)


def make_reward_functions(rewards: Sequence[RewardSettings], reader: RolloutReader) -> list[RewardFunction]:
    """The recipe's rewards in trl's form: `(completions, completion_ids, uid, log_metric, ...) -> rewards`.

    trl logs each under its name, and `uid` is a column of its data set.
    """
    return [_make_function(setting.name, reader) for setting in rewards]


def _make_function(name: str, reader: RolloutReader) -> RewardFunction:
    def compute(
        uid: list[str],
        completions: list[list[dict[str, str]]],
        completion_ids: list[list[int]],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float]:
        rollouts = reader.read(uid, completions, completion_ids, log_metric)
        return [REWARDS[name].compute(rollout) for rollout in rollouts]

    compute.__name__ = name
    return compute
