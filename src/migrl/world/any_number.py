"""Grounding tasks that any number of boxes may answer, none included; nothing is trained on them.

A set of its own that no recipe asks for by default: `source.eval_per_task.mini_any`. It is drawn after all others, so
these are the same with and without it.
"""

from random import Random

from migrl.world.cases import Case, Palette, TaskMaker, list_images
from migrl.world.scenes import Look, Scene


def find_everywhere(rng: Random, palette: Palette) -> list[Case]:
    """A named object that neither, one or both of two images show."""
    look, *others = palette.draw(rng, 5)
    shown = set(rng.sample((1, 2), rng.randint(0, 2)))
    groups = [[*others[i : i + 2], *([look] if number in shown else [])] for number, i in ((1, 0), (2, 2))]
    scenes = [palette.scene(rng, looks) for looks in groups]
    question = f"Locate every {look.name} in these images. There may be none."
    return [_make_case(scenes, question, [(number, look) for number in sorted(shown)])]


def find_colour(rng: Random, palette: Palette) -> list[Case]:
    """None, one or two objects of a named colour, in any of two images."""
    colour, *others = rng.sample(palette.colours, 4)
    found = [(rng.randint(1, 2), Look(colour, shape)) for shape in rng.sample(palette.shapes, rng.randint(0, 2))]
    rest = [Look(other, rng.choice(palette.shapes)) for other in others]
    groups = [rest[:2], rest[2:]]
    scenes = [
        palette.scene(rng, [*some, *(look for image, look in found if image == number)])
        for number, some in enumerate(groups, 1)
    ]
    question = f"Locate every {colour} object in these images. There may be none."
    return [_make_case(scenes, question, sorted(found, key=lambda one: one[0]))]


def _make_case(scenes: list[Scene], question: str, every: list[tuple[int, Look]]) -> Case:
    shown = tuple(scenes)
    return Case(shown, question, facts=list_images(shown, [1, 2]), every=tuple(every))


MINI_ANY: dict[str, TaskMaker] = {"find_everywhere": find_everywhere, "find_colour": find_colour}
