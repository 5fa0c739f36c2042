"""A picture for the README: three questions with the true box and those of two arms.

They are chosen by rule, so that it shows no better run than there was: of the first set that asks for boxes the first
sample that the later arm fixes, the first that both hit, and the first that it breaks, each of a task of its own.
Samples come task by task, by uid.
"""

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from migrl.grounding.boxes import Box, convert_box
from migrl.grounding.images import read_image
from migrl.grounding.samples import list_boxes
from migrl.report.outcomes import Answers, Outcome
from migrl.report.text import name_arm

WIDTH, PAD, GAP, HEAD, HEIGHT = 1200, 20, 8, 84, 190  # px; HEIGHT is a picture's, at most
SHOWN: dict[Outcome, str] = {"fixed": "fixed by {after}", "both_hit": "both hit", "broken": "broken by {after}"}
PAPER, INK, SOFT, HAIR = "#f6f5f1", "#202124", "#686a70", "#14141e"
TRUTH, BEFORE, AFTER = "#16c060", "#ff8a1f", "#3b82f6"
LINE_CHARS, LINES = 54, 2  # of a question


def choose_shown(samples: Iterable[Answers]) -> list[Answers]:
    """One sample of each outcome in SHOWN; fewer if one is missing."""
    asked = [answers for answers in samples if answers.sample.kind != "choice"]
    left = [answers for answers in asked if answers.sample.benchmark == asked[0].sample.benchmark]
    chosen: list[Answers] = []
    for outcome in SHOWN:
        found = next((answers for answers in left if answers.outcome == outcome), None)
        if found is not None:
            chosen.append(found)
            left = [answers for answers in left if answers.key != found.key]
    return chosen


def draw_answers(samples: Sequence[Answers], compared: tuple[str, str], images_root: Path, path: Path) -> bool:
    """Draw the chosen samples into `path` as PNG; False where there is none.

    Raises:
        UserError: a picture that is missing or unreadable.
    """
    chosen = choose_shown(samples)
    if not chosen:
        return False
    sheet = Image.new("RGB", (WIDTH, PAD + HEAD + HEIGHT + 3 * PAD), PAPER)
    for number, answers in enumerate(chosen):
        _draw_column(sheet, PAD + number * (WIDTH - PAD) // len(SHOWN), answers, compared, images_root)
    _draw_legend(sheet, compared)
    sheet.save(path, optimize=True)
    return True


def _draw_column(sheet: Image.Image, left: int, answers: Answers, compared: tuple[str, str], images_root: Path) -> None:
    draw, sample = ImageDraw.Draw(sheet), answers.sample
    said = SHOWN[answers.outcome].format(after=name_arm(compared[1]))
    title = f"{sample.task.replace('_', ' ').capitalize()}: {said}"
    draw.text((left, PAD), title, INK, ImageFont.load_default(19))
    lines = textwrap.wrap(sample.question, LINE_CHARS, max_lines=LINES, placeholder="…")
    draw.multiline_text((left, PAD + 30), "\n".join(lines), SOFT, ImageFont.load_default(14))
    room = ((WIDTH - PAD) // len(SHOWN) - PAD - GAP * (len(sample.images) - 1)) / len(sample.images)
    for number, (name, size) in enumerate(zip(sample.images, sample.sizes, strict=True), 1):
        scale = min(room / size[0], HEIGHT / size[1])
        shape = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        smooth = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        picture = read_image(images_root / name, size).resize(shape, smooth)
        for colour, gap, boxes_px in _list_boxes(answers, compared, number, size):
            for box_px in boxes_px:
                _outline(picture, [value * scale for value in box_px], colour, gap)
        sheet.paste(picture, (left, PAD + HEAD))
        left += picture.width + GAP


def _list_boxes(
    answers: Answers, compared: tuple[str, str], number: int, size: tuple[int, int]
) -> list[tuple[str, int, list[Box]]]:
    """Colour, px outside of the box, and the boxes in image `number`: frames of one box do not hide each other."""
    sizes = {"original_size": size, "resized_size": size}
    true = [box for box in list_boxes(answers.sample.target) if box.image == number]
    frames = [(TRUTH, 1, [convert_box(box.box_unit, "unit", "original_px", **sizes) for box in true])]
    for arm, colour, gap in ((compared[0], BEFORE, 5), (compared[1], AFTER, 9)):
        named = next((row.score.named_px for row in answers.rows if row.arm == arm), [])
        frames.append((colour, gap, [box_px for image, box_px in named if image == number]))
    return frames


def _outline(picture: Image.Image, box: Sequence[float], colour: str, gap: int) -> None:
    right, bottom = picture.width - 1, picture.height - 1
    for grown, fill in ((gap, HAIR), (gap + 1, colour), (gap + 2, colour), (gap + 3, colour)):
        x1, y1 = max(round(box[0]) - grown, 0), max(round(box[1]) - grown, 0)
        x2, y2 = min(round(box[2]) + grown, right), min(round(box[3]) + grown, bottom)
        ImageDraw.Draw(picture).rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=fill)


def _draw_legend(sheet: Image.Image, compared: tuple[str, str]) -> None:
    draw, x, y = ImageDraw.Draw(sheet), PAD, sheet.height - PAD - 8
    font = ImageFont.load_default(14)
    for colour, text in ((TRUTH, "the true box"), (BEFORE, name_arm(compared[0])), (AFTER, name_arm(compared[1]))):
        draw.rectangle((x, y, x + 16, y + 16), outline=colour, width=3)
        draw.text((x + 24, y), text, SOFT, font)
        x += 24 + round(draw.textlength(text, font)) + 2 * PAD
