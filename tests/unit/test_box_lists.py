"""Answers with any number of boxes: what is read from any text, how a list is scored, and what it earns."""

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrl.errors import UserError
from migrl.grounding.answers import (
    READABLE,
    STATUSES,
    format_boxes_answer,
    has_exact_form,
    parse_box_answer,
    parse_boxes_answer,
)
from migrl.grounding.boxes import Box, compute_iou
from migrl.grounding.samples import BoxesTarget, BoxTarget, Sample, parse_sample
from migrl.models.inputs import ModelInput
from migrl.scoring.completions import Score, score_completion
from migrl.scoring.matching import match_boxes, measure_match
from migrl.scoring.rows import EvaluationRow, parse_row, rescore_row
from migrl.training.rewards import REWARDS, Rollout

LIMITS = [(100, 80), (60, 60)]
THOUGHT = "<think>Two of them.</think>"
A, B, C = (1, (10, 20, 40, 50)), (2, (5, 5, 30, 30)), (1, (50, 20, 90, 50))
ONE = '{"image": 1, "bbox_2d": [10, 20, 40, 50]}'
OTHER = '{"image": 2, "bbox_2d": [5, 5, 30, 30]}'
UNIT = (0.25, 0.25, 0.5, 0.5)
FAR = (0.6, 0.6, 0.9, 0.9)

coordinates = st.integers(0, 59)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates).filter(lambda b: b[0] < b[2] and b[1] < b[3])
lists = st.lists(st.tuples(st.integers(1, 2), boxes), max_size=6, unique=True)
fragments = st.sampled_from(
    ["[", "]", "{", "}", ",", " ", "<answer>", "</answer>", "<think>", "</think>", ONE, OTHER, "[1, 2, 3, 4]", "none"]
    + ["```json", "```", '"image": 1', '"bbox_2d": ', "null", "image 1 or image 2", "there is no", "(1,2),(3,4)", "\n"]
)
noise = st.lists(fragments | st.text(max_size=5), max_size=30).map("".join)


def read(block: str) -> tuple[str, tuple[tuple[int, Box], ...] | None]:
    answer = parse_boxes_answer(f"<answer>{block}</answer>", frame_limits=LIMITS)
    return answer.status, answer.located


@given(lists)
def test_every_list_that_is_written_is_read_back_exactly(located: list[tuple[int, Box]]) -> None:
    completion = THOUGHT + format_boxes_answer(located)
    answer = parse_boxes_answer(completion, frame_limits=LIMITS)
    assert (answer.status, answer.located, answer.readable) == ("ok", tuple(located), True)
    assert has_exact_form(completion, "boxes") and not has_exact_form(completion, "box")


@given(lists)
def test_what_has_the_exact_form_is_read_as_ok_and_the_order_of_a_list_does_not_matter(located: list) -> None:
    target = BoxesTarget((BoxTarget(1, UNIT), BoxTarget(2, FAR)))
    scores = {score_list(order, target).iou for order in list(permutations(located))[:6]}
    assert len(scores) == 1


@given(noise, st.booleans(), st.booleans())
def test_no_text_raises_and_only_readable_answers_hold_a_list(text: str, truncated: bool, tagged: bool) -> None:
    answer = parse_boxes_answer(text, frame_limits=LIMITS, truncated=truncated, tagged=tagged)
    assert answer.status in STATUSES and (answer.located is None or answer.status in READABLE)
    for image, (x1, y1, x2, y2) in answer.located or ():
        width, height = LIMITS[image - 1]
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    assert len(set(answer.located or ())) == len(answer.located or ())
    if has_exact_form(text, "boxes") and not truncated:
        assert answer.status in ("ok", "out_of_range", "several")


@given(st.tuples(st.integers(1, 2), boxes))
def test_a_list_of_one_box_is_read_and_scored_as_the_box_is(one: tuple[int, Box]) -> None:
    text = THOUGHT + format_boxes_answer([one])
    single = parse_box_answer(text, frame_limits=LIMITS)
    assert parse_boxes_answer(text, frame_limits=LIMITS).located == ((single.image, single.box),)
    listed, alone = (score(text, target) for target in (BoxesTarget((BoxTarget(1, UNIT),)), BoxTarget(1, UNIT)))
    assert (listed.iou, listed.hit) == (alone.iou, alone.hit)


@pytest.mark.parametrize(
    ("block", "status", "located"),
    [
        (f"[{ONE}, {OTHER}]", "ok", (A, B)),
        ("[]", "ok", ()),
        (" [ ] ", "ok", ()),
        (ONE, "repaired", (A,)),  # a bare object
        (f"[[{ONE}], [{OTHER}]]", "repaired", (A, B)),  # lists within lists
        (f"```json\n[{ONE},\n {OTHER},]\n```", "repaired", (A, B)),  # a fence, a trailing comma
        (f"[{ONE}, {ONE}]", "repaired", (A,)),  # said twice
        ('[{"image": 1, "bbox_2d": [[10, 20, 40, 50], [50, 20, 90, 50]]}]', "repaired", (A, C)),
        ('{"image 1": [[10, 20, 40, 50]], "image 2": []}', "repaired", (A,)),
        ("In image 1 at [10, 20, 40, 50] and in image 2 at [5, 5, 30, 30].", "repaired", (A, B)),
        ("[10, 20, 40, 50] in image 1, [5, 5, 30, 30] in image 2", "repaired", (A, B)),
        ("[10, 20, 40, 50], [50, 20, 90, 50] in image 1; [5, 5, 30, 30] in image 2", "repaired", (A, C, B)),
        ('[{"image": 1, "bbox_2d": [50, 20, 90, 80.6]}]', "repaired", ((1, (50, 20, 90, 80)),)),  # rounding
        ("[[]]", "repaired", ()),
        ("```json\n[]\n```", "repaired", ()),
        ('{"boxes": []}', "repaired", ()),
        ('{"image 1": [], "image 2": []}', "repaired", ()),
        ('{"image": 1, "bbox_2d": []}', "repaired", ()),
        ("None.", "repaired", ()),
        ("There is no such object in either image.", "repaired", ()),
        ("", "malformed", None),
        (".", "malformed", None),
        ("[1, 2]", "malformed", None),
        ('{"image": 1}', "malformed", None),
        ("[10, 20, 40, 50]", "malformed", None),  # of two images, in which?
        (f'[{ONE}, {{"image": 2, "bbox_2d": [5, 5, 30]}}]', "malformed", None),
        (f'[{ONE}, {{"image": 2, "bbox_2d": [30, 5, 5, 30]}}]', "malformed", None),
        (f'[{ONE}, {{"image": 3, "bbox_2d": [5, 5, 30, 30]}}]', "out_of_range", None),
        (f'[{ONE}, {{"image": 2, "bbox_2d": [5, 5, 30, 90]}}]', "out_of_range", None),
        ("[10, 20, 40, 50] in image 1 or image 2", "several", None),
    ],
)
def test_a_list_is_read_as_a_careful_person_reads_it(block: str, status: str, located: object) -> None:
    assert read(block) == (status, located)
    if status in READABLE:
        assert has_exact_form(f"{THOUGHT}<answer>{block}</answer>", "boxes") == (status == "ok")


def test_the_last_of_several_answer_blocks_counts_and_a_cut_one_is_not_read() -> None:
    blocks = f"<answer>[{ONE}]</answer> No: <answer>[]</answer>"
    assert parse_boxes_answer(blocks, frame_limits=LIMITS).located == ()
    assert parse_boxes_answer(blocks, frame_limits=LIMITS).status == "several"
    cut = f"<answer>[{ONE}, "
    assert parse_boxes_answer(cut, frame_limits=LIMITS, truncated=True).status == "truncated"
    assert parse_boxes_answer(cut, frame_limits=LIMITS).located == (A,)
    assert parse_boxes_answer("It is nowhere", frame_limits=LIMITS).status == "none"
    assert parse_boxes_answer(f"So: [{ONE}, {OTHER}]", frame_limits=LIMITS, tagged=False).located == (A, B)


@pytest.mark.parametrize(
    "block",
    [
        "[" * 1_000_000,
        f"[{ONE}" + " " * 1_000_000,
        '[{"bbox_2d": [' * 80_000,
        f"{ONE}, " * 50_000,
        '"image": 1, ' * 90_000,
    ],
)
def test_a_million_characters_are_read_in_time_that_grows_with_them(block: str) -> None:
    for text in (block, f"<answer>{block}</answer>", f"<answer>{block[:1900]}</answer>"):
        assert parse_boxes_answer(text, frame_limits=LIMITS, tagged=False).status in STATUSES
        assert not has_exact_form(f"{THOUGHT}{text[:99_000]}", "boxes")


# ---------------------------------------------------------------- score and reward


def score(text: str, target: BoxesTarget | BoxTarget) -> Score:
    sizes = [(100, 100), (100, 100)]
    return score_completion(text, target, frame="original_px", sizes=sizes, resized_sizes=sizes, truncated=False)


def score_list(located: Sequence[tuple[int, Box]], target: BoxesTarget) -> Score:
    return score(THOUGHT + format_boxes_answer(located), target)


HIT, HALF, MISS = (25, 25, 50, 50), (25, 25, 50, 35), (0, 0, 10, 10)  # IoU 1, 0.4 and 0 with UNIT
TWO = BoxesTarget((BoxTarget(1, UNIT), BoxTarget(2, UNIT)))


@pytest.mark.parametrize(
    ("located", "target", "iou", "hit"),
    [
        ([], BoxesTarget(()), 1.0, True),
        ([(1, HIT)], BoxesTarget(()), 0.0, False),
        ([], TWO, 0.0, False),
        ([(1, HIT), (2, HIT)], TWO, 1.0, True),
        ([(2, HIT), (1, HIT)], TWO, 1.0, True),
        ([(1, HIT)], TWO, 0.5, False),  # one is missing, though the mean reaches 0.5
        ([(1, HIT), (2, HALF)], TWO, 0.7, False),
        ([(1, HIT), (2, HIT), (2, MISS)], TWO, 2 / 3, False),  # one is surplus
        ([(1, HIT), (1, HALF)], TWO, 0.5, False),  # the right box in the wrong image is none
        ([(1, HALF), (1, HIT)], BoxesTarget((BoxTarget(1, UNIT), BoxTarget(1, FAR))), 0.5, False),
    ],
)
def test_surplus_and_missing_boxes_cost_and_images_never_mix(located, target, iou, hit) -> None:
    found = score_list(located, target)
    assert (found.iou, found.hit, found.readable) == (pytest.approx(iou, abs=1e-8), hit, True)
    assert found.reaches(0.5) == hit


@given(lists, st.lists(st.tuples(st.integers(1, 2), boxes), max_size=4))
def test_the_match_is_the_best_of_all_one_to_one_ones_and_its_iou_lies_between_0_and_1(found: list, true: list) -> None:
    def unit(box: Box) -> Box:
        x1, y1, x2, y2 = (v / 60 for v in box)
        return (x1, y1, x2, y2)

    located = [(image, unit(box)) for image, box in found[:4]]
    truths = [BoxTarget(image, unit(box)) for image, box in true]
    ious = match_boxes(located, truths)
    short, long, swap = (located, truths, False) if len(located) <= len(truths) else (truths, located, True)

    def total(order: Sequence[int]) -> float:
        pairs = [(long[j], short[i]) if swap else (short[i], long[j]) for i, j in enumerate(order)]
        return sum(compute_iou(box, one.box_unit) for (image, box), one in pairs if image == one.image)

    best = max(total(order) for order in permutations(range(len(long)), len(short)))
    assert sum(ious) == pytest.approx(best) and len(ious) == len(short)
    iou, weakest = measure_match(ious, len(located), len(truths))
    assert 0 <= iou <= 1 and 0 <= weakest <= iou + 1e-12


def test_rewards_take_the_list_s_iou_its_hit_and_the_exact_form_of_a_list() -> None:
    sample = Sample("u", "b", "t", ("1.png", "2.png"), "Where?", TWO, "c")
    item = ModelInput(sample, (), ((100, 100),) * 2, ((100, 100),) * 2, [], "original_px")

    def earn(text: str) -> tuple[float, ...]:
        rollout = Rollout(item, text, 9, False, score(text, TWO))
        return tuple(REWARDS[name].compute(rollout) for name in ("accuracy", "gated_accuracy", "hit", "format"))

    assert earn(THOUGHT + format_boxes_answer([(1, HIT), (2, HIT)])) == (1, 1, 1, 1)
    assert earn(THOUGHT + format_boxes_answer([(1, HIT)])) == (0.5, 0, 0, 1)
    assert earn(THOUGHT + '<answer>{"image": 1, "bbox_2d": [25, 25, 50, 50]}</answer>') == (0.5, 0, 0, 0)
    assert earn("<answer>no idea</answer>") == (0, 0, 0, 0)
    assert item.true_boxes == [(1, HIT), (2, HIT)]


# ---------------------------------------------------------------- records


def make_record(target: object) -> dict:
    return {
        "uid": "u",
        "benchmark": "b",
        "task": "t",
        "images": ["1.png", "2.png"],
        "question": "Q",
        "cluster": "c",
    } | {"target": target}


@pytest.mark.parametrize("target", [BoxesTarget(()), TWO, BoxesTarget(TWO.boxes, (1, 2))])
def test_a_target_of_boxes_and_the_row_of_a_list_come_back_from_json(target: BoxesTarget) -> None:
    sample = parse_sample(make_record(target.to_json()) | {"sizes": [[100, 100]] * 2}, "x")
    assert (sample.target, sample.kind) == (target, "boxes")
    text = THOUGHT + format_boxes_answer([(1, HIT), (2, MISS)])
    row = EvaluationRow(
        sample, score(text, target), False, 9, "base", None, text, "original_px", ((100, 100), (100, 100)), "0"
    )
    assert parse_row(row.to_json(), "x") == row == rescore_row(row)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"boxes": [{"image": 3, "box_unit": list(UNIT)}]}, "image 3 of 2"),
        ({"boxes": [{"letter": "A", "options": 2}]}, "list of {image, box_unit}"),
        ({"boxes": [{"image": 1, "box_unit": list(UNIT), "image_trusted": False}]}, "list of {image, box_unit}"),
        ({"boxes": [], "groups": [1]}, "1 groups for 0 boxes"),
        ({"boxes": [], "groups": [-1]}, "whole numbers"),
        ({"boxes": [], "count": 0}, "'count' is not a key"),
        ({"boxes": None}, "must be {image, box_unit}, {boxes} or"),
    ],
)
def test_a_broken_list_of_true_boxes_is_refused(target: object, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_sample(make_record(target), "x")


def test_a_row_holds_a_list_only_where_one_was_asked_for(tmp_path: Path) -> None:
    sample = Sample("u", "b", "t", ("1.png", "2.png"), "Q", TWO, "c", sizes=((100, 100), (100, 100)))
    text = format_boxes_answer([(1, HIT)])
    row = EvaluationRow(
        sample, score(text, TWO), False, 9, "base", None, text, "original_px", ((100, 100), (100, 100)), "0"
    ).to_json()
    with pytest.raises(UserError, match="key 'found': one answer was asked for"):
        parse_row(row | {"target": {"image": 1, "box_unit": list(UNIT)}}, "x")
    with pytest.raises(UserError, match="key 'weakest'"):
        parse_row({key: value for key, value in row.items() if key != "weakest"}, "x")
