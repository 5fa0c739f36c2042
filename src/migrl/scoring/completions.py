"""From a completion to its score: the only place where text becomes a hit.

Rollouts, the reward and evaluation score by our rule, and verification does so again on the raw completion. Rescoring
and the official score of a run read the same text by another rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from migrl.benchmarks.readings import BoxParser, BoxQuestion, ExactBox
from migrl.grounding.answers import READABLE, Answer, Status, parse_box_answer, parse_boxes_answer, parse_choice_answer
from migrl.grounding.boxes import FRAMES, Box, Frame, Size, compute_iou, convert_box, frame_size
from migrl.grounding.samples import BoxesTarget, BoxTarget, ChoiceTarget, Target
from migrl.scoring.matching import match_boxes, measure_match

BOX_DECIMALS = 6
IOU_DECIMALS = 9
IOU_THRESHOLD = 0.5
IOU_TOLERANCE = 1e-9  # an IoU of exactly 0.5 is a hit, whatever rounding error converting the frame left
THRESHOLDS = {"acc_30": 0.3, "acc_50": 0.5, "acc_70": 0.7}
_EXACT = {threshold: Fraction(str(threshold)) for threshold in THRESHOLDS.values()}


@dataclass(frozen=True, slots=True)
class FoundBox:
    """One box of an answer with any number of them: its image, 1-based, and the box in all four frames."""

    image: int
    boxes: Mapping[Frame, Box]


@dataclass(frozen=True, slots=True)
class Score:
    """What was read from one completion, and whether it is right.

    Attributes:
        image: 1-based; None unless the answer names an input image, and where the rule does not read it.
        boxes: the box that was read, by frame: by our rule in all four, else in the one it was read in. None if there
            is none.
        iou: with the true box; 0 if unreadable or on the wrong image, None for choices. Exact by other rules than ours.
            Of a list, the mean over all boxes (`matching.measure_match`).
        found: the list that was read, where any number of boxes may be right.
        weakest: the lowest IoU of that list's matched boxes, 0 where one is surplus or missing.
    """

    status: Status
    image: int | None
    boxes: Mapping[Frame, Box] | None
    letter: str | None
    iou: float | Fraction | None
    hit: bool
    found: tuple[FoundBox, ...] | None = None
    weakest: float | None = None

    @property
    def named_px(self) -> list[tuple[int, Box]]:
        """Each box that our rule read, with the number of its image, in original px."""
        if self.boxes and self.image is not None:
            return [(self.image, self.boxes["original_px"])]
        return [(one.image, one.boxes["original_px"]) for one in self.found or ()]

    @property
    def readable(self) -> bool:
        """Whether there is an answer: of several boxes or letters, of which none is singled out, there is none."""
        return self.status in READABLE and (self.boxes, self.letter, self.found) != (None, None, None)

    @property
    def images(self) -> set[int]:
        """The images that a readable answer puts a box into."""
        named = [self.image] if self.found is None else [box.image for box in self.found]
        return {image for image in named if image is not None and self.readable}

    def reaches(self, threshold: float) -> bool:
        """Whether the box, or each of a list without surplus or missing ones, reaches one of the THRESHOLDS."""
        iou = self.iou if self.weakest is None else self.weakest
        return iou is not None and is_hit(iou, threshold)

    def to_json(self) -> dict[str, Any]:
        """As JSON, without what only lists have."""
        data = asdict(self)
        for key in ("found", "weakest"):
            if data[key] is None:
                del data[key]
        return data


def is_hit(iou: float | Fraction, threshold: float = IOU_THRESHOLD) -> bool:
    """Whether an IoU reaches one of the THRESHOLDS; exactly reaching it counts. Fractions are compared exactly."""
    if isinstance(iou, Fraction):
        return iou >= _EXACT[threshold]
    return iou >= threshold - IOU_TOLERANCE


def score_completion(
    completion: str,
    target: Target,
    *,
    frame: Frame,
    sizes: Sequence[Size],
    resized_sizes: Sequence[Size],
    truncated: bool,
    tagged: bool = True,
) -> Score:
    """Score one raw completion.

    Args:
        completion: raw text of the model; any text is scored, none raises.
        target: where its image is not trusted, the right box is a hit on whichever image it is named.
        frame: the frame the model writes in.
        sizes, resized_sizes: (width, height) in px of each input image, as stored and as the model saw it.
        truncated: whether the text stopped at the token limit.
        tagged: False reads the whole reply where no answer block holds an answer.
    """
    if isinstance(target, ChoiceTarget):
        answer = parse_choice_answer(completion, options=target.options, truncated=truncated, tagged=tagged)
        return Score(answer.status, None, None, answer.letter, None, answer.readable and answer.letter == target.letter)
    pairs = list(zip(sizes, resized_sizes, strict=True))
    limits = [frame_size(frame, original_size=original, resized_size=resized) for original, resized in pairs]
    if isinstance(target, BoxesTarget):
        told = parse_boxes_answer(completion, frame_limits=limits, truncated=truncated, tagged=tagged)
        return _score_list(told, target, frame, pairs)
    answer = parse_box_answer(completion, frame_limits=limits, truncated=truncated, tagged=tagged)
    image = answer.image if answer.image is not None and 1 <= answer.image <= len(pairs) else None
    if not answer.readable or answer.box is None or image is None:
        return Score(answer.status, image, None, None, 0.0, False)
    boxes = _convert(answer.box, frame, pairs[image - 1])
    right = image == target.image or not target.image_trusted
    iou = round(compute_iou(boxes["unit"], target.box_unit), IOU_DECIMALS) if right else 0.0
    return Score(answer.status, image, _round_all(boxes), None, iou, right and is_hit(iou))


def _score_list(answer: Answer, target: BoxesTarget, frame: Frame, sizes: Sequence[tuple[Size, Size]]) -> Score:
    """The score of a list: a hit finds every true box at the threshold, and nothing else."""
    if not answer.readable or answer.located is None:
        return Score(answer.status, None, None, None, 0.0, False)
    found = [(image, _convert(box, frame, sizes[image - 1])) for image, box in answer.located]
    ious = match_boxes([(image, boxes["unit"]) for image, boxes in found], target.boxes)
    iou, weakest = measure_match(ious, len(found), len(target.boxes))
    weakest = round(weakest, IOU_DECIMALS)
    return Score(
        answer.status,
        None,
        None,
        None,
        round(iou, IOU_DECIMALS),
        is_hit(weakest),
        found=tuple(FoundBox(image, _round_all(boxes)) for image, boxes in found),
        weakest=weakest,
    )


def _convert(box: Box, frame: Frame, sizes: tuple[Size, Size]) -> dict[Frame, Box]:
    """A box of `frame` in every frame; `sizes` are the original and the resized one of its image."""
    return {to: convert_box(box, frame, to, original_size=sizes[0], resized_size=sizes[1]) for to in FRAMES}


def score_unanswered(target: Target) -> Score:
    """A miss, by every rule: a server left the request without a usable reply, so there is nothing to read."""
    return Score("unanswered", None, None, None, None if isinstance(target, ChoiceTarget) else 0.0, False)


def score_by_rule(
    completion: str,
    target: BoxTarget,
    parse: BoxParser,
    *,
    frame: Frame,
    sizes: Sequence[tuple[Size, Size]],
    exact_box_unit: ExactBox | None = None,
) -> Score:
    """Score one raw completion by any rule for boxes; 0 on an image known to be another one.

    Args:
        sizes: (original, resized) size of each image; any do for frames that do not depend on them.
        exact_box_unit: the true box without rounding; without it the decimals of the target count as exact.
    """
    limits = [frame_size(frame, original_size=original, resized_size=resized) for original, resized in sizes]
    reading = parse(completion, BoxQuestion(frame, target.image, limits))
    if reading.box is None:
        return Score(reading.status, reading.image, None, None, Fraction(0), False)
    # A rule that reads no image means the true one: its numbers are fractions or pixels of that picture.
    image = reading.image or target.image
    iou = Fraction(0)
    if image == target.image or not target.image_trusted:
        original, resized = sizes[image - 1]
        width, height = (Fraction(v) for v in frame_size(reading.frame, original_size=original, resized_size=resized))
        x1, y1, x2, y2 = reading.box
        true_box = exact_box_unit or _make_exact(target.box_unit)
        iou = compute_iou((x1 / width, y1 / height, x2 / width, y2 / height), true_box)
    left, top, right, bottom = map(float, reading.box)
    boxes: dict[Frame, Box] = {reading.frame: (left, top, right, bottom)}
    return Score(reading.status, reading.image, boxes, None, iou, is_hit(iou))


def _make_exact(box: Box) -> ExactBox:
    """The decimals of a box as fractions; a box of three decimals is exact again."""
    x1, y1, x2, y2 = (Fraction(str(v)) for v in box)
    return (x1, y1, x2, y2)


def _round_all(boxes: Mapping[Frame, Box]) -> dict[Frame, Box]:
    return {frame: _round(box) for frame, box in boxes.items()}


def _round(box: Box) -> Box:
    x1, y1, x2, y2 = (round(v, BOX_DECIMALS) for v in box)
    return (x1, y1, x2, y2)
