"""Writes prompts.json: the exact messages of one sample of every task. Run on purpose only:

python tests/golden/make_prompts.py
"""

import json
from pathlib import Path
from random import Random
from typing import Any

from migrl.grounding.prompts import build_messages, quote_boxes
from migrl.world.scenes import CELL_PX
from migrl.world.tasks import SETS

GOLDEN = Path(__file__).with_name("prompts.json")


def render_prompts() -> dict[str, Any]:
    """Messages by set and task, boxes quoted in resized pixels."""
    prompts = {}
    for name, (makers, palette) in SETS.items():
        for task, make in makers.items():
            case = make(Random(f"golden/{task}"), palette)[0]
            first = case.scenes[0]
            resized = (first.columns * CELL_PX, first.rows * CELL_PX)
            question = quote_boxes(case.question, "resized_px", original_size=first.size, resized_size=resized)
            kind = "choice" if case.letter else "box" if case.every is None else "boxes"
            prompts[f"{name}/{task}"] = build_messages(question, len(case.scenes), "think", kind)
    return prompts


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(render_prompts(), indent=1) + "\n")
