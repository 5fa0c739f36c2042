"""Rows of several training seeds: read as one list, and refused where they do not go together."""

from pathlib import Path
from typing import Any

import pytest
from rows import make_row

from migrl.errors import UserError
from migrl.evidence.seeds import join_lists, list_evaluations, read_evaluated_rows
from migrl.files import write_json, write_jsonl
from migrl.scoring.comparable import index_rows
from migrl.scoring.rows import EvaluationRow, load_rows


def answer(arm: str, seed: int | None, number: int, **changes: Any) -> EvaluationRow:
    """A row of one sample as evaluate writes it; each arm and seed answers something else."""
    answer = f'<answer>{{"image": 1, "bbox_2d": [0, 0, {20 + (seed or 0)}, 28]}}</answer>'
    return make_row(f"set:{number}", arm, completion=answer, **({} if seed is None else {"seed": seed}), **changes)


def make_evaluations(home: Path) -> dict[str, Path]:
    """The evaluate folders of the main chain (seed 0) and of seed 2, as inputs of the report stage."""
    chains = {"evaluate": [("base", None), ("sft", 0), ("rl", 0)], "seed_2/evaluate": [("sft", 2), ("rl", 2)]}
    for place, arms in chains.items():
        (home / place).mkdir(parents=True)
        rows = [answer(arm, seed, number).to_json() for arm, seed in arms for number in range(3)]
        write_jsonl(home / place / "samples.jsonl", rows)
        write_json(home / place / "evaluations.json", [{"arm": arm, "seed": seed} for arm, seed in arms])
    return {"fetch": home / "fetch", **{place: home / place for place in chains}, "seed_2/grpo": home / "seed_2/grpo"}


def test_the_evaluations_of_all_seeds_are_read_as_one_that_compares(tmp_path: Path) -> None:
    inputs = make_evaluations(tmp_path)
    assert list_evaluations(inputs) == [tmp_path / "evaluate", tmp_path / "seed_2/evaluate"]
    rows = read_evaluated_rows(inputs)
    index_rows(rows)
    assert [row.arm for row in rows[::3]] == ["base", "sft", "rl", "sft", "rl"]
    assert [entry["seed"] for entry in join_lists(inputs, "evaluations.json")] == [None, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([answer("rl", 2, 0)], "arm 'rl', seed 2, sample 'set:0': comes twice"),
        ([answer("base", None, 0)], "arm 'base', sample 'set:0': comes twice"),
        ([answer("rl", 5, 0)], "arm 'rl', seed 5: 2 samples that other arms answered are missing"),
        ([answer("rl", 5, n) for n in range(3)], "arm 'sft': .* seed 0 and seed 2, and should be of .* seed 5"),
        ([answer("base", 2, n) for n in range(3)], "arm 'base': .* of no seed and seed 2, and should be of no seed"),
        ([answer("rl", None, n) for n in range(3)], "arm 'rl': .* of no seed and seed 0 and seed 2, and should"),
        (
            [answer("sft", 5, n, prompt_hash="ffff") for n in range(3)],
            "prompt_hash.*'ffff' for arm 'sft', seed 5 and '0123' for arm 'base'",
        ),
    ],
)  # fmt: skip
def test_rows_whose_seeds_do_not_go_together_are_refused(
    more: list[EvaluationRow], message: str, tmp_path: Path
) -> None:
    rows = read_evaluated_rows(make_evaluations(tmp_path))
    with pytest.raises(UserError, match=message):
        index_rows([*rows, *more])


def test_a_row_whose_seed_is_no_seed_is_refused(tmp_path: Path) -> None:
    for seed in (None, -1, 1.5, True, "2"):
        write_jsonl(tmp_path / "samples.jsonl", [{**answer("rl", None, 0).to_json(), "seed": seed}])
        with pytest.raises(UserError, match="key 'seed'"):
            load_rows(tmp_path / "samples.jsonl")
