"""Grounding tasks that nothing is trained on: unseen looks, more clutter, other wording.

Each is the twin of a task in domain. The target's colour or shape has only been shown in the base's
own lessons; `mini_relate`'s questions have not even been read by the base or its tokenizer.
"""

from random import Random

from migrl.world.cases import Case, Palette, TaskMaker, ground, quote_permille, relate
from migrl.world.scenes import SEEN_COLOURS, SEEN_SHAPES, Look, mirror_scene, move_things


def is_unseen(look: Look) -> bool:
    """Whether its colour or its shape appears in no task in domain."""
    return look.colour not in SEEN_COLOURS or look.shape not in SEEN_SHAPES


def draw_unseen(rng: Random, palette: Palette, count: int) -> list[Look]:
    """Different looks whose first, the one asked for, is unseen."""
    while True:
        looks = palette.draw(rng, count)
        if is_unseen(looks[0]):
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


def same_colour(rng: Random, palette: Palette) -> list[Case]:
    """LLMSeg-like: the object is not named but related, by its colour, to the one in image 1."""
    while True:
        colour, *others = rng.sample(palette.colours, 4)
        key, match = (Look(colour, shape) for shape in rng.sample(palette.shapes, 2))
        if is_unseen(match):
            break
    rest = [Look(other, rng.choice(palette.shapes)) for other in others]
    question = "One object has the colour of the object of image 1. Where is it in image 2?"
    return [relate(rng, palette, question, key, match, rest, "colour")]


def same_shape(rng: Random, palette: Palette) -> list[Case]:
    """LLMSeg-like: the object is related by its shape to the one in image 1."""
    while True:
        shape, *others = rng.sample(palette.shapes, 4)
        key, match = (Look(colour, shape) for colour in rng.sample(palette.colours, 2))
        if is_unseen(match):
            break
    rest = [Look(rng.choice(palette.colours), other) for other in others]
    question = "One object has the shape of the object of image 1. Where is it in image 2?"
    return [relate(rng, palette, question, key, match, rest, "shape")]


def from_behind(rng: Random, palette: Palette) -> list[Case]:
    """LLMSeg-like: the object is related by its place, with left and right swapped."""
    looks = draw_unseen(rng, palette, 4)
    first = palette.scene(rng, looks)
    box = first.box_unit(first.find(looks[0]))
    question = f"Image 2 is seen from behind. Where is the object at {quote_permille(box)} of image 1 in image 2?"
    lead = f"The object of image 1 is a {looks[0].name}."
    return [ground([first, mirror_scene(first)], question, 2, looks[0], "target", [], lead)]


MINI_REASON: dict[str, TaskMaker] = {"missing_before": missing_before, "lookalike": lookalike}
MINI_FRAMES: dict[str, TaskMaker] = {"in_every_frame": in_every_frame, "follow": follow}
MINI_RELATE: dict[str, TaskMaker] = {"same_colour": same_colour, "same_shape": same_shape, "from_behind": from_behind}
