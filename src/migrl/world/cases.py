"""What a task draws: a case (images, question, answer, reasoning), and the palette it draws from."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from migrl.grounding.boxes import Box
from migrl.world.scenes import COLOURS, SEEN_COLOURS, SEEN_SHAPES, SHAPES, Look, Scene, Thing, draw_looks, draw_scene


@dataclass(frozen=True)
class Case:
    """One question over an image set.

    `look` and `image` name the true object of a grounding case (image is 1-based), `every` all of them where any number
    may be right; `options` and `letter` the answer of a choice case. `facts` is what a good teacher says, `{look}` and
    `{image}` of the conclusion included, in the words of the base's lessons.
    """

    scenes: tuple[Scene, ...]
    question: str
    image: int | None = None
    look: Look | None = None
    facts: str = ""
    options: tuple[str, ...] = ()
    letter: str | None = None
    every: tuple[tuple[int, Look], ...] | None = None

    @property
    def thing(self) -> Thing:
        assert self.image is not None and self.look is not None
        return self.scenes[self.image - 1].find(self.look)

    def box_unit(self, image: int, look: Look) -> Box:
        """The box of the thing with this look in image number `image` (1-based)."""
        scene = self.scenes[image - 1]
        return scene.box_unit(scene.find(look))


@dataclass(frozen=True)
class Palette:
    """Which colours and shapes a set may show, and how many specks of clutter."""

    colours: tuple[str, ...] = SEEN_COLOURS
    shapes: tuple[str, ...] = SEEN_SHAPES
    specks: int = 0

    def draw(self, rng: Random, count: int) -> list[Look]:
        return draw_looks(rng, count, self.colours, self.shapes)

    def scene(self, rng: Random, looks: list[Look]) -> Scene:
        return draw_scene(rng, looks, specks=self.specks)


SEEN = Palette()
UNSEEN = Palette(tuple(COLOURS), SHAPES, specks=8)
CONCLUSIONS = {
    "target": "The target is the {look} in image {image}.",
    "new": "The new object is the {look} in image {image}.",
    "common": "The common object is the {look} in image {image}.",
    "colour": "The object with the same colour is the {look} in image {image}.",
    "shape": "The object with the same shape is the {look} in image {image}.",
}


def list_images(scenes: tuple[Scene, ...], numbers: list[int]) -> str:
    """`Image 1: red circle; blue star. Image 3: ...` for the images with these numbers."""
    return " ".join(f"Image {n}: {'; '.join(look.name for look in scenes[n - 1].looks)}." for n in numbers)


def quote_permille(box_unit: Box) -> str:
    """A box as MIG-Bench's questions quote it."""
    x1, y1, x2, y2 = (round(1000 * v) for v in box_unit)
    return f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>"


def ground(
    scenes: list[Scene], question: str, image: int, look: Look, conclusion: str, listed: list[int], lead: str = ""
) -> Case:
    """A grounding case whose facts list some images and then conclude."""
    every = tuple(scenes)
    parts = [lead, list_images(every, listed), CONCLUSIONS[conclusion].format(look=look.name, image=image)]
    return Case(every, question, image, look, " ".join(part for part in parts if part))


def relate(
    rng: Random, palette: Palette, question: str, key: Look, match: Look, rest: list[Look], conclusion: str
) -> Case:
    """A grounding case whose first image shows only `key`; the second holds what it relates to among `rest`."""
    scenes = [palette.scene(rng, [key]), palette.scene(rng, [match, *rest])]
    return ground(scenes, question, 2, match, conclusion, [1, 2])


def ask_choice(rng: Random, scenes: list[Scene], question: str, options: list[str], truth: str) -> Case:
    """A multiple-choice case with shuffled, lettered options."""
    shuffled = rng.sample(options, len(options))
    letters = [chr(ord("A") + i) for i in range(len(shuffled))]
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(letters, shuffled, strict=True))
    return Case(tuple(scenes), f"{question} {listed}", options=tuple(shuffled), letter=letters[shuffled.index(truth)])


TaskMaker = Callable[[Random, Palette], list[Case]]
"""A task: draws an image set and the cases over it."""
