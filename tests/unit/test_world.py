"""The tiny world: what is asked has one true answer, and the picture's size is not the model's."""

import re
from itertools import product
from random import Random

import pytest

from migrl.data.world_source import build_world
from migrl.grounding.images import fit_size
from migrl.recipe import WorldSource
from migrl.world.cases import Case
from migrl.world.scenes import CELL_PX, GRIDS, SCALES, Scene, render_scene
from migrl.world.tasks import SETS

# As in world/tokenizer.py, which is not imported here: it would load transformers.
MIN_PIXELS, MAX_PIXELS = 56 * 56, 9_600
ROUNDS = 30
TASKS = [(name, task) for name, (makers, _) in SETS.items() for task in makers]


def draw_cases(benchmark: str, task: str) -> list[Case]:
    makers, palette = SETS[benchmark]
    rng = Random(f"test-{benchmark}-{task}")
    return [case for _ in range(ROUNDS) for case in makers[task](rng, palette)]


def list_scenes() -> list[Scene]:
    return [scene for benchmark, task in TASKS for case in draw_cases(benchmark, task) for scene in case.scenes]


def test_the_model_sees_every_scene_as_its_grid_of_28_px_cells():
    changed = 0
    for scene in list_scenes():
        resized = fit_size(scene.size, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
        assert resized == (scene.columns * CELL_PX, scene.rows * CELL_PX)
        changed += resized != scene.size
    assert changed > ROUNDS  # else a box in the wrong frame would go unnoticed


def test_every_grid_and_scale_that_a_scene_may_have_keeps_its_grid():
    whole = product(GRIDS, SCALES)
    close_ups = product(((2, 2),), (0.93, 1.0, 1.05))  # larger ones would round up to three cells
    for (columns, rows), scale in (*whole, *close_ups):
        resized = fit_size(Scene(columns, rows, scale, ()).size, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
        assert resized == (columns * CELL_PX, rows * CELL_PX)


def test_a_picture_has_the_size_of_its_scene_and_its_things_where_the_boxes_say():
    for scene in list_scenes()[::40]:
        picture = render_scene(scene)
        assert picture.size == scene.size
        bare = render_scene(Scene(scene.columns, scene.rows, scene.scale, (), scene.specks))
        for thing in scene.things:
            x1, y1, x2, y2 = (v * side for v, side in zip(scene.box_unit(thing), scene.size * 2, strict=True))
            middle = (round((x1 + x2) / 2), round((y1 + y2) / 2))
            assert picture.getpixel(middle) != bare.getpixel(middle)


@pytest.mark.parametrize(("benchmark", "task"), TASKS)
def test_the_same_seed_draws_the_same_cases(benchmark, task):
    assert draw_cases(benchmark, task) == draw_cases(benchmark, task)


@pytest.mark.parametrize(("benchmark", "task"), TASKS)
def test_every_thing_lies_within_its_image_in_a_cell_of_its_own(benchmark, task):
    for case in draw_cases(benchmark, task):
        for scene in case.scenes:
            cells = [(thing.column, thing.row) for thing in scene.things]
            assert len(set(cells)) == len(cells)
            assert all(0 <= v <= 1 for thing in scene.things for v in scene.box_unit(thing))
            assert [row for _, row in cells] == sorted(row for _, row in cells)  # reading order


GROUNDING = [(b, t) for b, t in TASKS if b in ("mini_mig", "mini_reason", "mini_frames", "mini_relate")]


@pytest.mark.parametrize(("benchmark", "task"), GROUNDING)
def test_a_grounding_target_exists_once_and_the_facts_conclude_with_it(benchmark, task):
    for case in draw_cases(benchmark, task):
        assert case.letter is None and case.image is not None and case.look is not None
        assert case.scenes[case.image - 1].looks.count(case.look) == 1
        assert case.thing.look == case.look
        assert case.facts.endswith(f" is the {case.look.name} in image {case.image}.")
        # Each image that the facts list is listed as it is.
        for number, listed in re.findall(r"Image (\d): ([^.]*)\.", case.facts):
            assert listed.split("; ") == [look.name for look in case.scenes[int(number) - 1].looks]


@pytest.mark.parametrize(("benchmark", "task"), GROUNDING)
def test_no_other_object_answers_a_grounding_question(benchmark, task):
    """Each task's own reason why the target is the only answer."""
    for case in draw_cases(benchmark, task):
        first, *others = (set(scene.looks) for scene in case.scenes)
        looks = set(case.scenes[case.image - 1].looks)
        match task:
            case "static_difference" | "robust_difference" | "missing_before":
                assert looks - first == {case.look}
            case "common_object" | "in_every_frame":
                assert first.intersection(*others) == {case.look}
            case "referring" | "lookalike":
                assert first & looks == {case.look}
            case "reasoning" | "same_colour":
                assert {look for look in looks if look.colour == next(iter(first)).colour} == {case.look}
            case "correspondence" | "same_shape":
                assert {look for look in looks if look.shape == next(iter(first)).shape} == {case.look}
            case "group_grounding":
                assert sum(case.look in scene.looks for scene in case.scenes) == 1
            case "region":
                number = int(case.question[len("Image ")])
                assert case.scenes[number - 1].looks == (case.look,) and case.image == 1
            case "object_tracking" | "multi_view" | "follow" | "from_behind":
                box = tuple(int(v) / 1000 for v in re.findall(r"\d+", case.question.split("<|box_start|>")[1])[:4])
                quoted = case.scenes[0].box_unit(case.scenes[0].find(case.look))
                assert box == pytest.approx(quoted, abs=0.0006)
            case _:
                raise AssertionError(f"task {task} has no reason here; add one")


@pytest.mark.parametrize("task", list(SETS["mini_any"][0]))
def test_the_set_of_any_number_asks_for_none_one_and_two_and_names_all_that_is_there(task):
    cases = draw_cases("mini_any", task)
    assert {len(case.every) for case in cases} == {0, 1, 2}
    for case in cases:
        asked = re.fullmatch(r"Locate every (.*?)(?: object)? in these images\. There may be none\.", case.question)[1]
        shown = [(number, look) for number, scene in enumerate(case.scenes, 1) for look in scene.looks]
        assert set(case.every) == {(number, look) for number, look in shown if asked in (look.name, look.colour)}


def test_the_set_of_any_number_leaves_every_other_set_as_it_is(tmp_path):
    sizes = {"mini_mig": 1, "mini_blink": 1}
    for name, extra in (("without", {}), ("with", {"mini_any": 3})):
        source = WorldSource(kind="world", cot_per_task=2, rl_per_task=2, eval_per_task={**extra, **sizes})
        build_world(source, tmp_path / name)
    for path in (tmp_path / "without").rglob("*.*"):
        assert (tmp_path / "with" / path.relative_to(tmp_path / "without")).read_bytes() == path.read_bytes()
    assert len((tmp_path / "with" / "mini_any.jsonl").read_text().splitlines()) == 6


def test_things_that_move_step_by_one_cell_at_most_a_frame():
    for case in draw_cases("mini_mig", "object_tracking"):
        for before, after in zip(case.scenes, case.scenes[1:], strict=False):
            for thing in before.things:
                moved = after.find(thing.look)
                assert abs(moved.column - thing.column) + abs(moved.row - thing.row) <= 1


@pytest.mark.parametrize(("benchmark", "task"), [(b, t) for b, t in TASKS if b in ("mini_blink", "mini_mmiu")])
def test_the_letter_of_a_choice_is_the_only_right_one(benchmark, task):
    for case in draw_cases(benchmark, task):
        assert case.look is None and case.image is None and case.letter is not None
        assert len(set(case.options)) == len(case.options)
        assert case.question.endswith(
            " ".join(f"({letter}) {option}" for letter, option in zip("ABCD", case.options, strict=False))
        )
        assert [chr(ord("A") + i) for i, option in enumerate(case.options) if _is_true(task, case, option)] == [
            case.letter
        ]


def _is_true(task: str, case: Case, option: str) -> bool:
    names = [[look.name for look in scene.looks] for scene in case.scenes]
    match task:
        case "which_image":
            asked = case.question.removeprefix("Which image has the ").split("?")[0]
            return asked in names[int(option[-1]) - 1]
        case "similarity":
            return names[0][0] in names[int(option[-1]) - 1]
        case "counting":
            number = int(case.question.split("image ")[1][0])
            return int(option) == len(names[number - 1])
        case "common_name":
            return all(option in listed for listed in names)
        case "new_name":
            return option in names[1] and option not in names[0]
    raise AssertionError(f"task {task} has no truth here; add one")
