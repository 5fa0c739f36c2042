"""Multiple-choice tasks that mirror BLINK's and MMIU's."""

from random import Random

from migrl.world.cases import Case, Palette, TaskMaker, ask_choice


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


MINI_BLINK: dict[str, TaskMaker] = {"which_image": which_image, "similarity": similarity, "counting": counting}
MINI_MMIU: dict[str, TaskMaker] = {"common_name": common_name, "new_name": new_name}
