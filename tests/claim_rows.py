"""Claims and evaluation rows for tests: as small as can be, in their real forms."""

from typing import Any

from migrl.claims.claims import Claim
from migrl.scoring.scores import Row, rescore_row


def make_claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        "id": "c",
        "recipe": "tiny",
        "statement": "Better.",
        "attested": {"v1": "abstract"},
        "benchmarks": ["one"],
        "minuend": "rl",
        "subtrahend": "sft",
    }
    return Claim.model_validate(fields | changes)


def make_rows(arm: str, hits: dict[str, list[bool]], **more: Any) -> list[Row]:
    """Choice rows; `hits` maps "benchmark/task" to one flag a sample, each sample its own image set."""
    return [
        {
            "uid": f"{place}:{number}",
            "arm": arm,
            "benchmark": place.split("/")[0],
            "task": place.split("/")[1],
            "cluster": str(number),
            "images": ["a.png"],
            "sizes": [[28, 28]],
            "resized_sizes": [[28, 28]],
            "question": "Which?",
            "prompt_hash": "0123",
            "frame": "unit",
            "target": {"letter": "A", "options": 2},
            "completion": f"<answer>({'A' if hit else 'B'})</answer>",
            "tokens": 5,
            "truncated": False,
            "status": "ok",
            "image": None,
            "boxes": None,
            "letter": "A" if hit else "B",
            "iou": None,
            "hit": hit,
            **more,
        }
        for place, flags in hits.items()
        for number, hit in enumerate(flags)
    ]


def make_box_rows(arm: str, answers: list[tuple[int, int]], benchmark: str = "mini_mig") -> list[Row]:
    """Box rows over two images, the second right; an answer is the image it names and the width of its box."""
    rows = []
    for number, (image, width) in enumerate(answers):
        completion = f'<answer>{{"image": {image}, "bbox_2d": [0, 0, {width}, 28]}}</answer>'
        row = {
            "uid": f"{benchmark}:{number}",
            "arm": arm,
            "benchmark": benchmark,
            "task": "t",
            "cluster": str(number),
            "images": ["a.png", "b.png"],
            "sizes": [[56, 56], [56, 56]],
            "resized_sizes": [[56, 56], [56, 56]],
            "question": "Where?",
            "prompt_hash": "0123",
            "frame": "resized_px",
            "target": {"image": 2, "box_unit": [0.0, 0.0, 0.5, 0.5]},
            "completion": completion,
            "tokens": 9,
            "truncated": False,
        }
        rows.append(rescore_row(row))
    return rows
