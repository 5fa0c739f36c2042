"""Scoring anyone's raw outputs on a benchmark: predictions in, the table out.

    read_predictions -> score_items -> build_report

A prediction is a line `{"uid": "mig_bench:17", "completion": "raw text"}`; `truncated` (true or false) and `tokens`
may stand beside it and are counted. Every item needs exactly one prediction.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.benchmarks import BENCHMARKS, Annotations, Benchmark, Item
from migrl.benchmarks.readings import ChoiceQuestion
from migrl.errors import UserError
from migrl.files import hash_file, read_jsonl
from migrl.grounding.answers import find_answer_block
from migrl.grounding.boxes import PIXEL_FACTOR, Frame, Size
from migrl.grounding.images import read_sizes
from migrl.grounding.samples import BoxTarget, ChoiceTarget, Sample
from migrl.outputs import DETAILS_MARK, check_output, write_output
from migrl.scoring.completions import IOU_DECIMALS, Score, score_by_rule
from migrl.scoring.rows import ScoredRow
from migrl.scoring.tables import MAX_TOKENS, measure_hits, summarize_rows

SHOWN_UIDS = 20
STRICT = "strict"
"""The one rule that reads the image which an answer names."""
_UNIT: Size = (1, 1)


@dataclass(frozen=True)
class Prediction:
    """One raw output; `truncated` and `tokens` are None where the file does not tell."""

    completion: str
    truncated: bool | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class ScoreSettings:
    """How predictions are read.

    Pixel limits and `pixel_factor`, the side in px of the model's tokens, matter for the frame `resized_px` only.

    `cut_answer` hands the parser what stands in the last answer block, where there is one: toolkit rules that look
    at the start or the end of a reply score every reasoning model as wrong without it.
    """

    parser: str = "compat"
    frame: Frame = "permille"
    min_pixels: int = 3136
    max_pixels: int = 12_845_056
    cut_answer: bool = False
    pixel_factor: int = PIXEL_FACTOR

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels or self.max_pixels < self.pixel_factor**2:
            raise UserError(
                f"--min-pixels {self.min_pixels}, --max-pixels {self.max_pixels}: need 0 < min <= max and a max of at "
                f"least {self.pixel_factor**2}, one token; give the limits that the model was run with"
            )


def rescore_file(
    name: str,
    annotations_path: Path,
    predictions_path: Path,
    settings: ScoreSettings,
    images: Path,
    details: Path | None = None,
) -> dict[str, Any]:
    """The report on a file of predictions; what `migrl score` prints. `details` gets one JSON line per item.

    Raises:
        UserError: an unknown benchmark, and as the steps below.
    """
    if name not in BENCHMARKS:
        raise UserError(f"benchmark {name!r}: unknown; the benchmarks are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    if details is not None:
        check_output(details, "--details", DETAILS_MARK)
    annotations = benchmark.load(annotations_path, images, name)
    predictions = read_predictions(predictions_path, annotations)
    rows = score_items(benchmark, annotations, predictions, settings, images)
    if details is not None:
        rule = benchmark.pick_rule(settings.parser, annotations.version)
        lines = [json.dumps(describe_row(row, rule), ensure_ascii=False) + "\n" for row in rows]
        write_output(details, "".join(lines), "--details", DETAILS_MARK)
    return build_report(benchmark, annotations, rows, settings, annotations_path)


def rescore_detections(annotations_path: Path, predictions_path: Path) -> dict[str, Any]:
    """The report on MC-Bench, whose predictions are a COCO result list: any number of boxes per question.

    Raises:
        UserError: a broken annotation file or result list.
    """
    from migrl.benchmarks.mc_bench import load_detections, load_mc_bench
    from migrl.benchmarks.mc_bench_scores import score_mc_bench

    bench = load_mc_bench(annotations_path)
    table = score_mc_bench(bench, load_detections(predictions_path, bench))
    return {"benchmark": "mc_bench", "annotations_sha256": hash_annotations(annotations_path), **table}


def read_predictions(path: Path, annotations: Annotations) -> dict[str, Prediction]:
    """One prediction for each item, by uid.

    Raises:
        UserError: a broken line, or uids that are missing, come twice, or are none of the benchmark's (named).
    """
    found: dict[str, Prediction] = {}
    if not path.is_file():
        raise UserError(f"{path}: no file; name the file of predictions")
    for number, row in enumerate(read_jsonl(path, remedy="write it again, one JSON object a line"), 1):
        where = f"{path}, record {number}"
        uid, completion = row.get("uid"), row.get("completion")
        truncated, tokens = row.get("truncated"), row.get("tokens")
        if not isinstance(uid, str):
            raise UserError(f"{where}: key 'uid': must be a text such as 'mig_bench:17', not {uid!r}; correct it")
        if not isinstance(completion, str):
            raise UserError(f"{where}: key 'completion': must be the raw text, not {completion!r}; correct it")
        if truncated is not None and not isinstance(truncated, bool):
            raise UserError(f"{where}: key 'truncated': must be true or false, not {truncated!r}; correct it")
        if tokens is not None and (type(tokens) is not int or not 0 <= tokens <= MAX_TOKENS):
            raise UserError(f"{where}: key 'tokens': must be a count up to {MAX_TOKENS}, not {tokens!r}; correct it")
        if uid in found:
            raise UserError(f"{where}: uid {uid!r} comes twice; keep one of its predictions")
        found[uid] = Prediction(completion, truncated, tokens)
    expected = [item.sample.uid for item in annotations.items]
    ignored = set(annotations.defects.get("no_answer", ()))
    known = ignored.union(expected)
    if unknown := [uid for uid in found if uid not in known]:
        remedy = f"score with the file they were made from; uids there are like {expected[0]!r}"
        raise UserError(f"{path}: {_name(unknown)} not in the annotations; {remedy}")
    if missing := [uid for uid in expected if uid not in found]:
        raise UserError(f"{path}: {_name(missing)} without a prediction; add them (an empty completion is a miss)")
    return found


def _name(uids: list[str]) -> str:
    shown = ", ".join(map(repr, uids[:SHOWN_UIDS]))
    return f"{len(uids)} uid{'s' * (len(uids) > 1)} ({shown}{', ...' * (len(uids) > SHOWN_UIDS)})"


def score_items(
    benchmark: Benchmark,
    annotations: Annotations,
    predictions: Mapping[str, Prediction],
    settings: ScoreSettings,
    images: Path,
) -> list[ScoredRow]:
    """One row an item; IoUs are exact fractions.

    Raises:
        UserError: no such parser, or a frame in pixels and a picture that is missing.
    """
    rule = benchmark.pick_rule(settings.parser, annotations.version)
    parse: Any = benchmark.parsers[rule]
    sizes = _SizeReader(images, settings)
    cut = settings.cut_answer and rule not in (STRICT, "box_only")  # these look for the block themselves
    rows = []
    for item in annotations.items:
        prediction = predictions[item.sample.uid]
        text = cut_answer(prediction.completion) if cut else prediction.completion
        score = _score(item, text, parse, sizes)
        rows.append(ScoredRow(item.sample, score, prediction.truncated, prediction.tokens))
    return rows


def cut_answer(completion: str) -> str:
    """What stands in the last closed answer block; the whole text where there is none."""
    block = find_answer_block(completion)
    return completion if block is None else block.strip()


class _SizeReader:
    """Original and resized sizes of an item's images; files are opened only for frames in pixels."""

    def __init__(self, images: Path, settings: ScoreSettings) -> None:
        self.images = images
        self.settings = settings
        self.needed = settings.frame in ("original_px", "resized_px")
        self._known: dict[str, tuple[Size, Size]] = {}

    def read(self, sample: Sample) -> list[tuple[Size, Size]]:
        if not self.needed:
            return [(_UNIT, _UNIT)] * len(sample.images)
        return [self._read_one(name) for name in sample.images]

    def _read_one(self, name: str) -> tuple[Size, Size]:
        if name not in self._known:
            settings = self.settings
            limits = [(settings.min_pixels, settings.max_pixels)]
            self._known[name] = read_sizes(self.images / name, limits, settings.pixel_factor)
        return self._known[name]


def _score(item: Item, text: str, parse: Any, sizes: _SizeReader) -> Score:
    target, frame = item.sample.target, sizes.settings.frame
    if isinstance(target, BoxTarget):
        exact = item.exact_box_unit
        return score_by_rule(text, target, parse, frame=frame, sizes=sizes.read(item.sample), exact_box_unit=exact)
    assert isinstance(target, ChoiceTarget)  # lists are scored as detections
    answer = parse(text, ChoiceQuestion(target.options, item.choices))
    hit = answer.readable and answer.letter == target.letter
    return Score(answer.status, None, None, answer.letter, None, hit)


def build_report(
    benchmark: Benchmark,
    annotations: Annotations,
    rows: Sequence[ScoredRow],
    settings: ScoreSettings,
    source: Path,
) -> dict[str, Any]:
    """The table with what it depends on: version and hash of the annotations, parser, frame, limits, defects."""
    rule = benchmark.pick_rule(settings.parser, annotations.version)
    report: dict[str, Any] = {
        "benchmark": benchmark.name,
        "version": annotations.version,
        "annotations_sha256": hash_annotations(source),
        "parser": settings.parser,
        "rule": rule,
        "cut_answer": settings.cut_answer,
    }
    if annotations.items[0].exact_box_unit is not None:
        report["frame"] = settings.frame
    if settings.frame == "resized_px":
        names = ("min_pixels", "max_pixels", "pixel_factor")
        report |= {name: getattr(settings, name) for name in names}
    report |= summarize_rows(rows, reads_image=rule == STRICT)
    report["subsets"] = {}
    for name, belongs in benchmark.subsets.items():
        if chosen := [row for row in rows if belongs(row.sample.task)]:
            hits = measure_hits(chosen)
            report["subsets"][name] = {key: hits[key] for key in ("macro", "low", "high", "micro")} | {"n": len(chosen)}
    report["published_items"] = benchmark.counts.get(annotations.version)
    report["defects"] = {kind: len(uids) for kind, uids in annotations.defects.items()}
    return report


def hash_annotations(source: Path) -> str:
    """SHA-256 of the annotation file, or of the names and contents of a folder's parquet files."""
    if source.is_file():
        return hash_file(source)
    hashes = {path.relative_to(source).as_posix(): hash_file(path) for path in sorted(source.rglob("*.parquet"))}
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def describe_row(row: ScoredRow, rule: str) -> dict[str, Any]:
    """What was read from one completion, and its score, as JSON; the box is in the frame that the rule read it in.

    Args:
        rule: the rule's name, as in the report.
    """
    score, sample = row.score, row.sample
    told = {"uid": sample.uid, "task": sample.task, "status": score.status}
    if score.iou is None:
        return told | {"letter": score.letter, "hit": score.hit, "rule": rule}
    image = {"image": score.image} if rule == STRICT else {}
    read: dict[str, Any] = {"box": None, "frame": "unit"}
    for frame, box in (score.boxes or {}).items():
        read = {"box": list(box), "frame": frame}
    iou = round(float(score.iou), IOU_DECIMALS)
    return {**told, **image, "hit": score.hit, "rule": rule, **read, "iou": iou}
