"""From a completion to its score: the only place where text becomes a hit.

Rollouts, the reward and evaluation score by our rule, and verification does so again on the raw completion. Rescoring
and the official score of a run read the same text by another rule.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from migrl.benchmarks.readings import BoxParser, BoxQuestion, ExactBox
from migrl.grounding.answers import READABLE, Status, parse_box_answer, parse_choice_answer
from migrl.grounding.boxes import FRAMES, Box, Frame, Size, compute_iou, convert_box, frame_size
from migrl.grounding.samples import BoxTarget, ChoiceTarget, Target

BOX_DECIMALS = 6
IOU_DECIMALS = 9
IOU_THRESHOLD = 0.5
IOU_TOLERANCE = 1e-9  # an IoU of exactly 0.5 is a hit, whatever rounding error converting the frame left
THRESHOLDS = {"acc_30": 0.3, "acc_50": 0.5, "acc_70": 0.7}
_EXACT = {threshold: Fraction(str(threshold)) for threshold in THRESHOLDS.values()}


@dataclass(frozen=True, slots=True)
class Score:
    """What was read from one completion, and whether it is right.

    Attributes:
        image: 1-based; None unless the answer names an input image, and where the rule does not read it.
        boxes: the box that was read, by frame: by our rule in all four, else in the one it was read in. None if there
            is none.
        iou: with the true box; 0 if unreadable or on the wrong image, None for choices. Exact by other rules than ours.
    """

    status: Status
    image: int | None
    boxes: Mapping[Frame, Box] | None
    letter: str | None
    iou: float | Fraction | None
    hit: bool

    @property
    def readable(self) -> bool:
        """Whether there is an answer: of several boxes or letters, of which none is singled out, there is none."""
        return self.status in READABLE and (self.boxes is not None or self.letter is not None)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
    answer = parse_box_answer(completion, frame_limits=limits, truncated=truncated, tagged=tagged)
    image = answer.image if answer.image is not None and 1 <= answer.image <= len(pairs) else None
    if not answer.readable or answer.box is None or image is None:
        return Score(answer.status, image, None, None, 0.0, False)
    original_size, resized_size = pairs[image - 1]
    boxes = {
        to: convert_box(answer.box, frame, to, original_size=original_size, resized_size=resized_size) for to in FRAMES
    }
    right = image == target.image or not target.image_trusted
    iou = round(compute_iou(boxes["unit"], target.box_unit), IOU_DECIMALS) if right else 0.0
    return Score(answer.status, image, {to: _round(box) for to, box in boxes.items()}, None, iou, right and is_hit(iou))


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


def _round(box: Box) -> Box:
    x1, y1, x2, y2 = (round(v, BOX_DECIMALS) for v in box)
    return (x1, y1, x2, y2)
