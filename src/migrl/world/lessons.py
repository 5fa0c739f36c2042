"""Lessons of the tiny base model: what it knows before any fine-tuning.

Like the paper's base it is strong in one image (it names, points, reads back a box, answers
simple choices) and can list what several images hold. To point at what follows from a comparison
of images is left to the cold start and to RL.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from migrl.grounding.answers import format_box_answer, format_choice_answer
from migrl.grounding.prompts import PromptStyle, TargetKind
from migrl.world.cases import CONCLUSIONS, ask_choice, list_images
from migrl.world.scenes import (
    COLOURS,
    SHAPES,
    Look,
    Scene,
    Thing,
    crop_thing,
    draw_looks,
    draw_scene,
    mirror_scene,
    move_things,
)
from migrl.world.tasks import READ_SETS

POINT_WORDS = ("Locate", "Find", "Where is")


@dataclass(frozen=True)
class Lesson:
    """One training example. `style` None means a bare question without the form of the answer."""

    scenes: tuple[Scene, ...]
    question: str
    completion: str
    style: PromptStyle | None
    kind: TargetKind = "box"


@dataclass(frozen=True)
class Crowd:
    """What the images of a lesson hold: at most so many things, and how often they show things of an earlier image.

    Where images are unrelated, a name alone finds its thing, and the number of the image is never learned.
    """

    most: int
    related: float = 0.0


def format_bare_box(box: tuple[float, float, float, float]) -> str:
    return f"[{', '.join(str(round(v)) for v in box)}]"


def list_looks(scenes: list[Scene]) -> str:
    """`Image 1: red circle; blue star. Image 2: ...`, things in reading order."""
    return list_images(tuple(scenes), list(range(1, len(scenes) + 1)))


def draw_any(rng: Random, count: int) -> list[Look]:
    """Different looks of every colour and shape, seen in tasks or not."""
    return draw_looks(rng, count, tuple(COLOURS), SHAPES)


def draw_scenes(rng: Random, count: int, crowd: Crowd, extra: int = 0) -> list[Scene]:
    """So many images, of which a crowd's share show things of an earlier one; unrelated ones may hold `extra` more."""
    scenes: list[Scene] = []
    for _ in range(count):
        if scenes and crowd.related and rng.random() < crowd.related:
            scenes.append(_draw_related(rng, rng.choice(scenes), crowd.most))
        else:
            looks = draw_any(rng, rng.randint(1, crowd.most + extra))
            scenes.append(draw_scene(rng, looks, specks=rng.choice((0, 0, 6))))
    return scenes


def _draw_related(rng: Random, scene: Scene, most: int) -> Scene:
    """A scene with things of another: some of them elsewhere, all a step further, mirrored, or one close up."""
    match rng.choice(("some", "some", "moved", "mirrored", "close")):
        case "some":
            kept = rng.sample(scene.looks, rng.randint(1, min(most, len(scene.looks))))
            new = [look for look in draw_any(rng, most) if look not in kept]
            return draw_scene(rng, kept + new[: rng.randint(0, most - len(kept))], specks=rng.choice((0, 0, 6)))
        case "moved":
            return move_things(rng, scene)
        case "mirrored":
            return mirror_scene(scene)
        case _:
            return crop_thing(rng, rng.choice(scene.things))


def point(rng: Random, crowd: Crowd, listed: float = 0.5) -> Lesson:
    """Point at a named thing in the only image; a share `listed` of the thoughts lists everything first."""
    (scene,) = draw_scenes(rng, 1, crowd, extra=1)
    thing = rng.choice(scene.things)
    question = f"{rng.choice(POINT_WORDS)} the {thing.look.name}."
    return _point_lesson(rng, [scene], 1, thing, question, listed)


def point_in_image(rng: Random, crowd: Crowd, listed: float = 0.5) -> Lesson:
    """Point at a named thing in image k of several; `listed` as in `point`."""
    scenes = draw_scenes(rng, rng.choice((2, 2, 3)), crowd)
    number = rng.randint(1, len(scenes))
    thing = rng.choice(scenes[number - 1].things)
    question = f"{rng.choice(POINT_WORDS)} the {thing.look.name} in image {number}."
    return _point_lesson(rng, scenes, number, thing, question, listed)


def point_briefly(rng: Random, crowd: Crowd) -> Lesson:
    """Point without listing first, in one image or in one of several."""
    return point(rng, crowd, 0.1) if rng.random() < 0.45 else point_in_image(rng, crowd, 0.1)


def _point_lesson(rng: Random, scenes: list[Scene], number: int, thing: Thing, question: str, listed: float) -> Lesson:
    answer = format_box_answer(number, thing.box_cell_px)
    if rng.random() < 0.3:
        return Lesson(tuple(scenes), question, answer, "direct")
    hint = rng.choice(list(CONCLUSIONS.values())).format(look=thing.look.name, image=number)
    listing = f"{list_looks(scenes)} " if rng.random() < listed else ""
    return Lesson(tuple(scenes), question, f"<think>{listing}{hint}</think>{answer}", "think")


def point_several(rng: Random, crowd: Crowd) -> Lesson:
    """Point at up to three named things, one after the other, in any order: looking up is what is practised."""
    scenes = draw_scenes(rng, rng.choice((1, 2, 2, 3)), crowd)
    found = [(number, thing) for number, scene in enumerate(scenes, 1) for thing in scene.things]
    found = rng.sample(found, min(3, len(found)))
    named = [f"the {thing.look.name} in image {number}" for number, thing in found]
    answers = [format_box_answer(number, thing.box_cell_px) for number, thing in found]
    parts = [f"{name[0].upper()}{name[1:]}.{answer}" for name, answer in zip(named, answers, strict=True)]
    return Lesson(tuple(scenes), f"{rng.choice(POINT_WORDS)} {', '.join(named)}.", " ".join(parts), None)


def describe(rng: Random, crowd: Crowd) -> Lesson:
    """Name every thing of one image with its box: the densest lesson."""
    scenes = draw_scenes(rng, rng.randint(1, 2), crowd, extra=1)
    number = rng.randint(1, len(scenes))
    scene = scenes[number - 1]
    parts = [f"{thing.look.name} {format_bare_box(thing.box_cell_px)}" for thing in scene.things]
    return Lesson(tuple(scenes), f"Describe image {number}.", "; ".join(parts) + ".", None)


def list_all(rng: Random, crowd: Crowd) -> Lesson:
    """List the things of every image."""
    scenes = draw_scenes(rng, rng.randint(2, 3), crowd)
    if rng.random() < 0.3:
        scenes[-1] = crop_thing(rng, rng.choice(scenes[-1].things))
    listing = list_looks(scenes)
    completion = f"<think>{listing}</think>" if rng.random() < 0.5 else listing
    return Lesson(tuple(scenes), "List the objects of each image.", completion, None)


def read_box(rng: Random, crowd: Crowd) -> Lesson:
    """Name the thing inside a given box."""
    scenes = draw_scenes(rng, rng.randint(1, 3), crowd)
    number = rng.randint(1, len(scenes))
    scene = scenes[number - 1]
    thing = rng.choice(scene.things)
    box = format_bare_box(thing.box_cell_px)
    completion = f"The object of image {number} is a {thing.look.name}."
    question = f"What is the object at {box} of image {number}?"
    if rng.random() < 0.5:
        completion = f"<think>{completion}</think>"
    return Lesson(tuple(scenes), question, completion, None)


def repeat(rng: Random, crowd: Crowd) -> Lesson:
    """Say a sentence again: how the base meets the words of questions it was never taught to answer."""
    makers, palette = rng.choice(list(READ_SETS.values()))
    case = rng.choice(rng.choice(list(makers.values()))(rng, palette))
    sentence = case.question.split("<|box_start|>")[0] if rng.random() < 0.6 or not case.facts else case.facts
    return Lesson(tuple(draw_scenes(rng, 1, crowd)), f"Repeat: {sentence}", sentence, None)


def choose(rng: Random, crowd: Crowd) -> Lesson:
    """Single-fact multiple choice: how many, what colour, what shape, which object."""
    scenes = draw_scenes(rng, rng.randint(1, 2), crowd)
    number = rng.randint(1, len(scenes))
    scene = scenes[number - 1]
    match rng.choice(("count", "which", "where")):
        case "count":
            question, options = f"How many objects are in image {number}?", [str(n) for n in range(1, 5)]
            truth = str(len(scene.things))
            options = rng.sample([o for o in options if o != truth], 2) + [truth]
        case "which":
            question, truth = f"Which object is in image {number}?", rng.choice(scene.looks).name
            here = {look.name for look in scene.looks}
            other = [look.name for look in draw_any(rng, 12) if look.name not in here]
            options = [truth, *other[:2]]
        case _:
            look = rng.choice(scene.looks)
            same_colour = sum(other.colour == look.colour for other in scene.looks) > 1
            asked = look.name if same_colour else f"{look.colour} object"
            question, truth = f"What is the shape of the {asked} in image {number}?", look.shape
            options = [truth, *rng.sample([shape for shape in SHAPES if shape != truth], 2)]
    return choice_lesson(rng, scenes, question, options, truth, list_looks(scenes))


def choice_lesson(
    rng: Random, scenes: list[Scene], question: str, options: list[str], truth: str, thought: str
) -> Lesson:
    case = ask_choice(rng, scenes, question, options, truth)
    assert case.letter is not None
    answer = format_choice_answer(case.letter)
    if rng.random() < 0.4:
        return Lesson(case.scenes, case.question, answer, "direct", "choice")
    thought = f"<think>{thought} The answer is {truth}.</think>"
    return Lesson(case.scenes, case.question, f"{thought}{answer}", "think", "choice")


LESSONS: dict[Callable[[Random, Crowd], Lesson], float] = {
    point_several: 4.0,
    point_briefly: 3.5,
    point: 0.7,
    point_in_image: 1.5,
    describe: 0.5,
    list_all: 1.5,
    read_box: 1.2,
    choose: 1.2,
    repeat: 0.4,
}
"""Lessons and their weights. Pointing is half of all: looking a named thing up takes longest to learn."""


def draw_from(mixture: Mapping[Callable[[Random, Crowd], Lesson], float], rng: Random, crowd: Crowd) -> Lesson:
    """One lesson of a mixture, whose kinds have weights."""
    (kind,) = rng.choices(list(mixture), weights=list(mixture.values()))
    return kind(rng, crowd)


def draw_lesson(rng: Random, crowd: Crowd) -> Lesson:
    """One lesson of the phases `speak` and `bind`."""
    return draw_from(LESSONS, rng, crowd)
