"""Every way a completion is read: the official rules on texts that tell them apart, and any text at all."""

import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrl.benchmarks.box_parsers import (
    MIG_BENCH_PARSERS,
    ZERO_SHOT_PARSERS,
    read_box_only,
    read_migician_script,
    read_migician_stretched,
    read_strict,
    read_univg_script,
    read_zero_shot,
)
from migrl.benchmarks.letter_parsers import (
    BLINK_PARSERS,
    MMIU_PARSERS,
    MUIRBENCH_PARSERS,
    read_blink,
    read_lmms_eval_blink,
    read_lmms_eval_blink_0_7_3,
    read_lmms_eval_muirbench,
    read_mmiu,
    read_muirbench,
    read_vlmevalkit,
)
from migrl.benchmarks.readings import BoxParser, BoxQuestion, ChoiceQuestion, LetterParser
from migrl.grounding.answers import STATUSES, has_exact_form
from migrl.grounding.boxes import Frame

BOX_PARSERS = {f"mig_bench/{k}": v for k, v in MIG_BENCH_PARSERS.items()} | {
    f"zero_shot/{k}": v for k, v in ZERO_SHOT_PARSERS.items()
}
LETTER_PARSERS = (
    {f"blink/{k}": v for k, v in BLINK_PARSERS.items()}
    | {f"mmiu/{k}": v for k, v in MMIU_PARSERS.items()}
    | {f"muirbench/{k}": v for k, v in MUIRBENCH_PARSERS.items()}
)
PIXELS = BoxQuestion("resized_px", 2, [(812, 476), (112, 56)])
CHOICE = ChoiceQuestion(4, ("a cat", "a dog", "two cats", "none of them"))


def asked(frame: Frame = "permille") -> BoxQuestion:
    side = 1 if frame == "unit" else 1000
    return BoxQuestion(frame, 2, [(side, side)] * 3)


def read_permille(parser: BoxParser, text: str, frame: Frame = "permille") -> list[float] | None:
    reading = parser(text, asked(frame))
    if reading.box is None:
        return None
    scale = 1000 if reading.frame == "unit" else 1
    return [float(v * scale) for v in reading.box]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat(12,34),(560,780)", [12, 34, 560, 780]),
        ("( 12,34),(560,780)", None),
        ("(12, 34),  (560, 780)", [12, 34, 560, 780]),
        ("[0.1, 0.2, 0.3, 0.45]", [100, 200, 300, 450]),
        ("(0.1,0.2),(0.3,0.4)", [100, 200, 300, 400]),
        ("(0.1, 0.2),(0.3, 0.4)", None),
        ("(0.1, 0.2, 0.3, 0.4)", [100, 200, 300, 400]),
        ("[12, 34,560,780]", [12, 34, 560, 780]),
        ("(12,34,560,780)", None),
        ("<box>12 34 560 780</box>", [12, 34, 560, 780]),
        ("[-1,2,3,4]", None),
        ("no box", None),
        # The first pattern with a hit decides, wherever it stands.
        ("[1,2,3,4] <box>5 6 7 8</box> [0.5,0.6,0.7,0.8] (10,20),(30,40)", [10, 20, 30, 40]),
        # A one is permille if it comes in a single box, and the whole side if there are several.
        ("(1,1),(500,500)", [1, 1, 500, 500]),
        ("(1,1),(500,500) (2,2),(600,600)", [1000, 1000, 500, 500]),
    ],
)
def test_migicians_script_is_read_in_the_order_of_its_patterns(text: str, expected: list[float] | None) -> None:
    assert read_permille(read_migician_script, text) == expected


def test_univgs_script_differs_in_decimals_and_in_the_one() -> None:
    assert read_permille(read_univg_script, "[0.1, 0.2, 0.3, 0.45]") is None
    assert read_univg_script("[0.1, 0.2, 0.3, 0.45]", asked()).status == "malformed"
    assert read_permille(read_univg_script, "(1,1),(500,500) (2,2),(600,600)") == [1, 1, 500, 500]
    assert read_univg_script("(1,1),(5,5) (2,2),(6,6)", asked()).status == "several"


def test_the_stretched_reading_moves_the_lower_and_upper_edge_only() -> None:
    assert read_permille(read_migician_stretched, "(100,200),(300,400)") == [100, 210, 300, 440]
    assert read_permille(read_migician_stretched, "(100,200),(300,990)") == [100, 210, 300, 999]


def test_a_frame_that_is_told_is_not_guessed_from_the_numbers() -> None:
    for parser in (read_migician_script, read_univg_script, read_zero_shot):
        reading = parser("(1,2),(300,400)", PIXELS)
        assert (reading.box, reading.frame) == ((1, 2, 300, 400), "resized_px")
        reading = parser("(0.0,0.25),(1.0,0.5)", asked("unit"))
        assert (reading.box, reading.frame) == ((0, Fraction(1, 4), 1, Fraction(1, 2)), "unit")


def test_the_zero_shot_rule_takes_the_first_pair_anywhere() -> None:
    text = "<think>maybe ( 1 , 2 ) , ( 30 , 40 )</think><answer>(5,6),(70,80)</answer>"
    assert read_permille(read_zero_shot, text) == [1, 2, 30, 40]
    assert read_zero_shot("[1,2,3,4]", asked()).status == "none"


def test_strict_reads_the_last_block_and_demands_the_image() -> None:
    text = (
        '<answer>{"image": 1, "bbox_2d": [1, 2, 3, 4]}</answer><answer>{"image": 3, "bbox_2d": [5, 6, 70, 80]}</answer>'
    )
    reading = read_strict(text, asked())
    assert (reading.status, reading.image, reading.box) == ("several", 3, (5, 6, 70, 80))
    assert read_strict("<answer>(5,6),(70,80)</answer>", asked()).status == "malformed"
    assert read_strict("(5,6),(70,80)", asked()).status == "none"


def test_box_only_means_the_true_image_where_none_is_named() -> None:
    reading = read_box_only("<think>x</think><answer>(5,6),(70,80)</answer>", asked())
    assert (reading.image, reading.box) == (2, (5, 6, 70, 80))
    assert read_box_only("the cat(5,6),(70,80)", asked()).box == (5, 6, 70, 80)
    assert read_box_only("<answer>image 3: (5,6),(70,80)</answer>", asked()).image == 3
    assert read_box_only("<think>at (5,6),(70,80) there", asked()).status == "none"


def test_a_number_no_image_can_have_is_a_failed_parse() -> None:
    for parser in MIG_BENCH_PARSERS.values():
        assert parser(f"(1,2),({'9' * 5000},4)", asked()).box is None


def test_numbers_as_python_prints_them_are_read() -> None:
    text = "[0.1000000000000001, 0.2, 0.30000000000000004, 0.4]"
    assert read_migician_script(text, asked("unit")).box == tuple(map(Fraction, text.strip("[]").split(", ")))
    assert read_box_only(text, asked("unit")).status == "repaired"


@pytest.mark.parametrize(
    ("parser", "text", "letter"),
    [
        (read_blink, "B", "B"),
        (read_blink, "E", "E"),
        (read_blink, "(B) because", "B"),
        (read_blink, "The answer is (B).", None),
        (read_blink, "(A) is red.\n\nSo it is (B) here", "B"),
        (read_blink, "(A) or (B)\n\nSo it is neither.", None),
        (read_blink, "(A) alone\n\n(A) or (B)", None),
        (read_mmiu, "(b).", "B"),
        (read_mmiu, "B: a dog", None),
        (read_mmiu, "n", "N"),
        (read_mmiu, "o", None),
        (read_mmiu, "image error", None),
        (read_muirbench, "(A) no, (B)", "B"),
        (read_muirbench, "I choose C here", "C"),
        (read_muirbench, "It shows two cats and nothing else there", "C"),
        (read_muirbench, "two cats", None),
        (read_lmms_eval_blink, "The answer is (B)", "T"),
        (read_lmms_eval_blink, " ( b) it is", "B"),
        (read_lmms_eval_blink, "<think>x</think>(B)", None),
        (read_lmms_eval_blink_0_7_3, "b)", "B"),
        (read_lmms_eval_blink_0_7_3, "The correct answer is (B).", "B"),
        (read_lmms_eval_blink_0_7_3, "So I pick (C)", "C"),
        (read_lmms_eval_blink_0_7_3, "Although it is late", "A"),
        (read_lmms_eval_muirbench, " B. a dog", "B"),
        (read_lmms_eval_muirbench, "b", "B"),
        (read_lmms_eval_muirbench, "(B)", None),
        (read_vlmevalkit, "The option is B.", "B"),
        (read_vlmevalkit, "B is what I would choose here", None),
        (read_vlmevalkit, "A or B", None),
        (read_vlmevalkit, "the correct answer is **C** as A and D show", "C"),
        (read_vlmevalkit, "it is a Dog", "B"),
        (read_vlmevalkit, "Cannot determine the answer B", None),
    ],
)
def test_a_letter_rule_reads_what_its_script_reads(parser: LetterParser, text: str, letter: str | None) -> None:
    assert parser(text, CHOICE).letter == letter


def test_a_letter_beyond_the_options_is_never_readable() -> None:
    for name, parser in LETTER_PARSERS.items():
        if name in ("blink/compat", "mmiu/compat"):  # these scripts know no number of options
            continue
        assert not parser("(D)", ChoiceQuestion(2, ("a", "b"))).readable, name


FRAGMENTS = (
    *"()[]{}<>,.:;*#!?'\"-+/\\ \n\t",
    *("A", "B", "(C)", "d", "Z", "(E)", "0", "1", "999", "1000", "0.5", ".5", "1e9", "٣", "9" * 40, "NaN"),
    *("(1,2),(3,4)", "[1, 2, 3, 4]", "[0.1,0.2,0.3,0.4]", "<box>1 2 3 4</box>", "\u00a0", "\u202e", "日本", "🐈"),
    *("<think>", "</think>", "<answer>", "</answer>", '{"image": 2, "bbox_2d": [1,2,3,4]}', '{"image": ', "image 2"),
    *("answer is ", "correct answer is", "The answer", "a cat", "\n\n", "null", "true", "{" * 30, "[" * 30),
)


def test_ten_thousand_random_texts_pass_through_every_parser() -> None:
    generator = random.Random(0)
    for _ in range(10_000):
        text = "".join(generator.choices(FRAGMENTS, k=generator.randint(0, 25)))
        run_all(text)


@given(text=st.text(max_size=200))
def test_any_text_passes_through_every_parser(text: str) -> None:
    run_all(text)


def run_all(text: str) -> None:
    for frame in ("permille", "unit"):
        for name, parser in BOX_PARSERS.items():
            reading = parser(text, asked(frame))  # type: ignore[arg-type]
            assert reading.status in STATUSES, name
            assert reading.box is None or all(isinstance(v, Fraction) for v in reading.box), name
    for name, letter_parser in LETTER_PARSERS.items():
        answer = letter_parser(text, CHOICE)
        assert answer.status in STATUSES, name
        assert answer.letter is None or "A" <= answer.letter <= "Z", name
    has_exact_form(text, "box")


SIZE = 1_000_000
ADVERSARIAL = {
    "digits": "1" * SIZE,
    "open brackets": "(" * SIZE,
    "square brackets": "[" * SIZE,
    "broken pairs": "(1,2),(3," * (SIZE // 9),
    "spaces in a pair": "(1," + " " * SIZE,
    "spaces between pairs": "(1,2)," + " " * SIZE + "(3",
    "decimals": "[0." + "1" * SIZE,
    "broken lists": "[1.5, 2.5, 3.5, " * (SIZE // 16),
    "boxes": "<box>1 2 3 " * (SIZE // 11),
    "spaces in a box": "<box>1" + " " * SIZE,
    "answer and spaces": "answer" + " " * SIZE + "!",
    "many answers": "answer is " * (SIZE // 10),
    "correct and spaces": "correct" + " " * SIZE + "!",
    "open tags": "<answer>" * (SIZE // 8),
    "closed tags": "<answer></answer>" * (SIZE // 17),
    "thoughts": "<think>" * (SIZE // 7),
    "one long block": "<answer>" + "[1, 2, 3," * (SIZE // 9) + "</answer>",
    "thought of brackets": "<think>" + "<" * SIZE + "</think>",
    "nested JSON": "<answer>" + "[" * 1900 + "</answer>" + " " * SIZE,
    "paragraphs": "\n\n" * (SIZE // 2),
    "letters": "A B C D " * (SIZE // 8),
    "marks": "." * SIZE + "A" + ")" * SIZE,
    "marks between letters": "x" + "." * SIZE + "x",
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.timeout(300)  # the squared work of a megabyte takes longer; what is linear takes a second
def test_the_work_of_reading_a_hostile_completion_grows_no_faster_than_its_length(name: str) -> None:
    text = ADVERSARIAL[name]
    for box_parser in BOX_PARSERS.values():
        box_parser(text, asked())
    for letter_parser in LETTER_PARSERS.values():
        letter_parser(text, CHOICE)
    for _ in range(100):  # longer ones it does not read
        has_exact_form(text[:100_000], "box")
