"""Answers: model output is untrusted, so nothing raises, nothing hangs, and each reading has its status."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrl.answers import (
    READABLE,
    STATUSES,
    format_box_answer,
    format_choice_answer,
    has_exact_form,
    parse_box_answer,
    parse_choice_answer,
)

LIMITS = ((140.0, 112.0), (112.0, 112.0))
THOUGHT = "<think>Image 1: red circle. The target is the red circle in image 2.</think>"
PERFECT = THOUGHT + format_box_answer(2, (10, 20, 40, 50))

# Text near the answer's grammar: plain random text would never reach the parser's corners.
FRAGMENTS = st.lists(
    st.sampled_from(
        ["<think>", "</think>", "<answer>", "</answer>", "{", "}", "[", "]", ",", '"image":', '"bbox_2d":', "(A)", "B"]
        + [
            "1",
            "2",
            "-3",
            "99",
            "1e400",
            "NaN",
            "Infinity",
            "null",
            "true",
            "9" * 400,
            "٣",
            "image 2",
            " ",
            "\n",
            "\x00",
        ]
    ),
    max_size=40,
).map("".join)
FRAMED = st.one_of(FRAGMENTS, st.text()).map(lambda text: f"<answer>{text}</answer>")
JSON_LIKE = st.builds(
    '<answer>{{"image": {}, "bbox_2d": {}}}</answer>'.format,
    st.one_of(st.integers(), st.floats(), st.text(max_size=5)),
    st.lists(st.one_of(st.integers(), st.floats(), st.none()), max_size=6),
)


@given(st.one_of(st.text(), FRAGMENTS, FRAMED, JSON_LIKE), st.booleans())
@example('<answer>{"image": 1, "bbox_2d": [0, 0, 1, 1' + "0" * 1500 + "]}</answer>", False)
@example("<answer>" + "[" * 1990 + "</answer>", True)
def test_no_text_makes_a_parser_raise(completion, truncated):
    answer = parse_box_answer(completion, frame_limits=LIMITS, truncated=truncated)
    assert answer.status in STATUSES
    if answer.readable:
        assert answer.box is not None and answer.image in (1, 2)
        x1, y1, x2, y2 = answer.box
        width, height = LIMITS[answer.image - 1]
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    choice = parse_choice_answer(completion, options=3, truncated=truncated)
    assert choice.status in STATUSES
    assert not choice.readable or choice.letter in ("A", "B", "C")
    has_exact_form(completion, "box"), has_exact_form(completion, "choice")


@pytest.mark.parametrize(
    "completion",
    [
        "<think>" + "<" * 100_000,
        "<think>" + "a<" * 50_000 + "</think><answer>",
        "<think></think>" + " " * 100_000 + "<answer>",
        "<answer>" * 12_500,
        "</answer>" * 11_000,
        "<answer>" + "[1," * 33_000 + "</answer>",
        "<answer>" + "[ " * 900 + " " * 150 + "</answer>" + "x" * 98_000,
        "<answer>" + "image " * 330 + "</answer>" + "(A" * 49_000,
        PERFECT * 800,
    ],
    ids=lambda text: text[:24],
)
def test_an_adversarial_completion_of_100_kb_is_read_within_50_ms(completion):
    def read() -> float:
        start = time.perf_counter()
        parse_box_answer(completion, frame_limits=LIMITS)
        parse_choice_answer(completion, options=4)
        has_exact_form(completion, "box"), has_exact_form(completion, "choice")
        return time.perf_counter() - start

    # The best of five: the bound is on the algorithm, not on the machine's other work.
    assert min(read() for _ in range(5)) < 0.05


def test_a_perfect_box_completion_is_ok_and_has_the_exact_form():
    answer = parse_box_answer(PERFECT, frame_limits=LIMITS)
    assert (answer.status, answer.image, answer.box) == ("ok", 2, (10, 20, 40, 50))
    assert answer.thought is not None and answer.thought.startswith("Image 1: red circle.")
    assert has_exact_form(PERFECT, "box") and has_exact_form(PERFECT + "\n", "box")
    assert not has_exact_form(PERFECT, "choice")


def test_a_perfect_choice_completion_is_ok_and_has_the_exact_form():
    completion = THOUGHT + format_choice_answer("B")
    answer = parse_choice_answer(completion, options=3)
    assert (answer.status, answer.letter) == ("ok", "B")
    assert has_exact_form(completion, "choice") and not has_exact_form(completion, "box")


@given(st.integers(1, 2), st.integers(0, 100), st.integers(0, 100), st.integers(1, 12), st.integers(1, 12))
def test_what_is_formatted_is_parsed_back(image, x, y, width, height):
    box = (x, y, x + width, y + height)
    answer = parse_box_answer(format_box_answer(image, box), frame_limits=LIMITS)
    assert (answer.status, answer.image, answer.box) == ("ok", image, box)


@pytest.mark.parametrize(
    "completion",
    [
        format_box_answer(2, (10, 20, 40, 50)),  # no thought
        "<think> </think>" + format_box_answer(2, (10, 20, 40, 50)),  # an empty one
        "Sure! " + PERFECT,
        PERFECT + " Done.",
        PERFECT + PERFECT,
        "<think>" + PERFECT,
        PERFECT.replace("[10", "[10.5"),
    ],
)
def test_the_format_reward_is_for_the_whole_completion_only(completion):
    assert not has_exact_form(completion, "box")


def test_the_last_answer_block_counts_and_the_reading_says_several():
    completion = format_box_answer(1, (0, 0, 5, 5)) + " No: " + format_box_answer(2, (10, 20, 40, 50))
    answer = parse_box_answer(completion, frame_limits=LIMITS)
    assert (answer.status, answer.image, answer.box) == ("several", 2, (10, 20, 40, 50))


@pytest.mark.parametrize(
    ("completion", "status"),
    [
        ('<answer>{"image": 3, "bbox_2d": [1, 2, 3, 4]}</answer>', "out_of_range"),
        ('<answer>{"image": 0, "bbox_2d": [1, 2, 3, 4]}</answer>', "out_of_range"),
        ('<answer>{"image": 2, "bbox_2d": [1, 2, 130, 4]}</answer>', "out_of_range"),  # fits image 1, not image 2
        ('<answer>{"image": 1, "bbox_2d": [1, 2, 130, 4]}</answer>', "ok"),
        ('<answer>{"image": 1, "bbox_2d": [1, 2, 141, 4]}</answer>', "repaired"),  # rounding at the edge, clipped
        ('<answer>{"image": true, "bbox_2d": [1, 2, 3, 4]}</answer>', "malformed"),
        ('<answer>{"image": 1, "bbox_2d": [3, 2, 1, 4]}</answer>', "malformed"),
        ("<answer>[1, 2, 3, 4]</answer>", "malformed"),  # no image named, and there are two
        ("<answer>image 2: [1, 2, 3, 4]</answer>", "repaired"),
        ("<answer></answer>", "malformed"),
        ("The box is [1, 2, 3, 4].", "none"),
    ],
)
def test_each_reading_has_its_status(completion, status):
    answer = parse_box_answer(completion, frame_limits=LIMITS)
    assert answer.status == status
    assert answer.readable == (status in READABLE)


def test_a_cut_completion_is_truncated_but_a_finished_answer_in_it_still_counts():
    cut = PERFECT[: PERFECT.index("</answer>")]
    assert parse_box_answer(cut, frame_limits=LIMITS, truncated=True).status == "truncated"
    assert parse_box_answer(PERFECT + " and", frame_limits=LIMITS, truncated=True).status == "ok"


@pytest.mark.parametrize(
    ("block", "status", "letter"),
    [("(B)", "ok", "B"), ("B", "repaired", "B"), ("(D)", "out_of_range", "D")]
    + [("The", "malformed", None), ("", "malformed", None)],  # T of "The" is no letter (a known trap)
)
def test_a_letter_is_read_only_where_one_stands_alone(block, status, letter):
    answer = parse_choice_answer(f"<answer>{block}</answer>", options=3)
    assert (answer.status, answer.letter) == (status, letter)
