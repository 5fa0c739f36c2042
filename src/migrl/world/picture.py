"""One picture of the tiny world: a card for each of the ten tasks, drawn for the README.

A reader should grasp in ten seconds what the tiny model is asked. The pictures are those the
recipe renders, enlarged without smoothing; the true box is outlined, and so, thinly, is a box that
the question itself quotes. Run as a module it rewrites the committed picture.
"""

import argparse
import re
import textwrap
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

from migrl.grounding.boxes import Box
from migrl.world.cases import SEEN, Case
from migrl.world.in_domain import MINI_MIG
from migrl.world.scenes import render_scene

Colour = tuple[int, int, int]

WIDTH = 1200
COLUMNS = 2
MARGIN = 20  # between cards
PAD = 16  # within a card
HEAD = 54  # px of task name and question above the pictures
PICTURE_HEIGHT = 190  # of the tallest picture of a card
LEGEND_HEIGHT = 24
CARD_WIDTH = (WIDTH - MARGIN * (COLUMNS + 1)) // COLUMNS
CARD_HEIGHT = 2 * PAD + HEAD + PICTURE_HEIGHT + 18
QUESTION_CHARS = 92  # one line of a card

PAPER: Colour = (246, 245, 241)
CARD: Colour = (255, 255, 255)
EDGE: Colour = (221, 218, 209)
INK: Colour = (32, 33, 36)
SOFT: Colour = (104, 106, 112)
HAIR: Colour = (20, 20, 30)
TRUE_BOX: Colour = (255, 0, 150)
QUOTED_BOX: Colour = (255, 255, 255)
_QUOTE = re.compile(r"<\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>")


def draw_world(path: Path) -> None:
    """Draw one case of each in-domain task and save the sheet as PNG.

    The sheet is always the same: every task has its own seed.
    """
    rows = -(-len(MINI_MIG) // COLUMNS)
    sheet = Image.new("RGB", (WIDTH, MARGIN + rows * (CARD_HEIGHT + MARGIN) + LEGEND_HEIGHT), PAPER)
    for index, (task, make) in enumerate(MINI_MIG.items()):
        row, column = divmod(index, COLUMNS)
        corner = (MARGIN + column * (CARD_WIDTH + MARGIN), MARGIN + row * (CARD_HEIGHT + MARGIN))
        _draw_card(sheet, corner, task, make(Random(f"picture-{task}"), SEEN)[-1])
    _draw_legend(sheet)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)


def _draw_card(sheet: Image.Image, corner: tuple[int, int], task: str, case: Case) -> None:
    """A white card: task name, question, then the images side by side under their numbers."""
    draw = ImageDraw.Draw(sheet)
    left, top = corner
    draw.rounded_rectangle((left, top, left + CARD_WIDTH, top + CARD_HEIGHT), radius=8, fill=CARD, outline=EDGE)
    draw.text((left + PAD, top + PAD - 3), task.replace("_", " ").capitalize(), INK, ImageFont.load_default(19))
    question = textwrap.shorten(_QUOTE.sub(r"[\1 \2 \3 \4]", case.question), QUESTION_CHARS, placeholder="…")
    draw.text((left + PAD, top + PAD + 23), question, SOFT, ImageFont.load_default(13.5))
    x, y, cell = left + PAD, top + PAD + HEAD, _fit_cell(case)
    for number, scene in enumerate(case.scenes, 1):
        picture = render_scene(scene).resize((scene.columns * cell, scene.rows * cell), Image.Resampling.NEAREST)
        quoted = _find_quoted_box(case)
        if number == 1 and quoted is not None:
            _outline(picture, quoted, QUOTED_BOX)
        if number == case.image:
            _outline(picture, scene.box_unit(case.thing), TRUE_BOX)
        sheet.paste(picture, (x, y))
        colour = TRUE_BOX if number == case.image else SOFT
        draw.text((x, y + picture.height + 5), f"Image {number}", colour, ImageFont.load_default(12))
        x += picture.width + PAD


def _draw_legend(sheet: Image.Image) -> None:
    draw = ImageDraw.Draw(sheet)
    x, y = MARGIN, sheet.height - LEGEND_HEIGHT - MARGIN // 2
    for colour, text in ((TRUE_BOX, "the true box"), (QUOTED_BOX, "a box that the question quotes, in permille")):
        draw.rectangle((x, y, x + 16, y + 16), outline=HAIR, width=4)
        draw.rectangle((x + 1, y + 1, x + 15, y + 15), outline=colour, width=2)
        draw.text((x + 24, y), text, SOFT, ImageFont.load_default(13.5))
        x += 24 + round(draw.textlength(text, ImageFont.load_default(13.5))) + 2 * MARGIN


def _fit_cell(case: Case) -> int:
    """Px of one scene cell, the largest at which all images of the case fit side by side on a card."""
    room = CARD_WIDTH - PAD * (len(case.scenes) + 1)
    return min(
        room // sum(scene.columns for scene in case.scenes),
        PICTURE_HEIGHT // max(scene.rows for scene in case.scenes),
    )


def _find_quoted_box(case: Case) -> Box | None:
    """The box that the question quotes, in unit frame of image 1."""
    match = _QUOTE.search(case.question)
    if match is None:
        return None
    x1, y1, x2, y2 = (int(v) / 1000 for v in match.groups())
    return (x1, y1, x2, y2)


def _outline(picture: Image.Image, box_unit: Box, colour: Colour) -> None:
    """Frame a box just outside it, with a dark hairline around that shows the frame over any shape."""
    right, bottom = picture.width - 1, picture.height - 1
    x1, y1, x2, y2 = (v * side for v, side in zip(box_unit, picture.size * 2, strict=True))
    draw = ImageDraw.Draw(picture)
    for gap, fill in ((5, HAIR), (4, colour), (3, colour), (2, colour)):
        edge = 5 - gap  # keeps the frame whole at the picture's border
        draw.rectangle(
            (
                max(round(x1) - gap, edge),
                max(round(y1) - gap, edge),
                min(round(x2) + gap, right - edge),
                min(round(y2) + gap, bottom - edge),
            ),
            outline=fill,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the ten tasks of the tiny world.")
    parser.add_argument("path", type=Path, nargs="?", default=Path("results/tiny/figures/world.png"))
    draw_world(parser.parse_args().path)


if __name__ == "__main__":
    main()
