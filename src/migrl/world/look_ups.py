"""Lessons of the tiny base's last phases: looking a name up in what was listed, and saying which option that is.

A choice says little that is new: of its forty tokens two or three. So looking up is taught by itself, several times
an example, as `point_several` teaches pointing. Choices are asked in other words than the sets'.
"""

from collections.abc import Callable, Iterable
from random import Random

from migrl.world.lessons import Crowd, Lesson, choice_lesson, draw_any, draw_from, draw_lesson, draw_scenes, list_looks
from migrl.world.scenes import COLOURS, SHAPES, Look, Scene, draw_looks, draw_scene

PLACE_WORDS = (
    "In which image is the {name}?",
    "Where is the {name}?",
    "Which image shows the {name}?",
    "The {name} is in which image?",
)
LIKE_WORDS = (
    "Which image shows the object of image {key} another time?",
    "Where is the object of image {key} also?",
    "The object of image {key} is in which image?",
)
SHARED_WORDS = ("What do these images share?", "What is in each of these images?", "Which object do all images show?")
NEW_WORDS = (
    "What is new in image 2?",
    "Which object is only in image 2?",
    "What does image 2 show that image 1 does not?",
)


def draw_over(rng: Random, groups: list[list[Look]]) -> list[Scene]:
    """A scene for each group of looks."""
    return [draw_scene(rng, looks, specks=rng.choice((0, 0, 6))) for looks in groups]


def find_letters(rng: Random, crowd: Crowd) -> Lesson:
    """The letter of each of some options."""
    names = [look.name for look in draw_any(rng, 4)]
    words = rng.choice(
        (names, names, [f"image {number}" for number in range(1, 4)], [str(number) for number in range(1, 5)])
    )
    options = rng.sample(words, rng.randint(2, len(words)))
    letters = {option: chr(ord("A") + place) for place, option in enumerate(options)}
    listed = " ".join(f"({letter}) {option}" for option, letter in letters.items())
    asked = rng.sample(options, len(options))
    completion = " ".join(f"{option} is ({letters[option]})." for option in asked)
    question = f"Which letter is each answer? {listed}"
    return Lesson(tuple(draw_scenes(rng, 1, crowd)), f"{question} {'; '.join(asked)}.", completion, None)


def find_images(rng: Random, crowd: Crowd) -> Lesson:
    """The images that show each of some things, after they were listed; a thing may be in none."""
    scenes = draw_scenes(rng, rng.choice((2, 3, 3)), crowd)
    shown = list(dict.fromkeys(look for scene in scenes for look in scene.looks))
    asked = rng.sample(shown, min(3, len(shown)))
    if rng.random() < 0.3:
        asked += [look for look in draw_any(rng, 8) if look not in shown][:1]
    rng.shuffle(asked)
    found = []
    for look in asked:
        numbers = [f"image {number}" for number, scene in enumerate(scenes, 1) if look in scene.looks]
        found.append(f"The {look.name} is in {', '.join(numbers) or 'no image'}.")
    listing = f"{list_looks(scenes)} " if rng.random() < 0.7 else ""
    question = f"Which images show each object? {'; '.join(look.name for look in asked)}."
    return Lesson(tuple(scenes), question, listing + " ".join(found), None)


def count_each(rng: Random, crowd: Crowd) -> Lesson:
    """How many things each image shows."""
    scenes = draw_scenes(rng, rng.choice((1, 2, 3)), crowd, extra=1)
    counts = " ".join(f"Image {number} has {len(scene.things)}." for number, scene in enumerate(scenes, 1))
    listing = f"{list_looks(scenes)} " if rng.random() < 0.7 else ""
    return Lesson(tuple(scenes), "How many objects does each image show?", listing + counts, None)


def tell_changes(rng: Random, crowd: Crowd) -> Lesson:
    """What both images show, and what only one of them does."""
    looks = draw_any(rng, 6)
    both, first, second = rng.randint(1, 2), rng.randint(0, 2), rng.randint(0, 2)
    groups = [looks[:both] + looks[2 : 2 + first], looks[:both] + looks[4 : 4 + second]]
    scenes = draw_over(rng, groups)
    kept, left, come = (
        [look.name for look in scene.looks if look in some]
        for scene, some in ((scenes[0], looks[:both]), (scenes[0], looks[2:4]), (scenes[1], looks[4:6]))
    )
    parts = [f"Image 1 and image 2: {'; '.join(kept)}.", f"Only image 1: {'; '.join(left) or 'no object'}."]
    parts += [f"Only image 2: {'; '.join(come) or 'no object'}."]
    return Lesson(
        tuple(scenes),
        "Which objects are in one image, and which in two?",
        f"{list_looks(scenes)} {' '.join(parts)}",
        None,
    )


def tell_new(rng: Random, crowd: Crowd) -> Lesson:
    """What only one of two images shows, without what they share."""
    old, new, *kept = draw_any(rng, rng.choice((3, 4, 5)))
    scenes = draw_over(rng, [[*kept, old], [*kept, new]])
    number, look = rng.choice(((1, old), (2, new)))
    listing = f"{list_looks(scenes)} Only image {number}: {look.name}."
    return Lesson(tuple(scenes), f"Which object is only in image {number}?", listing, None)


def find_alike(rng: Random, crowd: Crowd) -> Lesson:
    """The things of an image that have each of some colours and shapes."""
    colours, shapes = rng.sample(list(COLOURS), 3), rng.sample(SHAPES, 3)
    count = rng.choice((1, 2))
    groups = [draw_looks(rng, rng.randint(2, crowd.most + 1), tuple(colours), tuple(shapes)) for _ in range(count)]
    scenes, number = draw_over(rng, groups), rng.randint(1, count)
    asked = rng.sample([*colours[:2], *shapes[:2]], 3)
    found = []
    for word in asked:
        names = [look.name for look in scenes[number - 1].looks if word in (look.colour, look.shape)]
        found.append(f"{word}: {'; '.join(names) or 'no object'}.")
    listing = f"{list_looks(scenes)} " if rng.random() < 0.7 else ""
    question = f"Which objects of image {number} are {'; '.join(asked)}?"
    return Lesson(tuple(scenes), question, listing + " ".join(found), None)


def choose_place(rng: Random, crowd: Crowd) -> Lesson:
    """A choice: the image that has the named thing."""
    count = rng.choice((2, 3, 3))
    looks = draw_any(rng, 3 * count)
    scenes = draw_over(rng, [looks[3 * at : 3 * at + rng.randint(1, crowd.most)] for at in range(count)])
    number = rng.randint(1, count)
    name = rng.choice(scenes[number - 1].looks).name
    return _choose_image(rng, scenes, rng.choice(PLACE_WORDS).format(name=name), name, number, range(1, count + 1))


def choose_like(rng: Random, crowd: Crowd) -> Lesson:
    """A choice: the image that shows what another shows."""
    shown, *others = draw_any(rng, 8)
    count = rng.choice((3, 3, 4))
    key, *rest = rng.sample(range(1, count + 1), count)
    groups = {number: [others.pop() for _ in range(rng.randint(1, 2))] for number in rest}
    groups[key] = [shown]
    groups[rest[0]][0] = shown
    scenes = draw_over(rng, [groups[number] for number in range(1, count + 1)])
    return _choose_image(rng, scenes, rng.choice(LIKE_WORDS).format(key=key), shown.name, rest[0], sorted(rest))


def _choose_image(
    rng: Random, scenes: list[Scene], question: str, name: str, number: int, among: Iterable[int]
) -> Lesson:
    thought = f"{list_looks(scenes)} The {name} is in image {number}."
    options = [f"image {other}" for other in among]
    return choice_lesson(rng, scenes, question, options, f"image {number}", thought)


def choose_shared(rng: Random, crowd: Crowd) -> Lesson:
    """A choice: what every image shows."""
    shared, *others = draw_any(rng, 8)
    count = rng.choice((2, 3, 3))
    groups = [[shared, *others[2 * at : 2 * at + rng.randint(1, 2)]] for at in range(count)]
    scenes = draw_over(rng, groups)
    once = [look.name for scene in scenes for look in scene.looks if look != shared]
    options = [shared.name, *rng.sample(once, 2)]
    return choice_lesson(rng, scenes, rng.choice(SHARED_WORDS), options, shared.name, list_looks(scenes))


def choose_new(rng: Random, crowd: Crowd) -> Lesson:
    """A choice: what only the second image shows."""
    old, new, *kept = draw_any(rng, rng.choice((4, 5)))
    scenes = draw_over(rng, [[*kept[:2], old], [*kept[:2], new]])
    options = [new.name, *(look.name for look in kept[:2])]
    return choice_lesson(rng, scenes, rng.choice(NEW_WORDS), options, new.name, list_looks(scenes))


LOOK_UPS: dict[Callable[[Random, Crowd], Lesson], float] = {
    draw_lesson: 4.0,
    find_images: 1.6,
    find_letters: 1.0,
    count_each: 0.4,
    tell_changes: 0.8,
    choose_place: 1.2,
    choose_like: 0.9,
    choose_shared: 0.6,
    choose_new: 0.6,
}
"""Lessons of the phase `look-up`; two fifths are those of the phases before, so that nothing is forgotten."""

CHOICES: dict[Callable[[Random, Crowd], Lesson], float] = {
    draw_lesson: 3.5,
    find_letters: 2.5,
    find_images: 0.7,
    find_alike: 1.0,
    tell_changes: 0.5,
    tell_new: 0.6,
    choose_place: 0.9,
    choose_like: 0.9,
    choose_shared: 0.6,
    choose_new: 0.8,
}
"""Lessons of the phase `choose`. Letters are looked up from the end of a name, and take longest to learn."""


def draw_look_up(rng: Random, crowd: Crowd) -> Lesson:
    """One lesson of the phase `look-up`."""
    return draw_from(LOOK_UPS, rng, crowd)


def draw_choice(rng: Random, crowd: Crowd) -> Lesson:
    """One lesson of the phase `choose`."""
    return draw_from(CHOICES, rng, crowd)
