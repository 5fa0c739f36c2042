"""How completions become boxes: the official rules, and our strict one.

The cascades are tables of patterns in the order of the official scripts; the first pattern with any
hit decides. Sources: Migician `eval/utils.py`, UniVG-R1 `eval/MIG_bench/` and `eval/zero_shot/*/eval.py`.
"""

import re
from fractions import Fraction

from migrl.benchmarks.readings import BoxParser, BoxQuestion, BoxReading, read_numbers
from migrl.grounding.answers import MAX_ANSWER_CHARS, Answer, Status, parse_box_answer

_INT, _DECIMAL = r"(\d+)", r"(\d+\.\d+)"
CASCADE = (
    re.compile(rf"\({_INT},\s*{_INT}\),\s*\({_INT},\s*{_INT}\)"),
    re.compile(rf"\[{_DECIMAL},\s*{_DECIMAL},\s*{_DECIMAL},\s*{_DECIMAL}\]"),
    re.compile(rf"\({_DECIMAL},{_DECIMAL}\),\({_DECIMAL},{_DECIMAL}\)"),
    re.compile(rf"\({_DECIMAL},\s*{_DECIMAL},\s*{_DECIMAL},\s*{_DECIMAL}\)"),
    re.compile(rf"\[{_INT},\s*{_INT},\s*{_INT},\s*{_INT}\]"),
    re.compile(rf"<box>{_INT}\s+{_INT}\s+{_INT}\s+{_INT}</box>"),
)
"""MIG-Bench's patterns in their order; none takes a sign, and `(i, i, i, i)` is not among them."""

_ZERO_SHOT = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)\s*,\s*\(\s*(\d+)\s*,\s*(\d+)\s*\)")
_ZERO_SHOT_DECIMAL = re.compile(_ZERO_SHOT.pattern.replace(r"(\d+)", r"(\d+(?:\.\d+)?)"))
_PERMILLE = Fraction(1, 1000)


def find_hits(completion: str) -> list[tuple[str, ...]]:
    """All hits of the first pattern of the cascade that has one."""
    for pattern in CASCADE:
        if hits := pattern.findall(completion):
            return hits
    return []


def read_migician_script(completion: str, question: BoxQuestion) -> BoxReading:
    """Migician's script, official for the original file: the first hit, values from 1 on taken as permille.

    Smaller values stay. The 1 itself is permille if there is one hit, and the whole side if there are several: so
    the script has it. A frame other than permille, which the script does not know, is taken as it is told.
    """
    hits = find_hits(completion)
    if not hits:
        return BoxReading("none")
    numbers = read_numbers(hits[0])
    if numbers is None:
        return BoxReading("malformed")
    status: Status = "ok" if len(hits) == 1 else "several"
    if question.frame != "permille":
        return BoxReading(status, numbers, question.frame)
    x1, y1, x2, y2 = (v * _PERMILLE if v > 1 or (v == 1 and len(hits) == 1) else v for v in numbers)
    return BoxReading(status, (x1, y1, x2, y2), "unit")


def read_univg_script(completion: str, question: BoxQuestion) -> BoxReading:
    """UniVG-R1's script, official for the revised file: integers only, in permille, the first hit.

    A decimal is a failure, unless another frame than permille is told. (The script drops the last of several hits
    before it takes the first: no difference.)
    """
    hits = find_hits(completion)
    if not hits:
        return BoxReading("none")
    numbers = read_numbers(hits[0])
    if numbers is None or (question.frame == "permille" and any("." in text for text in hits[0])):
        return BoxReading("malformed")
    return BoxReading("ok" if len(hits) == 1 else "several", numbers, question.frame)


def read_migician_stretched(completion: str, question: BoxQuestion) -> BoxReading:
    """UniVG-R1's script for the model Migician: y1 times 1.05 and y2 times 1.10, at most 0.999, cut to permille.

    Published Migician rows of the revised file carry this stretch (reference figure: 63.37 with, 55.34 without).
    The arithmetic is the script's floating-point one, its truncation included.
    """
    reading = read_univg_script(completion, question)
    if reading.box is None or reading.frame != "permille":
        return reading
    x1, y1, x2, y2 = reading.box
    stretched = [
        Fraction(int(round(min(int(y) / 1000 * factor, 0.999), 3) * 1000)) for y, factor in ((y1, 1.05), (y2, 1.10))
    ]
    return BoxReading(reading.status, (x1, stretched[0], x2, stretched[1]), "permille")


def read_zero_shot(completion: str, question: BoxQuestion) -> BoxReading:
    """UniVG-R1's zero-shot rule: the first `(x, y), (x, y)` of integers anywhere, a box in the thought included.

    With another frame than permille, which the script does not know, decimals are read as well.
    """
    pattern = _ZERO_SHOT if question.frame == "permille" else _ZERO_SHOT_DECIMAL
    match = pattern.search(completion)
    if match is None:
        return BoxReading("none")
    numbers = read_numbers(match.groups())
    if numbers is None:
        return BoxReading("malformed")
    several = pattern.search(completion, match.end()) is not None
    return BoxReading("several" if several else "ok", numbers, question.frame)


def read_strict(completion: str, question: BoxQuestion) -> BoxReading:
    """Our rule: the last answer block, a box and the number of its image."""
    return _to_reading(parse_box_answer(completion, frame_limits=question.frame_limits), question)


def read_box_only(completion: str, question: BoxQuestion) -> BoxReading:
    """Our rule for models that were not asked for the image or for tags.

    Where the last answer block names no image, the true one is meant; where there are no tags at all, the end of
    the text is the answer.
    """
    if "<answer>" not in completion and "<think>" not in completion:
        completion = f"<answer>{completion[-MAX_ANSWER_CHARS:]}</answer>"
    answer = parse_box_answer(completion, frame_limits=question.frame_limits, default_image=question.target_image)
    return _to_reading(answer, question)


def _to_reading(answer: Answer, question: BoxQuestion) -> BoxReading:
    if not answer.readable or answer.box is None:
        return BoxReading(answer.status, image=answer.image)
    x1, y1, x2, y2 = (Fraction(str(v)) for v in answer.box)
    return BoxReading(answer.status, (x1, y1, x2, y2), question.frame, answer.image)


MIG_BENCH_PARSERS: dict[str, BoxParser] = {
    "migician_script": read_migician_script,
    "univg_script": read_univg_script,
    "migician_stretched": read_migician_stretched,
    "strict": read_strict,
    "box_only": read_box_only,
}
MIG_BENCH_OFFICIAL = {"original": "migician_script", "revised": "univg_script"}
ZERO_SHOT_PARSERS: dict[str, BoxParser] = {
    "compat": read_zero_shot,
    "strict": read_strict,
    "box_only": read_box_only,
}
