"""Hostile files and prose: an error that names the file, or counts that add up and no image but the true one."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mgrounding_records import make_record
from PIL import Image

from migrl.data.json_stream import Tally
from migrl.data.mgrounding import TASKS, choose_samples, convert_record
from migrl.data.picture_check import PictureCheck
from migrl.data.pool import PoolSizes
from migrl.data.training_pool import drop_unusable
from migrl.data.univg import Item, read_stage
from migrl.data.univg_samples import PoolIndex, find_target
from migrl.errors import UserError
from migrl.grounding.samples import BoxTarget, Sample

WORDS = ("first", "second", "third", "fourth", "fifth")
SIZES = PoolSizes(50, 50, 0, TASKS)

# Each speaks of an image "<n>": the first ones say where the box is, the others speak of an image for another reason.
PLACES = (
    "It's in the <nth> image.",
    "In Image-<n>:",
    "Locate it in IMAGE <n>.",
    "Look at the <n>th\n picture:",
    "<nth> photo:",
)
ASIDES = (
    "It is not in the <nth> image.",
    "Unlike the <nth> image, this one is bright.",
    "It looks like the one in image <n>.",
    "The <nth> image doesn't show it.",
    "Frame <n> is dark.",
    "Compared with image <n> it is small.",
    "It is the same as in the <nth> picture.",
    "Images <n> and <n> are alike.",
    "<|object_ref_start|>the <nth> picture on the wall<|object_ref_end|>",
    "A twenty-<nth> image is not there.",
    "Image number <n> is blurred.",
    "It is missing in the <nth> image.",
)
HARMLESS = (
    "",
    "Here:",
    "A dog (brown), 3 years old.",
    "Of 12 dogs, the 2nd from the left.",
    "\u0663 dogs",
    "imagine 4",
)


def say(text: str, image: int) -> str:
    return text.replace("<nth>", WORDS[image - 1]).replace("<n>", str(image))


@st.composite
def write_answers(draw: st.DrawFn) -> tuple[str, int, bool]:
    """(prose, the image it places its box in, whether nothing in it is meant to mislead)."""
    truth = draw(st.integers(1, 5))
    asides = draw(st.lists(st.tuples(st.sampled_from(ASIDES), st.integers(1, 5)), max_size=2))
    placed = draw(st.booleans())
    parts = [say(draw(st.sampled_from(PLACES)), truth)] if placed else []
    parts += [say(text, image) for text, image in asides] + [draw(st.sampled_from(HARMLESS))]
    return " ".join(draw(st.permutations(parts))), truth if placed else 0, placed and not asides


@settings(max_examples=150, deadline=None)
@given(task=st.sampled_from(TASKS), answer=write_answers(), question=write_answers(), box=st.integers(0, 900))
def test_what_is_kept_has_the_image_that_the_prose_places_its_box_in(
    task: str, answer: tuple[str, int, bool], question: tuple[str, int, bool], box: int
) -> None:
    prose = f"{answer[0]} <|box_start|>({box},5),({box + 100},1000)<|box_end|>"
    conversion = convert_record(Path("m.json"), 0, make_record(task, (question[0] or "Find it.", prose), images=5))
    assert len(conversion.samples) + conversion.dropped.total() == 1
    fixed = {"Region_Locating": 1, "Referring_Grounding": 2}.get(task)
    for sample in conversion.samples:
        asked = question[1] if task in ("Common_Object", "Difference", "Object_Tracking") else 0
        true_box = (box / 1000, 0.005, (box + 100) / 1000, 1.0)
        assert sample.target == BoxTarget(fixed or answer[1] or asked, true_box)
    if answer[2] or fixed:
        assert conversion.samples  # plain answers are kept


BOX_TEXT = "<|box_start|>(1,2),(300,400)<|box_end|>"
PLAIN_QUESTIONS = [
    ("Common_Object", "Which object appears in each image? Locate it in the second image.", 2),
    ("Common_Object", "One object is in more than one image. Provide its location as a box in the second image.", 2),
    ("Common_Object", "Mark it using a bounding box in the second image.", 2),
    ("Common_Object", "The images share an object with each other. Locate it in the third image.", 3),
    ("Object_Tracking", "Where can it be seen in the fourth image?", 4),
]
MISLEADING = [
    ("Object_Tracking", "The target is in a red box in the first image. Where does it move to at the end?", ""),
    ("Common_Object", "Find the object of the first image in the second one.", ""),
    ("Common_Object", "Find the dog of the first image among these pictures.", ""),
    ("Difference", "Relative to the first image, where is the difference?", ""),
    ("Difference", "What was added to the first image?", ""),
    ("Difference", "What changed?", "The hat in the first image was replaced by a cap: "),
    ("Free-Form", "Where is it?", "The cat from the first image is lying here: "),
    ("Free-Form", "Where is it?", "It isn't in the first image, but here: "),
]


@pytest.mark.parametrize(("task", "question", "image"), PLAIN_QUESTIONS)
def test_a_question_that_says_where_to_look_is_kept(task: str, question: str, image: int) -> None:
    (sample,) = convert_record(Path("m.json"), 0, make_record(task, (question, BOX_TEXT), images=5)).samples
    assert isinstance(sample.target, BoxTarget) and sample.target.image == image


@pytest.mark.parametrize(("task", "question", "answer"), MISLEADING)
def test_an_image_that_is_named_for_another_reason_is_no_target(task: str, question: str, answer: str) -> None:
    conversion = convert_record(Path("m.json"), 0, make_record(task, (question, answer + BOX_TEXT), images=5))
    assert not conversion.samples and conversion.dropped.total() == 1


@settings(max_examples=100, deadline=None)
@given(question=write_answers(), thought=write_answers())
def test_a_target_of_univg_is_the_image_that_question_or_thought_places_it_in(
    question: tuple[str, int, bool], thought: tuple[str, int, bool]
) -> None:
    images = tuple(f"mgrounding/Free-Form/s/{number}.jpg" for number in range(5))
    item = Item("univg:cot:0:0", "Free-Form", images, question[0], (0.1, 0.2, 0.3, 0.4), thought[0])
    image, how = find_target(item, PoolIndex([]))
    assert image is None or image == {"question": question, "thought": thought}[how][1]
    if question[2]:
        assert image == question[1]


GOOD = json.dumps(
    [
        make_record(TASKS[number % 7], ("Find it.", f"It's in the {WORDS[number % 5]} image."), images=5)
        for number in range(6)
    ]
).encode()
INSERTED = st.sampled_from(
    [
        b"",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x00",
        b"}",
        b"]",
        b"[" * 100_000,
        b'"',
        b"9" * 5000,
        b"NaN",
        b"\\ud800",
        b",,",
    ]
)


@settings(max_examples=100, deadline=None)
@given(start=st.integers(0, len(GOOD)), length=st.integers(0, 400), piece=INSERTED)
def test_whatever_happens_to_the_bytes_the_error_names_the_file_or_the_counts_add_up(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, piece: bytes
) -> None:
    path = tmp_path_factory.mktemp("bytes") / "m.json"
    path.write_bytes(GOOD[:start] + piece + GOOD[start + length :])
    for read in (lambda: choose_samples(path, SIZES)[1], lambda: list(read_stage(path, "cot", Tally()))):
        try:
            facts = read()
        except UserError as error:
            assert str(path) in str(error)
            continue
        if isinstance(facts, dict):
            dropped = sum(sum(reasons.values()) for reasons in facts["dropped"].values())
            assert facts["turns"] == sum(facts["usable"].values()) + dropped


@pytest.mark.parametrize("text", [b'{"a": 1}\n{"a": 2}\n', "[]".encode("utf-16"), b"", b"null", b"{}"])
def test_another_form_of_file_is_refused_and_so_is_a_folder(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "m.json").write_bytes(text)
    for path in (tmp_path / "m.json", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            choose_samples(path, SIZES)


def write_pictures(folder: Path, count: int) -> dict[Any, list[Sample]]:
    samples = []
    for number in range(count):
        name = f"{number}.png"
        Image.new("RGB", (8, 8)).save(folder / name)
        target = BoxTarget(1, (0.1, 0.2, 0.3, 0.4))
        samples.append(Sample(f"mgrounding:{number}:0", "mgrounding", "Free-Form", (name,), "Find it.", target, name))
    return {"cot": samples[: count // 2], "rl": samples[count // 2 :]}


def look(folder: Path, names: Iterable[str]) -> dict[str, str]:
    pictures = PictureCheck(folder)
    pictures.decode(names, "a test")
    return pictures.faults


def test_pictures_that_cannot_be_used_cost_their_samples_or_the_run_as_the_recipe_says(tmp_path: Path) -> None:
    chosen = write_pictures(tmp_path, 300)
    names = [image for samples in chosen.values() for sample in samples for image in sample.images]
    (tmp_path / "7.png").unlink()
    (tmp_path / "200.png").write_bytes(b"no picture")
    Image.new("RGB", (601, 2)).save(tmp_path / "201.png")
    Image.effect_noise((64, 64), 80).save(tmp_path / "9.jpg")
    (tmp_path / "9.png").write_bytes((tmp_path / "9.jpg").read_bytes()[:-400])  # its header is whole
    unusable = look(tmp_path, names)
    assert sorted(unusable) == ["200.png", "201.png", "7.png", "9.png"]
    kept, dropped = drop_unusable(chosen, unusable, len(names), 0.02, tmp_path)
    assert {split: len(samples) for split, samples in kept.items()} == {"cot": 148, "rl": 148}
    assert dropped == {"Free-Form": {"unusable picture in cot": 2, "unusable picture in rl": 2}}
    (tmp_path / "8.png").unlink()
    with pytest.raises(UserError, match=r"5 of 300 training pictures cannot be used.*200\.png: corrupt image"):
        drop_unusable(chosen, look(tmp_path, names), len(names), 0.01, tmp_path)
    with pytest.raises(UserError, match="source.training.broken_share"):
        drop_unusable(chosen, unusable, len(names), 0.0, tmp_path)


def test_a_picture_that_is_enormous_is_one_that_cannot_be_used(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    assert "larger than the limit of 180 megapixels" in look(tmp_path, ["huge.png"])["huge.png"]
