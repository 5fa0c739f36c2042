"""Small inputs of a report: rows that hold every status and outcome, scores, claims, logs, provenance."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import rows
from PIL import Image

from migrl.grounding.answers import READABLE, STATUSES, Status
from migrl.grounding.samples import BoxTarget
from migrl.report.build import ReportLogs, write_report
from migrl.report.rollouts import RolloutView, build_rollouts
from migrl.report.text import BADGES
from migrl.scoring.completions import Score
from migrl.scoring.rows import EvaluationRow

ARMS = ("base", "sft", "rl")
NO_LOGS = ReportLogs(training={}, pass_rates=None, filters=None)
PASS_RATES = {"k": 4, "counts": {"0": 12, "2": 8, "4": 6}, "kept": 8, "tasks": {"region": {"0": 3}}}
LOGS = ReportLogs(
    training={
        "grpo": [
            {"step": k, "reward": 1 + k / 50, "hit_reward": 0.5, "kl": None, "zero_variance": 0.2} for k in range(1, 50)
        ],
        "sft": [{"step": k, "loss": 2 / k} for k in range(1, 9)],
    },
    pass_rates=PASS_RATES,
    filters={"candidates": 90, "kept": 40, "rejected": {"parse": 30, "leak": 20}, "planted": {"leak": 20}},
    pass_rates_after={
        "k": 4,
        "samples": 20,
        "before": {"counts": {"0": 12, "2": 8}, "mean_pass_rate": 0.2},
        "after": {"counts": {"0": 3, "4": 17}, "mean_pass_rate": 0.85},
        "tasks": {"region": {"before": {"0": 12, "2": 8}, "after": {"0": 3, "4": 17}}},
    },
)
FACTS = {
    "recipe": "tiny",
    "git_revision": "abc123",
    "dirty": False,
    "data": {"revisions": {}, "splits": {"mini.jsonl": "feed" * 16}},
    "versions": {"torch": "2.13.0"},
}
EVALUATIONS = [
    {"arm": arm, "seed": None, "weights": f"{k}fade" * 12, "engine": "transformers", "max_pixels": 9600}
    for k, arm in enumerate(ARMS)
]


def make_row(uid: str, arm: str, *, hit: bool, status: Status = "ok", **changes: Any) -> EvaluationRow:
    """One arm's answer to one sample; its uid begins with benchmark and task. It says what it is scored as."""
    images = ["eval/shared_1.png", f"eval/{uid.replace(':', '_')}_2.png"]
    row = rows.make_row(
        uid,
        arm,
        **{
            "task": uid.split(":")[1],
            "images": images,
            "sizes": [[40, 30], [32, 32]],
            "resized_sizes": [[28, 28], [28, 28]],
            "question": "Locate the difference of these two images in image 2.",
            "target": {"image": 2, "box_unit": [0.125, 0.125, 0.375, 0.375]},
            "completion": "<think>Image 2 is new.</think><answer>…</answer>",
            "truncated": status == "truncated",
            **changes,
        },
    )
    if row.sample.kind == "choice":
        return replace(row, score=Score(status, None, None, "C", None, False))
    box_px = (4.0, 4.0, 12.0, 12.0) if hit else (20.0, 2.0, 30.0, 9.0)
    if status not in READABLE:
        return replace(row, score=Score(status, None, None, None, 0.0, False))
    return replace(row, score=Score(status, 2, {"original_px": box_px}, None, float(hit), hit))


def make_rows(images_root: Path, *, more: int = 0) -> list[EvaluationRow]:
    """One grounding task whose samples were fixed, broken, kept and failed in every way, and one of choices.

    `more` adds that many samples that no arm hits.
    """
    answers = []
    hits = {"mini:region:0": (0, 0, 1), "mini:region:1": (0, 1, 0), "mini:region:2": (1, 1, 1)}
    for uid, per_arm in hits.items():
        answers += [make_row(uid, arm, hit=bool(hit)) for arm, hit in zip(ARMS, per_arm, strict=True)]
    for k, status in enumerate(STATUSES):
        answers += [make_row(f"mini:region:f{k}", arm, hit=False, status=status) for arm in ARMS]
    choice = {"target": {"letter": "B", "options": 3}}
    answers += [make_row("quiz:counting:0", arm, hit=False, **choice) for arm in ARMS]
    answers += [make_row(f"mini:more:{k:03}", arm, hit=False) for k in range(more) for arm in ARMS]
    write_images(answers, images_root)
    return answers


def write_images(answers: list[EvaluationRow], images_root: Path) -> None:
    """A picture for every image path that is not there yet."""
    for row in answers:
        for path, size in zip(row.sample.images, row.sample.sizes, strict=True):
            (images_root / path).parent.mkdir(parents=True, exist_ok=True)
            if not (images_root / path).exists():
                Image.new("RGB", size, (30, len(path), 90)).save(images_root / path)


def make_rollouts(folder: Path, steps: int = 3, text: str = "") -> RolloutView:
    """A group of two completions at each of some steps: a hit, and a miss that says `text`; the picture is made."""
    row = next(row for row in make_rows(folder / "images") if isinstance(row.sample.target, BoxTarget))
    write_images([row], folder / "images")
    common = {
        "characters": 9,
        "tokens": 7,
        "advantage": 0.5,
        "status": "ok",
        "letter": None,
        "rewards": {},
        "boxes": [{"image": 1, "box_px": [1, 2, 9, 9]}],
    }
    hit = {**common, "text": "<answer>yes</answer>", "reward": 1.1, "iou": 0.9, "hit": True}
    miss = {**hit, "text": f"<answer>no</answer>{text}", "reward": 0.1, "iou": 0.0, "hit": False}
    rows = [{"step": step, "sample": row.sample.uid, "completions": [hit, miss]} for step in range(1, steps + 1)]
    return build_rollouts(rows, [row.sample], folder / "images")


def make_scores(tasks: tuple[str, ...] = ("region",)) -> dict[str, Any]:
    """scores.json of `mini` alone: the same score for every arm."""
    score = {
        "macro": 61.5,
        "micro": 60.0,
        "low": 55.0,
        "high": 68.0,
        "tasks": {task: {"accuracy": 61.5, "n": 10, "low": 55.0, "high": 68.0} for task in tasks},
        "ledger": {status: 3 + k for k, status in enumerate(STATUSES)},
        "truncation_rate": 0.1,
        "compat": {"rule": "script", "macro": 71.5, "low": 66.0, "high": 77.0, "micro": 70.0},
    }
    return {arm: {"mini": score} for arm in ARMS}


def make_claims() -> list[dict[str, Any]]:
    """One claim of each verdict; the first has all that a claim can have, the last was not run."""
    claims: list[dict[str, Any]] = [
        {
            "id": f"claim_{k}",
            "statement": f"Claim {k}",
            "attested": {"v1": "abstract"},
            "benchmarks": ["mini"],
            "tasks": None,
            "averaging": "macro",
            "rule": "strict",
            "minuend": "rl",
            "subtrahend": "sft",
            "expected": None,
            "delta": 9.0,
            "low": 4.0,
            "high": 14.0,
            "n": 100,
            "clusters": 80,
            "seeds": 1,
            "standard_error": 2.5,
            "p_value": 0.002,
            "p_adjusted": 0.008,
            "verdict": name,
            "reason": f"reason {k}",
            "equivalence": None,
            "power": {"standard_error": 2.5, "basis": "measured", "detectable": 9.02, "claimed": None},
            "readings": [],
            "reference": None,
        }
        for k, name in enumerate(BADGES)
    ]
    official = {key: claims[0][key] for key in ("benchmarks", "tasks", "averaging", "minuend", "subtrahend", "n")}
    claims[0] |= {
        "expected": 9.04,
        "equivalence": {"difference": -0.04, "low": -4.2, "high": 4.1, "within": 4.2},
        "power": {"standard_error": 2.5, "basis": "measured", "detectable": 9.02, "claimed": 0.99},
        "readings": [
            official
            | {
                "id": "official",
                "differs": "scored by the official rule",
                "rule": "official",
                "verdict": "inconclusive",
            }
            | {"delta": 2.0, "low": -1.0, "high": 5.0, "clusters": 80, "standard_error": 1.5, "reason": "too small"}
        ],
        "reference": {"deltas": [8.0, 10.0], "prediction_low": 1.0, "prediction_high": 17.0, "inside": True},
        "unknown": ["the number of steps"],
    }
    claims[-1] |= {"delta": None, "low": None, "high": None, "n": 0, "p_value": None, "p_adjusted": None}
    return claims


LEVELS = [
    {
        "id": "index",
        "benchmark": "mini",
        "task": None,
        "averaging": "macro",
        "arm": "rl",
        "stated": 59.44,
        "source": "an index",
        "measured": 61.5,
        "low": 55.0,
        "high": 68.0,
        "n": 10,
        "contains": True,
        "note": "",
    }
]


def write(folder: Path, answers: list[EvaluationRow], out: str = "out", **changes: Any) -> str:
    """Write the report of `answers`, whose images lie in `folder`/images, to `folder`/`out`; return its HTML."""
    given: dict[str, Any] = {
        "scores": make_scores(),
        "claims": make_claims(),
        "levels": LEVELS,
        "evaluations": EVALUATIONS,
        "logs": NO_LOGS,
        "facts": FACTS,
    }
    write_report(rows=answers, images_root=folder / "images", out=folder / out, **(given | changes))
    return (folder / out / "report.html").read_text(encoding="utf-8")
