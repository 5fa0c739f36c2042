"""The evaluations of a recipe's training seeds, as one.

Each further seed is trained and evaluated in stages of its own (pipeline.py), which report reads as `seed_<n>/evaluate`
beside the main chain's `evaluate`. The base is evaluated once, in the main chain; rows of what was trained say their
`seed`, in every folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrl.files import read_json
from migrl.scoring.rows import EvaluationRow, load_rows

EVALUATE = "evaluate"


def list_evaluations(inputs: Mapping[str, Path]) -> list[Path]:
    """The evaluate folders among a stage's inputs, the main chain's first, then the further seeds' in their order."""
    return [folder for name, folder in inputs.items() if name.rpartition("/")[2] == EVALUATE]


def read_evaluated_rows(inputs: Mapping[str, Path]) -> list[EvaluationRow]:
    """The rows of every seed's `samples.jsonl`, as one list for `index_rows`.

    Raises:
        UserError: a file is missing or torn, or a line is not a row.
    """
    return [row for folder in list_evaluations(inputs) for row in load_rows(folder / "samples.jsonl")]


def join_lists(inputs: Mapping[str, Path], name: str) -> list[Any]:
    """A JSON list of every evaluation, such as `evaluations.json`, as one list.

    Raises:
        UserError: a file is missing or not JSON.
    """
    return [entry for folder in list_evaluations(inputs) for entry in read_json(folder / name)]
