"""The tiny base's lessons: what they teach is true, and none of them compares images."""

import json
import re
from random import Random

import pytest

from migrl.world.cases import UNSEEN
from migrl.world.corpus import draw_corpus
from migrl.world.lessons import LESSONS, Crowd, draw_lesson, point_in_image, point_several
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


@pytest.mark.parametrize("make", list(LESSONS), ids=lambda make: make.__name__)
def test_a_lesson_is_the_same_for_the_same_seed(make) -> None:
    assert make(Random(3), Crowd(3)) == make(Random(3), Crowd(3))


def test_no_lesson_asks_a_question_of_the_tasks() -> None:
    """The base only ever repeats those: an answer to one of them would be taught comparing."""
    rng = Random(0)
    compares = re.compile(r"\b(difference|share|moves|view|region|same|every image|not in image|which image)\b", re.I)
    for lesson in (draw_lesson(rng, Crowd(3)) for _ in range(2000)):
        assert lesson.question.startswith("Repeat: ") or not compares.search(lesson.question), lesson.question


def test_the_base_has_read_no_question_of_mini_relate() -> None:
    corpus = "\n".join(draw_corpus(0))
    for make in MINI_RELATE.values():
        relation = make(Random(0), UNSEEN)[0].question.split(". ")[0]
        assert relation not in corpus
