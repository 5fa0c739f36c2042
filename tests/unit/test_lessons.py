"""The tiny base's lessons: what they teach is true, and none of them asks what a set asks."""

import json
import re
from random import Random

import pytest

from migrl.world.cases import UNSEEN
from migrl.world.corpus import draw_corpus
from migrl.world.lessons import LESSONS, Crowd, Lesson, draw_lesson, point_in_image, point_several
from migrl.world.look_ups import (
    CHOICES,
    LOOK_UPS,
    choose_like,
    choose_new,
    choose_place,
    choose_shared,
    draw_choice,
    draw_look_up,
    find_images,
    find_letters,
)
from migrl.world.out_of_domain import MINI_RELATE

RELATED = Crowd(3, related=0.7)
ANSWER = re.compile(r"The (\w+ \w+) in image (\d)\.<answer>(.*?)</answer>")


@pytest.mark.parametrize("crowd", [Crowd(3), RELATED])
def test_every_box_of_a_lesson_is_that_of_the_thing_it_names(crowd: Crowd) -> None:
    rng = Random(0)
    for lesson in (point_several(rng, crowd) for _ in range(100)):
        answers = ANSWER.findall(lesson.completion)
        assert len(answers) == len(set(answers)) == lesson.question.count(" in image ")
        for name, image, text in answers:
            scene = lesson.scenes[int(image) - 1]
            (thing,) = (thing for thing in scene.things if thing.look.name == name)
            box = [round(v) for v in thing.box_cell_px]
            assert json.loads(text) == {"image": int(image), "bbox_2d": box}


def test_related_images_show_the_same_thing_at_different_places() -> None:
    """Else a name alone would do, and the number of the image would not be learned."""
    places = []
    for crowd in (Crowd(3), RELATED):
        lessons = [point_in_image(Random(seed), crowd) for seed in range(300)]
        seen = [{(t.look, t.column, t.row) for scene in lesson.scenes for t in scene.things} for lesson in lessons]
        places.append(sum(len({look for look, _, _ in things}) < len(things) for things in seen) / len(lessons))
    assert places[0] < 0.2 and places[1] > 0.5, places


@pytest.mark.parametrize("make", list({**LESSONS, **LOOK_UPS, **CHOICES}), ids=lambda make: make.__name__)
def test_a_lesson_is_the_same_for_the_same_seed(make) -> None:
    assert make(Random(3), Crowd(3)) == make(Random(3), Crowd(3))


def test_a_letter_that_is_looked_up_is_that_of_the_option() -> None:
    rng = Random(0)
    for lesson in (find_letters(rng, RELATED) for _ in range(100)):
        options = {o: letter for letter, o in re.findall(r"\((\w)\) (image \d|\d|[a-z]+ [a-z]+)", lesson.question)}
        said = re.findall(r"([\w ]+?) is \((\w)\)\.", lesson.completion)
        assert said and all(options[name.strip()] == letter for name, letter in said)


def test_an_image_that_is_said_to_show_a_thing_shows_it() -> None:
    rng = Random(0)
    for lesson in (find_images(rng, RELATED) for _ in range(100)):
        for name, places in re.findall(r"The ([\w ]+?) is in (image[^.]*|no image)\.", lesson.completion):
            assert [int(n) for n in re.findall(r"\d", places)] == list_holders(lesson, name)


def test_only_the_right_option_of_a_choice_is_true() -> None:
    rng = Random(0)
    for _ in range(100):
        lesson = choose_shared(rng, RELATED)
        assert [list_holders(lesson, name) == numbers(lesson) for name in read_options(lesson)] == mark_answer(lesson)
        lesson = choose_new(rng, RELATED)
        assert [list_holders(lesson, name) == [2] for name in read_options(lesson)] == mark_answer(lesson)
        lesson = choose_place(rng, RELATED)
        (name,) = re.findall(r"[Tt]he (\w+ \w+?) is in|the (\w+ \w+)\?", lesson.question)
        holders = [f"image {number}" for number in list_holders(lesson, "".join(name))]
        assert [option in holders for option in read_options(lesson)] == mark_answer(lesson)
        lesson = choose_like(rng, RELATED)
        (key,) = re.findall(r"of image (\d)", lesson.question)
        (look,) = lesson.scenes[int(key) - 1].looks
        holders = [f"image {number}" for number in list_holders(lesson, look.name)]
        assert [option in holders for option in read_options(lesson)] == mark_answer(lesson)


def list_holders(lesson: Lesson, name: str) -> list[int]:
    """Numbers of the images that show the thing of this name."""
    return [n for n, scene in enumerate(lesson.scenes, 1) if name in {look.name for look in scene.looks}]


def numbers(lesson: Lesson) -> list[int]:
    return list(range(1, len(lesson.scenes) + 1))


def read_options(lesson: Lesson) -> list[str]:
    return [option.strip() for option in re.split(r"\([A-Z]\)", lesson.question)[1:]]


def mark_answer(lesson: Lesson) -> list[bool]:
    """Of each option, whether it has the letter of the answer."""
    (letter,) = re.findall(r"<answer>\((\w)\)</answer>", lesson.completion)
    return [chr(ord("A") + place) == letter for place in range(len(read_options(lesson)))]


def test_no_lesson_asks_a_question_of_the_tasks() -> None:
    """The base only ever repeats those: an answer to one of them would be taught the task."""
    rng = Random(0)
    compares = re.compile(r"\b(difference|share|moves|view|region|same|every image|not in image|which image)\b", re.I)
    for lesson in (draw_lesson(rng, Crowd(3)) for _ in range(2000)):
        assert lesson.question.startswith("Repeat: ") or not compares.search(lesson.question), lesson.question
    asked = re.compile(
        r"Locate|difference|one object|region|same|every image|not in image|Which image has|another view"
    )
    for draw in (draw_look_up, draw_choice):
        for lesson in (draw(rng, RELATED) for _ in range(2000)):
            pointing = lesson.kind == "box" and "<answer>" in lesson.completion
            assert pointing or lesson.question.startswith("Repeat: ") or not asked.search(lesson.question)


def test_the_base_has_read_no_question_of_mini_relate() -> None:
    corpus = "\n".join(draw_corpus(0))
    for make in MINI_RELATE.values():
        relation = make(Random(0), UNSEEN)[0].question.split(". ")[0]
        assert relation not in corpus
