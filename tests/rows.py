"""Evaluation rows for tests, and their lines as they lie in a file."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from migrl.scoring.rows import EvaluationRow, parse_row, rescore_row

Line = dict[str, Any]
UNSCORED = {"status": "none", "image": None, "boxes": None, "letter": None, "iou": 0.0, "hit": False}


def make_row(uid: str, arm: str = "rl", **changes: Any) -> EvaluationRow:
    """One answer, scored, of a benchmark that the uid begins with; changes are in the form of a file."""
    line = {
        "uid": uid,
        "arm": arm,
        "benchmark": uid.split(":")[0],
        "task": "t",
        "cluster": uid,
        "images": ["a.png", "b.png"],
        "sizes": [[56, 56], [60, 60]],
        "resized_sizes": [[56, 56], [56, 56]],
        "question": "Where?",
        "prompt_hash": "0123",
        "frame": "resized_px",
        "target": {"image": 2, "box_unit": [0.0, 0.0, 0.5, 0.5]},
        "completion": '<answer>{"image": 2, "bbox_2d": [0, 0, 28, 28]}</answer>',
        "tokens": 9,
        "truncated": False,
        **changes,
    }
    score = UNSCORED | ({"iou": None} if "letter" in line["target"] else {})
    return rescore_row(parse_row(line | score, "the row"))


def change_row(row: EvaluationRow, **changes: Any) -> EvaluationRow:
    """The row with keys of its line changed, scored again."""
    return rescore_row(parse_row(row.to_json() | changes, "the row"))


def read_lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def pack_lines(lines: Iterable[Line], path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
