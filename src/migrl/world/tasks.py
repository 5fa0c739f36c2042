"""Tasks of the tiny world: ten that mirror MIG-Bench's, four out of domain, five multiple-choice.

Each task is one function that draws a `Case`: an image set, one or more questions over it, and the
reasoning that leads to the answer. Boxes quoted in questions are written as MIG-Bench writes
them, in permille between box tokens; `prompts.quote_boxes` turns them into the model's frame.

In-domain cases use the seen colours and shapes. The out-of-domain sets show colours and shapes
that only the base's single-image lessons have used, more clutter, and other wording.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from migrl.boxes import Box
from migrl.world.scenes import (
    COLOURS,
    SEEN_COLOURS,
    SEEN_SHAPES,
    SHAPES,
    Look,
    Scene,
    Thing,
    crop_thing,
    draw_looks,
    draw_scene,
    mirror_scene,
    move_things,
    replace_thing,
)


@dataclass(frozen=True)
class Case:
    """One question over an image set.

    `look` and `image` name the true object of a grounding case (image is 1-based); `options` and
    `letter` the answer of a choice case. `facts` is what a good teacher says, `{look}` and
    `{image}` of the conclusion included, in the words of the base's lessons.
    """

    scenes: tuple[Scene, ...]
    question: str
    image: int | None = None
    look: Look | None = None
    facts: str = ""
    options: tuple[str, ...] = ()
    letter: str | None = None

    @property
    def thing(self) -> Thing:
        assert self.image is not None and self.look is not None
        return self.scenes[self.image - 1].find(self.look)


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


def ask_choice(rng: Random, scenes: list[Scene], question: str, options: list[str], truth: str) -> Case:
    """A multiple-choice case with shuffled, lettered options."""
    shuffled = rng.sample(options, len(options))
    letters = [chr(ord("A") + i) for i in range(len(shuffled))]
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(letters, shuffled, strict=True))
    return Case(tuple(scenes), f"{question} {listed}", options=tuple(shuffled), letter=letters[shuffled.index(truth)])


# --- in domain: the ten tasks of MIG-Bench -----------------------------------------------------------


def static_difference(rng: Random, palette: Palette) -> list[Case]:
    """Two images, one object replaced at its place."""
    *kept, old, new = palette.draw(rng, 4)
    first = palette.scene(rng, [*kept, old])
    second = replace_thing(first, old, new)
    return [ground([first, second], "Locate the difference of these two images in image 2.", 2, new, "new", [1, 2])]


def robust_difference(rng: Random, palette: Palette) -> list[Case]:
    """Two images of different layout; one object is new."""
    *kept, old, new = palette.draw(rng, 4)
    scenes = [palette.scene(rng, [*kept, old]), palette.scene(rng, [*kept, new])]
    return [ground(scenes, "Locate the real difference in image 2.", 2, new, "new", [1, 2])]


def common_object(rng: Random, palette: Palette) -> list[Case]:
    """Three images share one object; asked for two of them."""
    shared, *others = palette.draw(rng, 4)
    scenes = [palette.scene(rng, [shared, other]) for other in others]
    return [
        ground(scenes, f"These images share one object. Locate it in image {k}.", k, shared, "common", [1, 2, 3])
        for k in sorted(rng.sample((1, 2, 3), 2))
    ]


def object_tracking(rng: Random, palette: Palette) -> list[Case]:
    """Three frames in which things move by at most one cell; asked for two of them."""
    looks = palette.draw(rng, 3)
    first = palette.scene(rng, looks)
    second = move_things(rng, first)
    scenes = [first, second, move_things(rng, second)]
    look = rng.choice(looks)
    box = first.box_unit(first.find(look))
    question = f"The object of image 1 at {quote_permille(box)} moves. Locate it in image {{k}}."
    lead = f"The object of image 1 is a {look.name}."
    return [ground(scenes, question.format(k=k), k, look, "target", [], lead) for k in (2, 3)]


def multi_view(rng: Random, palette: Palette) -> list[Case]:
    """The second image shows the scene from behind: left and right are swapped."""
    looks = palette.draw(rng, 3)
    first = palette.scene(rng, looks)
    look = rng.choice(looks)
    box = first.box_unit(first.find(look))
    question = f"Image 2 is another view of image 1. Locate the object at {quote_permille(box)} in image 2."
    lead = f"The object of image 1 is a {look.name}."
    return [ground([first, mirror_scene(first)], question, 2, look, "target", [], lead)]


def region(rng: Random, palette: Palette) -> list[Case]:
    """A source image, then two regions of it; each region is asked for."""
    looks = palette.draw(rng, 4)
    source = palette.scene(rng, looks)
    scenes = [source, *(crop_thing(rng, source.find(look)) for look in looks[:2])]
    return [
        ground(scenes, f"Image {k} is a region of image 1. Locate it in image 1.", 1, looks[k - 2], "target", [k])
        for k in (2, 3)
    ]


def referring(rng: Random, palette: Palette) -> list[Case]:
    """The first image shows one object, the second holds it among others."""
    looks = palette.draw(rng, 4)
    scenes = [palette.scene(rng, looks[:1]), palette.scene(rng, looks)]
    return [ground(scenes, "Locate the object of image 1 in image 2.", 2, looks[0], "target", [1])]


def group_grounding(rng: Random, palette: Palette) -> list[Case]:
    """A named object somewhere in three images."""
    looks = palette.draw(rng, 6)
    scenes = [palette.scene(rng, looks[i : i + 2]) for i in (0, 2, 4)]
    k = rng.randint(1, 3)
    look = rng.choice(scenes[k - 1].looks)
    return [ground(scenes, f"Locate the {look.name} in these images.", k, look, "target", [1, 2, 3])]


def reasoning(rng: Random, palette: Palette) -> list[Case]:
    """Find the object of the same colour, which is of another shape."""
    colour, *others = rng.sample(palette.colours, 4)
    shapes = rng.sample(palette.shapes, 3)
    key, match = Look(colour, shapes[0]), Look(colour, shapes[1])
    rest = [Look(other, rng.choice(shapes)) for other in others[:2]]
    scenes = [palette.scene(rng, [key]), palette.scene(rng, [match, *rest])]
    question = "Locate the object of image 2 with the same colour as the object of image 1."
    return [ground(scenes, question, 2, match, "colour", [1, 2])]


def correspondence(rng: Random, palette: Palette) -> list[Case]:
    """Find the object of the same shape, which is of another colour."""
    shape, *others = rng.sample(palette.shapes, 3)
    colours = rng.sample(palette.colours, 4)
    key, match = Look(colours[0], shape), Look(colours[1], shape)
    rest = [Look(rng.choice(colours), other) for other in others]
    scenes = [palette.scene(rng, [key]), palette.scene(rng, [match, *rest])]
    question = "Locate the object of image 2 with the same shape as the object of image 1."
    return [ground(scenes, question, 2, match, "shape", [1, 2])]


# --- out of domain: other looks, clutter and wording -------------------------------------------------


def draw_unseen(rng: Random, palette: Palette, count: int) -> list[Look]:
    """Different looks whose first, the one asked for, has an unseen colour or shape."""
    while True:
        looks = palette.draw(rng, count)
        if looks[0].colour not in SEEN_COLOURS or looks[0].shape not in SEEN_SHAPES:
            return looks


def missing_before(rng: Random, palette: Palette) -> list[Case]:
    """ReasonSeg-like: which thing was not there before?"""
    new, old, *kept = draw_unseen(rng, palette, 5)
    scenes = [palette.scene(rng, [*kept, old]), palette.scene(rng, [*kept, new])]
    return [ground(scenes, "Image 2 shows one object that is not in image 1. Where is it?", 2, new, "new", [1, 2])]


def lookalike(rng: Random, palette: Palette) -> list[Case]:
    """ReasonSeg-like: find the thing that looks like the one in image 1."""
    looks = draw_unseen(rng, palette, 5)
    scenes = [palette.scene(rng, looks[:1]), palette.scene(rng, looks)]
    return [ground(scenes, "Where is the same object as in image 1 in image 2?", 2, looks[0], "target", [1])]


def in_every_frame(rng: Random, palette: Palette) -> list[Case]:
    """ReVOS-like: the thing that stays, in the third frame."""
    shared, *others = draw_unseen(rng, palette, 7)
    scenes = [palette.scene(rng, [shared, *others[i : i + 2]]) for i in (0, 2, 4)]
    question = "One object is in every image. Where is it in image 3?"
    return [ground(scenes, question, 3, shared, "common", [1, 2, 3])]


def follow(rng: Random, palette: Palette) -> list[Case]:
    """ReVOS-like: follow one thing to the third frame."""
    looks = draw_unseen(rng, palette, 4)
    first = palette.scene(rng, looks)
    second = move_things(rng, first)
    box = first.box_unit(first.find(looks[0]))
    question = f"Where is the object at {quote_permille(box)} of image 1 in image 3?"
    lead = f"The object of image 1 is a {looks[0].name}."
    return [ground([first, second, move_things(rng, second)], question, 3, looks[0], "target", [], lead)]


# --- multiple choice ---------------------------------------------------------------------------------


def which_image(rng: Random, palette: Palette) -> list[Case]:
    """BLINK-like: which image holds the named object?"""
    looks = palette.draw(rng, 6)
    scenes = [palette.scene(rng, looks[i : i + 2]) for i in (0, 2, 4)]
    k = rng.randint(1, 3)
    question = f"Which image has the {rng.choice(scenes[k - 1].looks).name}?"
    return [ask_choice(rng, scenes, question, ["image 1", "image 2", "image 3"], f"image {k}")]


def similarity(rng: Random, palette: Palette) -> list[Case]:
    """BLINK-like: which image shows the object of image 1?"""
    looks = palette.draw(rng, 4)
    holder = rng.choice((2, 3))
    pairs = [[looks[0], looks[1]], [looks[2], looks[3]]]
    if holder == 3:
        pairs.reverse()
    scenes = [palette.scene(rng, looks[:1]), *(palette.scene(rng, pair) for pair in pairs)]
    return [
        ask_choice(rng, scenes, "Which image has the object of image 1?", ["image 2", "image 3"], f"image {holder}")
    ]


def counting(rng: Random, palette: Palette) -> list[Case]:
    """BLINK-like: how many objects are in image k?"""
    scenes = [palette.scene(rng, palette.draw(rng, rng.randint(1, 4))) for _ in range(2)]
    k = rng.randint(1, 2)
    truth = str(len(scenes[k - 1].things))
    options = [truth, *rng.sample([str(n) for n in range(1, 5) if str(n) != truth], 2)]
    return [ask_choice(rng, scenes, f"How many objects are in image {k}?", options, truth)]


def common_name(rng: Random, palette: Palette) -> list[Case]:
    """MMIU-like: name the object that every image shows."""
    shared, *others = palette.draw(rng, 4)
    scenes = [palette.scene(rng, [shared, other]) for other in others]
    options = [shared.name, *(look.name for look in others[:2])]
    return [ask_choice(rng, scenes, "Which object is in every image?", options, shared.name)]


def new_name(rng: Random, palette: Palette) -> list[Case]:
    """MMIU-like: name the object that is new in image 2."""
    *kept, old, new = palette.draw(rng, 4)
    scenes = [palette.scene(rng, [*kept, old]), palette.scene(rng, [*kept, new])]
    options = [new.name, *(look.name for look in kept)]
    return [ask_choice(rng, scenes, "Which object of image 2 is not in image 1?", options, new.name)]


TaskMaker = Callable[[Random, Palette], list[Case]]
MINI_MIG: dict[str, TaskMaker] = {
    "static_difference": static_difference,
    "robust_difference": robust_difference,
    "common_object": common_object,
    "object_tracking": object_tracking,
    "multi_view": multi_view,
    "region": region,
    "referring": referring,
    "group_grounding": group_grounding,
    "reasoning": reasoning,
    "correspondence": correspondence,
}
MINI_REASON: dict[str, TaskMaker] = {"missing_before": missing_before, "lookalike": lookalike}
MINI_FRAMES: dict[str, TaskMaker] = {"in_every_frame": in_every_frame, "follow": follow}
MINI_BLINK: dict[str, TaskMaker] = {"which_image": which_image, "similarity": similarity, "counting": counting}
MINI_MMIU: dict[str, TaskMaker] = {"common_name": common_name, "new_name": new_name}
SETS: dict[str, tuple[dict[str, TaskMaker], Palette]] = {
    "mini_mig": (MINI_MIG, SEEN),
    "mini_reason": (MINI_REASON, UNSEEN),
    "mini_frames": (MINI_FRAMES, UNSEEN),
    "mini_blink": (MINI_BLINK, SEEN),
    "mini_mmiu": (MINI_MMIU, SEEN),
}
