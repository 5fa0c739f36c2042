"""Claims and evaluation rows for tests: as small as can be, in their real forms."""

from collections.abc import Iterable, Sequence
from typing import Any

from rows import make_row

from migrl.claims.claims import Claim
from migrl.claims.verdicts import judge_claims
from migrl.scoring.comparable import index_rows
from migrl.scoring.rows import EvaluationRow


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


def make_rows(arm: str, hits: dict[str, list[bool]], **more: Any) -> list[EvaluationRow]:
    """Choice rows; `hits` maps "benchmark/task" to one flag a sample, each sample its own image set."""
    alone = {"images": ["a.png"], "sizes": [[28, 28]], "resized_sizes": [[28, 28]]}
    return [
        make_row(
            f"{place}:{number}",
            arm,
            benchmark=place.split("/")[0],
            task=place.split("/")[1],
            cluster=str(number),
            target={"letter": "A", "options": 2},
            completion=f"<answer>({'A' if hit else 'B'})</answer>",
            **alone,
            **more,
        )
        for place, flags in hits.items()
        for number, hit in enumerate(flags)
    ]


def make_box_rows(arm: str, answers: list[tuple[int, int]], benchmark: str = "mini_mig") -> list[EvaluationRow]:
    """Box rows over two images, the second right; an answer is the image it names and the width of its box."""
    return [
        make_row(
            f"{benchmark}:{number}",
            arm,
            completion=f'<answer>{{"image": {image}, "bbox_2d": [0, 0, {width}, 28]}}</answer>',
        )
        for number, (image, width) in enumerate(answers)
    ]


def judge(claims: Sequence[Claim], rows: Iterable[EvaluationRow], *more: Any, **options: Any) -> list[dict[str, Any]]:
    """The entries of claims.json."""
    return judge_claims(claims, index_rows(rows), *more, **options)
