"""Scenes of the tiny world and their pictures.

A scene is a grid of cells, some of which hold one coloured shape. It is drawn at a `scale`
between 0.93 and 1.5, so that the original picture and the one the model sees (`fit_size`,
28 px a cell) differ in size, and a box that forgets its frame is a wrong box.

The background shades from left to right (red) and from top to bottom (green): patches carry no
absolute position in Qwen2.5-VL's rotary vision tower, and without this cue a tiny model hardly
learns to point (measured, reproduce/tiny_base/LOG.md).
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from random import Random

from PIL import Image, ImageDraw

from migrl.grounding.boxes import Box

CELL_PX = 28  # one visual token of Qwen2.5-VL: patch 14, merge 2
GRIDS = ((3, 3), (4, 3), (3, 4))  # (columns, rows)
SCALES = (0.93, 1.0, 1.05, 1.25, 1.5)
RADIUS_PX = 11  # of every thing, in a cell of 28 px
JITTER_PX = 1  # a thing's centre is at most so far from its cell's, on either axis
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (235, 30, 30),
    "green": (20, 215, 50),
    "blue": (40, 60, 250),
    "yellow": (250, 235, 40),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "purple": (190, 40, 220),
    "orange": (255, 140, 0),
}
SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
SEEN_COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SEEN_SHAPES = ("circle", "square", "triangle", "star")


@dataclass(frozen=True)
class Look:
    """What an object looks like; two objects are 'the same' if their looks are equal."""

    colour: str
    shape: str

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Thing:
    """One object: its look, its cell and its place within the cell, in cell px (28 a cell)."""

    look: Look
    column: int
    row: int
    dx: float
    dy: float

    @property
    def box_cell_px(self) -> Box:
        """Box in the frame the model sees: 28 px a cell."""
        x = (self.column + 0.5) * CELL_PX + self.dx
        y = (self.row + 0.5) * CELL_PX + self.dy
        return (x - RADIUS_PX, y - RADIUS_PX, x + RADIUS_PX, y + RADIUS_PX)


@dataclass(frozen=True)
class Scene:
    """One image: a grid of `columns` x `rows` cells, its things in reading order, its drawing scale."""

    columns: int
    rows: int
    scale: float
    things: tuple[Thing, ...]
    specks: tuple[tuple[float, float], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the original picture in px."""
        return (round(self.columns * CELL_PX * self.scale), round(self.rows * CELL_PX * self.scale))

    @property
    def looks(self) -> tuple[Look, ...]:
        return tuple(thing.look for thing in self.things)

    def box_unit(self, thing: Thing) -> Box:
        """Box of a thing in unit frame."""
        x1, y1, x2, y2 = thing.box_cell_px
        width, height = self.columns * CELL_PX, self.rows * CELL_PX
        return (x1 / width, y1 / height, x2 / width, y2 / height)

    def find(self, look: Look) -> Thing:
        """The only thing with this look."""
        (thing,) = (thing for thing in self.things if thing.look == look)
        return thing


def draw_looks(rng: Random, count: int, colours: tuple[str, ...], shapes: tuple[str, ...]) -> list[Look]:
    """`count` different looks."""
    return [Look(*pair) for pair in rng.sample([(c, s) for c in colours for s in shapes], count)]


def place_things(rng: Random, looks: list[Look], columns: int, rows: int) -> tuple[Thing, ...]:
    """Put each look in its own random cell; result in reading order (row by row)."""
    cells = rng.sample([(column, row) for row in range(rows) for column in range(columns)], len(looks))
    return sort_things([place_thing(rng, look, *cell) for look, cell in zip(looks, cells, strict=True)])


def place_thing(rng: Random, look: Look, column: int, row: int) -> Thing:
    """Put a look near the middle of a cell."""
    return Thing(look, column, row, rng.randint(-JITTER_PX, JITTER_PX), rng.randint(-JITTER_PX, JITTER_PX))


def sort_things(things: list[Thing]) -> tuple[Thing, ...]:
    """Reading order: row by row, left to right."""
    return tuple(sorted(things, key=lambda thing: (thing.row, thing.column)))


def draw_scene(rng: Random, looks: list[Look], *, specks: int = 0) -> Scene:
    """A scene of random grid and scale that holds exactly these looks, and `specks` of clutter."""
    columns, rows = rng.choice(GRIDS)
    return Scene(
        columns=columns,
        rows=rows,
        scale=rng.choice(SCALES),
        things=place_things(rng, looks, columns, rows),
        specks=tuple((rng.random(), rng.random()) for _ in range(specks)),
    )


def replace_thing(scene: Scene, old: Look, new: Look) -> Scene:
    """The same scene with one look exchanged."""
    things = [replace(t, look=new) if t.look == old else t for t in scene.things]
    return replace(scene, things=tuple(things))


def move_things(rng: Random, scene: Scene) -> Scene:
    """Every thing steps to a free neighbouring cell; one that is hemmed in stays."""
    taken: set[tuple[int, int]] = {(t.column, t.row) for t in scene.things}
    moved: list[Thing] = []
    for t in scene.things:
        steps = [(t.column + dc, t.row + dr) for dc, dr in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        inside = [(c, r) for c, r in steps if 0 <= c < scene.columns and 0 <= r < scene.rows]
        column, row = rng.choice([cell for cell in inside if cell not in taken] or [(t.column, t.row)])
        taken.add((column, row))
        moved.append(place_thing(rng, t.look, column, row))
    return replace(scene, things=sort_things(moved))


def mirror_scene(scene: Scene) -> Scene:
    """Left and right swapped."""
    things = [replace(t, column=scene.columns - 1 - t.column, dx=-t.dx) for t in scene.things]
    specks = tuple((1 - x, y) for x, y in scene.specks)
    return replace(scene, things=sort_things(things), specks=specks)


def crop_thing(rng: Random, thing: Thing) -> Scene:
    """A close-up of one thing: two by two cells, the thing in one of them."""
    close = replace(thing, column=rng.randint(0, 1), row=rng.randint(0, 1))
    return Scene(2, 2, rng.choice((0.93, 1.0, 1.05)), (close,))


def hash_scenes(scenes: list[Scene]) -> str:
    """Hash of an image set's content: equal for equal pictures, whatever the question."""
    content = json.dumps([asdict(scene) for scene in scenes], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def render_scene(scene: Scene) -> Image.Image:
    """Draw the original picture, RGB, of size `scene.size`."""
    width, height = scene.size
    cells_x, cells_y = scene.columns / width, scene.rows / height
    red = Image.new("L", (width, 1))
    red.putdata([round(30 + 32 * x * cells_x) for x in range(width)])
    green = Image.new("L", (1, height))
    green.putdata([round(30 + 32 * y * cells_y) for y in range(height)])
    size = (width, height)
    image = Image.merge("RGB", (red.resize(size), green.resize(size), Image.new("L", size, 110)))
    draw = ImageDraw.Draw(image)
    for x, y in scene.specks:
        draw.point((x * width, y * height), fill=(200, 200, 200))
    for thing in scene.things:
        x1, y1, x2, y2 = scene.box_unit(thing)
        _draw_shape(draw, thing.look, (x1 * width, y1 * height, x2 * width, y2 * height))
    return image


def _draw_shape(draw: ImageDraw.ImageDraw, look: Look, box_px: Box) -> None:
    x1, y1, x2, y2 = box_px
    fill = COLOURS[look.colour]

    def at(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x1 + u * (x2 - x1), y1 + v * (y2 - y1)) for u, v in points]

    match look.shape:
        case "circle":
            draw.ellipse(box_px, fill=fill)
        case "square":
            draw.rectangle(box_px, fill=fill)
        case "triangle":
            draw.polygon(at([(0.5, 0), (1, 1), (0, 1)]), fill=fill)
        case "diamond":
            draw.polygon(at([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]), fill=fill)
        case "star":
            draw.polygon(
                at([(0, 0), (0.5, 0.3), (1, 0), (0.7, 0.5), (1, 1), (0.5, 0.7), (0, 1), (0.3, 0.5)]), fill=fill
            )
        case "cross":
            draw.rectangle((*at([(0.36, 0)])[0], *at([(0.64, 1)])[0]), fill=fill)
            draw.rectangle((*at([(0, 0.36)])[0], *at([(1, 0.64)])[0]), fill=fill)
