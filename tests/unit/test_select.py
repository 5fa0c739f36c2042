"""Rejection sampling keeps what RL can learn from."""

from typing import Any

import pytest

from migrl.recipe import SelectSettings
from migrl.stages.select import keep_solvable

COMMON: dict[str, Any] = {"rollouts": 4, "batch": 1}


def count_hits(hits: int, task: str = "region") -> dict[str, Any]:
    return {"uid": f"{task}-{hits}", "task": task, "hits": hits, "completions": [""] * 4}


ROWS = [count_hits(hits) for hits in range(5)]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, {1, 2, 3}),
        ({"max_pass_rate": 0.75}, {1, 2, 3}),
        ({"max_pass_rate": 0.5}, {1, 2}),
        ({"max_pass_rate": 0.1}, set()),
        ({"keep": "all", "max_pass_rate": 0.5}, {0, 1, 2, 3, 4}),
    ],
)
def test_what_is_always_or_never_hit_is_left_out_and_what_is_hit_too_often(
    settings: dict[str, Any], kept: set[int]
) -> None:
    chosen = keep_solvable(ROWS, SelectSettings(max_per_task=80, **COMMON, **settings))
    assert chosen == {f"region-{hits}" for hits in kept}


def test_no_task_has_more_than_its_share_of_the_pool() -> None:
    rows = [count_hits(hits, task) for task in ("region", "referring") for hits in range(5)]
    chosen = keep_solvable(rows, SelectSettings(max_per_task=2, **COMMON))
    assert len(chosen) == 4 and sum(uid.startswith("region") for uid in chosen) == 2
