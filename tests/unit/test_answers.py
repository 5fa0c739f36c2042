"""Answers: model output is untrusted, so nothing raises, nothing hangs, and each reading has its status."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from migrl.grounding.answers import (
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
        + [
            "third image",
            "images 1 and 2",
            "image_id: ",
            "x1=1 ",
            "[[1, 2], [9, 9]]",
            "1, 2, 9, 9",
            "<answer> </answer>",
        ]
        + ["（A）", "c)", "I ", "A ", "not ", "or ", "The answer is ", "option ", "\\boxed{", "ﷺ"]
    ),
    max_size=40,
).map("".join)
FRAMED = st.one_of(FRAGMENTS, st.text()).map(lambda text: f"<answer>{text}</answer>")
JSON_LIKE = st.builds(
    '<answer>{{"image": {}, "bbox_2d": {}}}</answer>'.format,
    st.one_of(st.integers(), st.floats(), st.text(max_size=5)),
    st.lists(st.one_of(st.integers(), st.floats(), st.none()), max_size=6),
)


@given(st.one_of(st.text(), FRAGMENTS, FRAMED, JSON_LIKE), st.booleans(), st.booleans())
@example('<answer>{"image": 1, "bbox_2d": [0, 0, 1, 1' + "0" * 1500 + "]}</answer>", False, True)
@example("<answer>" + "[" * 1990 + "</answer>", True, False)
def test_no_text_makes_a_parser_raise(completion, truncated, tagged):
    answer = parse_box_answer(completion, frame_limits=LIMITS, truncated=truncated, tagged=tagged)
    assert answer.status in STATUSES
    if answer.readable:
        assert answer.box is not None and answer.image in (1, 2)
        x1, y1, x2, y2 = answer.box
        width, height = LIMITS[answer.image - 1]
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    choice = parse_choice_answer(completion, options=3, truncated=truncated, tagged=tagged)
    assert choice.status in STATUSES
    if "</answer>" not in completion:
        assert "ok" not in (answer.status, choice.status)
    assert not choice.readable or choice.letter in ("A", "B", "C")
    has_exact_form(completion, "box"), has_exact_form(completion, "choice")


@pytest.mark.parametrize(
    "completion",
    [
        "<think>" + "<" * 1_000_000,
        "<think>" + "a<" * 500_000 + "</think><answer>",
        "<think></think>" + " " * 1_000_000 + "<answer>",
        "<answer>" * 125_000,
        "</answer>" * 110_000,
        "<answer>" + "[1," * 330_000 + "</answer>",
        "<answer>" + "[ " * 900 + " " * 150 + "</answer>" + "x" * 980_000,
        "<answer>" + "image " * 330 + "</answer>" + "(A" * 490_000,
        PERFECT * 8_000,
        "<answer>" + "A or " * 399 + "</answer>" + "<answer> </answer>" * 50_000,
        "<answer>" + "{[1, 2],[9, 9] to " * 110 + "</answer>" + "not image 1 or " * 65_000,
        "<answer>" + "the answer is the " * 110 + "</answer>" + "first, second and " * 55_000,
        "<answer>" + "ﷺ" * 1_990 + "</answer>" + "images 1, 2 and " * 60_000,
    ],
    ids=lambda text: text[:24],
)
@pytest.mark.timeout(300)  # the squared work of a megabyte takes longer; what is linear takes a second
def test_the_work_of_reading_an_adversarial_completion_grows_no_faster_than_its_length(completion):
    for tagged in (True, False):
        parse_box_answer(completion, frame_limits=LIMITS, tagged=tagged)
        parse_choice_answer(completion, options=4, tagged=tagged)
    for _ in range(100):  # longer ones it does not read
        has_exact_form(completion[:100_000], "box"), has_exact_form(completion[:100_000], "choice")


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
        PERFECT.replace("[10", "[40"),  # no width
        PERFECT.replace("20, 40, 50", "50, 40, 20"),  # corners swapped
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
    assert parse_box_answer(PERFECT + " and <answer>", frame_limits=LIMITS, truncated=True).status == "ok"


def test_an_answer_block_that_was_never_closed_is_read_where_the_text_ended_by_itself():
    answer = parse_box_answer(PERFECT[: PERFECT.index("</answer>")], frame_limits=LIMITS)
    assert (answer.status, answer.image, answer.box) == ("repaired", 2, (10, 20, 40, 50))
    assert parse_choice_answer(THOUGHT + "<answer>(B)", options=3).letter == "B"
    assert parse_choice_answer("<think>I use <answer> tags, says A.</think>", options=3).status == "none"


def test_an_empty_block_does_not_hide_the_answer_before_it():
    answer = parse_box_answer(PERFECT + "<answer> </answer>", frame_limits=LIMITS)
    assert (answer.status, answer.image) == ("several", 2)
    assert parse_choice_answer("<answer>(B)</answer><answer></answer><answer>", options=3).letter == "B"


THREE = ((644.0, 476.0),) * 3
BOX = (2, 20, 300, 400)
BOX_TEXT = "[2, 20, 300, 400]"


@pytest.mark.parametrize(
    ("block", "image"),
    [
        (f"the third image: {BOX_TEXT}", 3),
        (f"3rd picture {BOX_TEXT}", 3),
        (f"the last image: {BOX_TEXT}", 3),
        (f"image two: {BOX_TEXT}", 2),
        (f"Picture 2: {BOX_TEXT}", 2),
        ("photo 3 (2, 20), (300, 400)", 3),
        (f"Image #2, {BOX_TEXT}, which matches image 1", 2),
        (f"Image 2: {BOX_TEXT}, the same as [1, 2, 3, 4] in image 1", 2),
        (f"{BOX_TEXT} in image 2, not in image 1", 2),
        (f"not image 1, but image 2: {BOX_TEXT}", 2),
        (f"The object of image 1 is at {BOX_TEXT} in image 2", 2),
        (f"Image 1: [1, 2, 3, 4]. No, image 2: {BOX_TEXT}", 2),
        (f"Image 2: {BOX_TEXT}. Yes, {BOX_TEXT}", 2),
        ("Image 2: 2, 20, 300, 400", 2),
        ("Image 2: (2, 20) to (300, 400)", 2),
        ("Image 2 <box>2 20 300 400</box>", 2),
        ("Image 2 ［2，20，300，400］", 2),
        (f'{{"image": "2", "bbox_2d": {BOX_TEXT}}}', 2),
        (f'{{"image": 2.0, "bbox_2d": {BOX_TEXT}}}', 2),
        (f'{{"image": "Image 2", "bbox_2d": {BOX_TEXT}}}', 2),
        (f'{{"image": "second", "bbox_2d": {BOX_TEXT}}}', 2),
        (f'{{"image": 2, "bbox_2d": [{BOX_TEXT}]}}', 2),
        ('{"image": 2, "bbox_2d": [[2, 20], [300, 400]]}', 2),
        (f'{{"image": 2, "bbox_2d": "{BOX_TEXT}"}}', 2),
        ('{"image": 2, "bbox_2d": {"x1": 2, "y1": 20, "x2": 300, "y2": 400}}', 2),
        (f'[{{"image_id": 2, "bbox": {BOX_TEXT}}}]', 2),
        (f'{{"answer": {{"Image": 2, "box": {BOX_TEXT}}}}}', 2),
        (f'{{"box": {BOX_TEXT}, "img": 2, "label": "as in image 1"}}', 2),
        (f'{{"image_index": 2, "label": "the dog of image 1", "bbox": {BOX_TEXT}}}', 2),
    ],
)
def test_an_answer_that_names_one_image_and_one_box_is_read_whatever_its_form(block, image):
    answer = parse_box_answer(f"<answer>{block}</answer>", frame_limits=THREE)
    assert (answer.status, answer.image, answer.box) == ("repaired", image, BOX)


@pytest.mark.parametrize(
    "block",
    [
        f"image 2: {BOX_TEXT} or [5, 6, 7, 8]",
        f"Image 1: [5, 6, 7, 8]; image 2: {BOX_TEXT}",
        f"image 1 or image 2: {BOX_TEXT}",
        f"Images 1 and 2: {BOX_TEXT}",
        f'[{{"bbox": {BOX_TEXT}, "image": 1}}, {{"bbox": {BOX_TEXT}, "image": 2}}]',
        f'{{"image": 1, "bbox_2d": {BOX_TEXT}, "image": 2}}',
        f"The answer is {BOX_TEXT} or [5, 6, 7, 8] in image 2",
    ],
)
def test_two_boxes_or_images_of_which_none_is_singled_out_are_no_answer(block):
    answer = parse_box_answer(f"<answer>{block}</answer>", frame_limits=THREE)
    assert (answer.status, answer.box, answer.readable) == ("several", None, False)


@pytest.mark.parametrize(
    ("block", "status"),
    [
        (f"image 105: {BOX_TEXT}", "out_of_range"),
        (f'{{"image": 1.5, "bbox_2d": {BOX_TEXT}}}', "out_of_range"),
        ('{"image": "2", "bbox_2d": [300, 20, 2, 400]}', "malformed"),
        ('{"image": "2", "bbox_2d": [2, 20, 2, 400]}', "malformed"),
        ("image 2: [2, 20, 300, 400, 500]", "malformed"),
        ("image 2: [2, 20, 300, 40", "malformed"),
        ("2, 2, 20, 300, 400", "malformed"),
    ],
)
def test_what_is_no_box_or_no_image_of_the_sample_stays_a_miss(block, status):
    assert parse_box_answer(f"<answer>{block}</answer>", frame_limits=THREE).status == status


@pytest.mark.parametrize(
    ("block", "status", "letter"),
    [("(B)", "ok", "B"), ("B", "repaired", "B"), ("(D)", "out_of_range", "D")]
    + [("The", "malformed", None), ("", "malformed", None)],  # T of "The" is no letter (a known trap)
)
def test_a_letter_is_read_only_where_one_stands_alone(block, status, letter):
    answer = parse_choice_answer(f"<answer>{block}</answer>", options=3)
    assert (answer.status, answer.letter) == (status, letter)


@pytest.mark.parametrize(
    ("block", "letter"),
    [
        ("B. A dog", "B"),
        ("C: Image A is closer", "C"),
        ("The answer is B. Note that A is a distractor.", "B"),
        ("(B), since (A) is farther", "B"),
        ("The correct option is B because A is farther", "B"),
        ("C, I think", "C"),
        ("I would say A", "A"),
        ("not A but B", "B"),
        ("B, not A", "B"),
        ("B rather than A", "B"),
        ("A is closer than B", "A"),
        ("A is wrong, B is right", "B"),
        ("(A) is near, so the answer is (B)", "B"),
        ("The answer is A. No, wait: the answer is B", "B"),
        ("Both look alike, but B fits better than A or C", "B"),
        ("Point B", "B"),
        ("B) A dog", "B"),
        ("(B) No", "B"),
        ("A. Yes", "A"),
        ("b", "B"),
        ("(b)", "B"),
        ("b. a dog", "B"),
        ("the answer is a", "A"),
        ("**B**", "B"),
        ("$\\boxed{\\text{B}}$", "B"),
        ("Option B", "B"),
        ("（B）", "B"),
        ("Ｂ", "B"),
        ("答案是B", "B"),
        ('{"answer": "B"}', "B"),
        ('{"choice": "C", "reason": "Image A is far"}', "C"),
    ],
)
def test_a_block_that_answers_with_one_letter_is_that_letter_whatever_stands_beside_it(block, letter):
    answer = parse_choice_answer(f"<answer>{block}</answer>", options=3)
    assert (answer.status, answer.letter) == ("repaired", letter)


@pytest.mark.parametrize(
    "block",
    ["A or B", "(A) or (B)", "A and B", "A, B", "A/B", "(A) (B)", "a) or b)", "Both A and B", "The answer is A or B"]
    + ["(A) a dog (B) a cat", "A. B. C.", "Images A and B", "The answer is A. The answer is B."],
)
def test_two_letters_of_which_none_is_singled_out_are_no_answer(block):
    answer = parse_choice_answer(f"<answer>{block}</answer>", options=3)
    assert (answer.status, answer.letter, answer.readable) == ("several", None, False)


@pytest.mark.parametrize("block", ["A dog", "a dog", "I do not know", "T-shirt", "Neither A nor B", "The object(s)"])
def test_a_word_is_no_letter(block):
    assert parse_choice_answer(f"<answer>{block}</answer>", options=3).status == "malformed"


def test_the_last_of_several_blocks_is_read_and_one_that_answers_twice_is_a_miss():
    assert parse_choice_answer("<answer>(A)</answer> no <answer>(B)</answer>", options=3).letter == "B"
    last = parse_choice_answer("<answer>(A)</answer> no <answer>A or B</answer>", options=3)
    assert (last.status, last.readable) == ("several", False)


def test_without_tags_the_whole_reply_is_read_by_the_same_rule_and_never_ok():
    def read(completion, **options):
        answer = parse_choice_answer(completion, options=3, tagged=False, **options)
        return answer.status, answer.letter

    assert read("<answer>(B)</answer>") == ("ok", "B")
    assert read("The correct answer is (B).") == ("repaired", "B")
    assert read("(B)") == ("repaired", "B")
    assert read("<think>(A) or (C)?</think> (B)") == ("repaired", "B")
    assert read("<answer></answer> It is B.") == ("repaired", "B")
    assert read("It is A or B.") == ("several", None)
    assert read("I do not know.") == ("none", None)
    assert read("<think>It may be (A) and", truncated=True) == ("truncated", None)
    assert parse_choice_answer("The correct answer is (B).", options=3).status == "none"
    answer = parse_box_answer(f"It is in the second image: {BOX_TEXT}.", frame_limits=THREE, tagged=False)
    assert (answer.status, answer.image, answer.box) == ("repaired", 2, BOX)
