"""Records: files may be torn by a kill or written by strangers; both are met by name."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrl.errors import UserError
from migrl.files import read_jsonl, write_jsonl
from migrl.grounding.samples import BoxTarget, ChoiceTarget, Sample, parse_sample, read_samples
from migrl.running.progress_log import ProgressLog

SAMPLE = Sample(
    uid="mini_mig:referring:0",
    benchmark="mini_mig",
    task="referring",
    images=("eval/0_1.png", "eval/0_2.png"),
    question="Locate the object of image 1 in image 2.",
    target=BoxTarget(2, (0.1, 0.2, 0.3, 0.4)),
    cluster="c0",
)
TEXT = st.text(min_size=1)
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,12}(/[A-Za-z0-9_.-]{1,12}\.png)?", fullmatch=True)


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    images = tuple(draw(st.lists(NAMES, min_size=1, max_size=6)))
    if draw(st.booleans()):
        x1, y1 = draw(st.floats(0, 0.9)), draw(st.floats(0, 0.9))
        box = (x1, y1, draw(st.floats(x1, 1, exclude_min=True)), draw(st.floats(y1, 1, exclude_min=True)))
        target: BoxTarget | ChoiceTarget = BoxTarget(draw(st.integers(1, len(images))), box)
    else:
        options = draw(st.integers(2, 26))
        target = ChoiceTarget(chr(ord("A") + draw(st.integers(0, options - 1))), options)
    sides = st.integers(1, 2**31 - 1)
    sizes = tuple(draw(st.tuples(sides, sides)) for _ in images) if draw(st.booleans()) else ()
    facts = draw(st.text(max_size=30))
    return Sample(draw(TEXT), draw(TEXT), draw(TEXT), images, draw(TEXT), target, draw(TEXT), facts, sizes)


@given(samples())
def test_a_sample_survives_the_journey_through_json(sample):
    assert parse_sample(json.loads(json.dumps(sample.to_json())), "here") == sample


@given(st.lists(samples(), max_size=4, unique_by=lambda sample: sample.uid))
def test_samples_survive_the_journey_through_a_file(tmp_path_factory, listed):
    path = tmp_path_factory.mktemp("records") / "samples.jsonl"
    assert write_jsonl(path, [sample.to_json() for sample in listed]) == len(listed)
    assert read_samples(path) == listed


def test_a_torn_last_line_is_dropped_and_the_log_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    whole = b'{"uid": "a", "text": "\xc3\xa4"}\n{"uid": "b"}\n'
    path.write_bytes(whole + b'{"uid": "c", "text": "\xc3')  # killed within a two-byte letter
    log = ProgressLog(path)
    assert "a" in log and "b" in log and "c" not in log
    log.append([{"uid": "c"}])
    log.close()
    assert path.read_bytes() == whole + b'{"uid": "c"}\n'


def test_a_log_of_which_only_a_torn_line_was_written_starts_again(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"uid": "a"')
    log = ProgressLog(path)
    log.close()
    assert log.rows == {} and path.read_bytes() == b""


def test_a_torn_line_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"uid": "a"}\n{"uid": "b", \n{"uid": "c"}\n')
    with pytest.raises(UserError, match=r"log\.jsonl, line 2: .*run its stage again"):
        ProgressLog(path)


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "eval/../../secret.png"])
def test_an_image_path_that_leaves_the_data_folder_is_refused(image):
    data = SAMPLE.to_json() | {"images": ["eval/0_1.png", image]}
    with pytest.raises(UserError, match="leaves the data folder"):
        parse_sample(data, "samples.jsonl, record 1")


def test_a_uid_that_comes_twice_is_refused_at_its_second_record(tmp_path):
    path = tmp_path / "samples.jsonl"
    write_jsonl(path, [SAMPLE.to_json()] * 2)
    with pytest.raises(UserError, match="record 2: uid 'mini_mig:referring:0' comes twice"):
        read_samples(path)


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"extra": 1}, "extra"),
        ({"uid": ""}, "uid"),
        ({"uid": 7}, "uid"),
        ({"images": []}, "images"),
        ({"images": "eval/0_1.png"}, "images"),  # a bare path would be read letter by letter
        ({"target": {"image": 3, "box_unit": [0, 0, 1, 1]}}, "target"),
        ({"target": {"image": 1, "box_unit": [1, 0, 0, 1]}}, "target"),
        ({"target": {"image": True, "box_unit": [0, 0, 1, 1]}}, "target"),
        ({"target": {"letter": "D", "options": 3}}, "target"),
        ({"target": {"letter": "D", "options": 10**400}}, "target"),
        ({"target": {"image": 1, "box_unit": [0, 0, 1, 10**400]}}, "target"),
        ({"target": {"image": 1, "box_unit": [0, 0, 1, float("nan")]}}, "target"),
        *(
            ({key: "half \ud83d of a pair"}, key)
            for key in ("uid", "benchmark", "task", "question", "cluster", "facts")
        ),
        ({"images": ["eval/0_1.png", "\udc80.png"]}, "images"),
        ({"images": ["eval/0_1.png", "a\0.png"]}, "images"),
        ({"facts": ["a", "b"]}, "facts"),
        ({"target": None}, "target"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [[4, 5]]}, "sizes"),  # of two images
        ({"sizes": [[4, 5], [4, 5, 3]]}, "sizes"),
        ({"sizes": [[4, 5], [4, 0]]}, "sizes"),
        ({"sizes": [[4, 5], [4, True]]}, "sizes"),
        ({"sizes": [[4, 5], [4, 5.0]]}, "sizes"),
        ({"sizes": [[4, 5], "45"]}, "sizes"),
        ({"sizes": None}, "sizes"),
    ],
)
def test_a_record_that_is_not_exactly_a_sample_is_refused_by_file_and_key(change, key):
    with pytest.raises(UserError, match=rf"samples\.jsonl, record 9: key '{key}'"):
        parse_sample(SAMPLE.to_json() | change, "samples.jsonl, record 9")


def test_a_missing_key_and_a_missing_file_are_named(tmp_path):
    data = SAMPLE.to_json()
    del data["cluster"]
    with pytest.raises(UserError, match="key 'cluster': missing"):
        parse_sample(data, "here")
    with pytest.raises(UserError, match="run the stage that writes it"):
        read_jsonl(tmp_path / "nowhere.jsonl")
