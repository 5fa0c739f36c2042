"""What an lmms-eval task calls: from a document to pictures, messages and metrics.

lmms-eval hands every function one document, a row of the prepared data, and nothing else; so the
settings of a task live in a `GroundingTask`, and its bound methods are the functions. All metrics are
in percent, and mean what `migrl.scoring.tables` means by their names.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from migrl.errors import UserError
from migrl.grounding.boxes import PIXEL_FACTOR, Frame, Size
from migrl.grounding.images import find_sizes, fit_sizes, read_image
from migrl.grounding.prompts import PromptStyle, build_messages, quote_boxes
from migrl.grounding.samples import BoxTarget, Sample, parse_sample
from migrl.scoring.completions import is_hit, score_completion

QWEN_VL_UTILS_PIXELS = (4 * PIXEL_FACTOR**2, 16384 * PIXEL_FACTOR**2)
TASK_METRIC = "task_"
"""Prefix of the accuracy of one task of a benchmark."""

Doc = dict[str, Any]


@dataclass(frozen=True)
class GroundingTask:
    """One reading of the prepared data.

    Args:
        data: folder with the pictures.
        frame: the frame of boxes in questions and answers.
        style: whether the model is asked to think first.
        min_pixels, max_pixels: the model's limits of an image's area; needed for `resized_px` only.
        resized_twice: whether the model's adapter in lmms-eval resizes through qwen_vl_utils before the
            processor does, as qwen2_vl and qwen2_5_vl do; some images then get another size than in one step.

    Raises:
        UserError: pixel limits that cannot be, or that are missing.
    """

    data: Path
    frame: Frame
    style: PromptStyle
    min_pixels: int | None = None
    max_pixels: int | None = None
    resized_twice: bool = False

    def __post_init__(self) -> None:
        if (self.min_pixels is None) != (self.max_pixels is None):
            raise UserError("min_pixels and max_pixels: one is missing; give both, as the model is loaded with")
        if self.min_pixels is not None and self.max_pixels is not None and not 0 < self.min_pixels <= self.max_pixels:
            limits = f"min_pixels {self.min_pixels}, max_pixels {self.max_pixels}"
            raise UserError(f"{limits}: need 0 < min_pixels <= max_pixels")
        if self.frame == "resized_px" and self.min_pixels is None:
            raise UserError("frame resized_px: depends on the model's pixel limits; give min_pixels and max_pixels")

    def prepare_docs(self, lines: Any) -> Any:
        """A data set of samples from one of text lines, all with the same columns.

        The lines are read as text because lmms-eval's json loader fixes the columns by its first block, and
        only some targets say `image_trusted` or `defect`.
        """
        samples = [
            parse_sample(json.loads(line), f"{self.data}, line {number} of a benchmark")
            for number, line in enumerate(lines["text"], 1)
            if line
        ]
        return lines.from_list([{**s.to_json(), "target": json.dumps(s.target.to_json())} for s in samples])

    def load_images(self, doc: Doc) -> list[Image.Image]:
        """The pictures of a document, in order."""
        sample = self._read(doc)
        return [read_image(self.data / name, size) for name, size in zip(sample.images, sample.sizes, strict=True)]

    def build_messages(self, doc: Doc) -> list[dict[str, Any]]:
        """Chat messages as lmms-eval wants them: each picture stands where migrl's prompt has its placeholder."""
        images = iter(self.load_images(doc))
        messages = self._build_prompt(doc)
        for message in messages:
            message["content"] = [
                {"type": "image", "url": next(images)} if part["type"] == "image" else part
                for part in message["content"]
            ]
        return messages

    def build_text(self, doc: Doc) -> str:
        """The words of the prompt, for models that take all pictures first and the text after them."""
        return "".join(part["text"] for part in self._build_prompt(doc)[0]["content"] if part["type"] == "text")

    def describe_target(self, doc: Doc) -> str:
        """The truth as JSON, for the log."""
        target: str = doc["target"]
        return target

    def score(self, doc: Doc, results: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What one answer adds to each metric; a metric that a document does not count for is left out.

        lmms-eval takes standard errors, clustered by image set, of whatever is named `score`. A mean over
        tasks has no such error, so those items hold a `value`. `macro` also carries the whole score for the log.
        """
        sample = self._read(doc)
        target = sample.target
        assert isinstance(target, BoxTarget)  # only tasks of boxes are written
        # lmms-eval does not say where a text was cut; that changes the name of a miss, never a hit.
        score = score_completion(
            results[0],
            target,
            frame=self.frame,
            sizes=sample.sizes,
            resized_sizes=self._resize(sample),
            truncated=False,
        )
        hit, iou = 100.0 * score.hit, float(score.iou or 0)
        over_tasks = {
            "acc_30": 100.0 * is_hit(iou, 0.3),
            "acc_70": 100.0 * is_hit(iou, 0.7),
            "mean_iou": 100.0 * iou,
        }
        over_docs = {"micro": hit, TASK_METRIC + sample.task: hit, "parse_rate": 100.0 * score.readable}
        if target.image_trusted:
            over_docs["image_accuracy"] = 100.0 * (score.readable and score.image == target.image)
        return {
            "macro": {"value": hit, "task": sample.task, "uid": sample.uid, **score.to_json()},
            **{name: {"value": value, "task": sample.task} for name, value in over_tasks.items()},
            **{name: {"score": value, "cluster": sample.cluster} for name, value in over_docs.items()},
        }

    def _build_prompt(self, doc: Doc) -> list[dict[str, Any]]:
        sample = self._read(doc)
        original, resized = sample.sizes[0], self._resize(sample)[0]
        question = quote_boxes(sample.question, self.frame, original_size=original, resized_size=resized)
        return build_messages(question, len(sample.images), self.style, "box")

    def _read(self, doc: Doc) -> Sample:
        """The sample of a document, with the sizes of its pictures."""
        told = {key: value for key, value in doc.items() if value is not None}  # a table has every column in every row
        sample = parse_sample({**told, "target": json.loads(doc["target"])}, f"document {doc['uid']}")
        return replace(sample, sizes=find_sizes(self.data, sample.images, sample.sizes))

    def _resize(self, sample: Sample) -> list[Size]:
        """The size at which the model sees each picture; without limits it is the same."""
        limits = []
        if self.min_pixels is not None and self.max_pixels is not None:
            limits = [QWEN_VL_UTILS_PIXELS] * self.resized_twice + [(self.min_pixels, self.max_pixels)]
        pictures = zip(sample.images, sample.sizes, strict=True)
        return [fit_sizes(self.data / name, size, limits) for name, size in pictures]


def average_docs(items: Sequence[dict[str, Any]]) -> float:
    """Mean over documents."""
    return math.fsum(item["score"] for item in items) / len(items)


def average_tasks(items: Sequence[dict[str, Any]]) -> float:
    """Mean over tasks of the mean over a task's documents, so that a task counts the same whatever its size."""
    tasks: dict[str, list[float]] = {}
    for item in items:
        tasks.setdefault(item["task"], []).append(item["value"])
    return math.fsum(math.fsum(tasks[task]) / len(tasks[task]) for task in sorted(tasks)) / len(tasks)
