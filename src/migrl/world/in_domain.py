"""The ten tasks that mirror MIG-Bench's; cold start and RL train on them too, on other scenes."""

from random import Random

from migrl.world.cases import Case, Palette, TaskMaker, ground, quote_permille, relate
from migrl.world.scenes import Look, crop_thing, mirror_scene, move_things, replace_thing


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
    question = "Locate the object of image 2 with the same colour as the object of image 1."
    return [relate(rng, palette, question, key, match, rest, "colour")]


def correspondence(rng: Random, palette: Palette) -> list[Case]:
    """Find the object of the same shape, which is of another colour."""
    shape, *others = rng.sample(palette.shapes, 3)
    colours = rng.sample(palette.colours, 4)
    key, match = Look(colours[0], shape), Look(colours[1], shape)
    rest = [Look(rng.choice(colours), other) for other in others]
    question = "Locate the object of image 2 with the same shape as the object of image 1."
    return [relate(rng, palette, question, key, match, rest, "shape")]


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
