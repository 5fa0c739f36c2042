"""MGrounding-630k: only what names its image is kept, the rest is counted, and a huge file needs little memory."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migrl.data import json_stream, mgrounding
from migrl.data.json_stream import stream_records
from migrl.data.mgrounding import TASKS, choose_samples, convert_record
from migrl.data.pool import PoolSizes, identify_picture
from migrl.errors import UserError
from migrl.mentions import find_images
from migrl.records import BoxTarget, read_samples, write_jsonl

BOX = "<|box_start|>(100,200),(300,400)<|box_end|>"


def make_record(task: str, *turns: tuple[str, str], images: int = 4, folder: str = "s") -> dict[str, Any]:
    names = [f"./MGrounding-630k/{task}/{folder}/{number}.jpg" for number in range(images)]
    values = [text for turn in turns for text in turn]
    values[0] = "<image>\n" * images + values[0]
    speakers = ("human", "gpt") * len(turns)
    said = [{"from": speaker, "value": value} for speaker, value in zip(speakers, values, strict=True)]
    return {"id": "1", "type": "x", "images": names, "conversations": said}


def make_sizes(cot: int | dict[str, int], rl: int, seed: int, tasks: tuple[str, ...] = TASKS) -> PoolSizes:
    return PoolSizes(cot, rl, seed, tasks)


def convert(record: Any, index: int = 7) -> mgrounding.Conversion:
    return convert_record(Path("m.json"), index, record)


@pytest.mark.parametrize(
    ("task", "question", "answer", "image"),
    [
        ("Group_Grounding", "Find the dog.", f"It's in the third image. {BOX}", 3),
        ("Common_Object", "Locate it in the 2nd image.", BOX, 2),
        ("Difference", "What differs?", f"In Image-2: {BOX}", 2),
        ("Free-Form", "Compare the first image and the second image.", f"The fourth picture has it: {BOX}", 4),
        ("Region_Locating", "Locate the second image in the source picture.", BOX, 1),
        ("Referring_Grounding", "Find the thing of image 1.", BOX, 2),
    ],
)
def test_each_task_names_its_image_in_its_own_way(task: str, question: str, answer: str, image: int) -> None:
    conversion = convert(make_record(task, (question, answer)))
    (sample,) = conversion.samples
    assert sample.target == BoxTarget(image, (0.1, 0.2, 0.3, 0.4))
    assert (sample.uid, sample.task, sample.question) == ("mgrounding:7:0", task, question)
    assert sample.images[0] == f"{task}/s/0.jpg"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("It is a dog.", "no box"),
        (f"{BOX} and {BOX} in the first image", "several boxes"),
        ("In the first image <|box_start|>(300,200),(100,400)<|box_end|>", "broken box"),
        ("In the first image <|box_start|>(100,200),(300,1001)<|box_end|>", "broken box"),
        ("In the first image <|box_start|>(1.2.3,200),(300,400)<|box_end|>", "broken box"),
        (BOX, "no image named"),
        (f"In the first image or the second image: {BOX}", "several images named"),
        (f"In the fifth image: {BOX}", "image out of range"),
    ],
)
def test_a_turn_without_one_sound_box_in_one_named_image_is_dropped_and_counted(answer: str, reason: str) -> None:
    record = make_record("Group_Grounding", ("Find the dog.", answer), ("Find the cat.", f"The second image: {BOX}"))
    conversion = convert(record)
    assert conversion.dropped == {reason: 1}
    assert [sample.uid for sample in conversion.samples] == ["mgrounding:7:1"]


def test_ordinals_are_read_as_words_digits_and_numbers() -> None:
    assert find_images("the Third image, the 2nd picture, image-4 and Image 5; a 10th frame") == {3, 2, 4, 5, 10}
    assert find_images("the first dog, 3rd from left, images 1") == set()
    assert find_images("the first, second and 4th images") == {1, 2, 4}
    assert find_images("the first or the third image, image 5 and 6") == {1, 3, 5, 6}


@pytest.mark.parametrize(
    ("task", "question", "reason"),
    [
        ("Free-Form", "One <image> shows a dog. Find it.", "image inside the question"),
        ("Free-Form", "Find it.<|im_end|>", "template token in the question"),
        ("Free-Form", f"Find what is at {BOX}.", "box of another image in the question"),
        ("Free-Form", f"Find what is at {BOX} in the second image.", "box of another image in the question"),
        ("Object_Tracking", f"From {BOX} to {BOX}, where is it?", "box of another image in the question"),
        ("Object_Tracking", f"Find {BOX.replace(',', ', ')} again.", "unreadable box in the question"),
        ("Object_Tracking", f"Find {BOX} again.", ""),
        ("Free-Form", f"In the first image there is {BOX}; find it again.", ""),
        ("Free-Form", "Image-1: <image>\nimage 2: <image>\nFind it.", ""),
    ],
)
def test_a_question_that_would_be_asked_wrongly_is_dropped(task: str, question: str, reason: str) -> None:
    record = make_record(task, (question, f"In the third image: {BOX}"))
    record["images"] += record["images"][: question.count("<image>")]
    conversion = convert(record)
    assert conversion.dropped == ({reason: 1} if reason else {})
    assert [sample.question for sample in conversion.samples] == ([] if reason else [question.split(">\n")[-1]])


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"images": []}, "images"),
        ({"images": ["../x.jpg"]}, "images"),
        ({"conversations": None}, "conversations"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "conversations"),
        ({"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]}, "conversations"),
        ({"conversations": [{"from": "human", "value": "no mark"}, {"from": "gpt", "value": BOX}]}, "conversations"),
        ({"conversations": [{"from": "human", "value": "\ud800"}, {"from": "gpt", "value": BOX}]}, "conversations"),
    ],
)
def test_a_broken_record_is_refused_by_file_index_and_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=rf"m\.json, record 7: key '{key}': "):
        convert({**make_record("Free-Form", ("q", BOX)), **changes})


@settings(max_examples=50)
@given(
    records=st.lists(
        st.dictionaries(st.text(max_size=5), st.text(max_size=40) | st.integers(), max_size=4), max_size=20
    ),
    indent=st.none() | st.integers(0, 2),
    chunk=st.integers(1, 50),
)
def test_a_list_is_read_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("stream") / "m.json"
    path.write_text(json.dumps(records, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK_CHARS", chunk)
        assert list(stream_records(path)) == list(enumerate(records))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[", '[{"a": 1}', '[{"a": 1}, ', '[{"a": 1}, {"b"', "[nonsense]", "[1]", "[{}{}]", "[{},]", "[{}][{}]"],
)
def test_a_torn_file_names_the_record_where_it_ends(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match=r"m\.json"):
        list(stream_records(tmp_path / "m.json"))


def write_many(path: Path, order: list[int]) -> Path:
    tasks = ("Group_Grounding", "Free-Form")
    turns = (("Find it.", f"In the first image: {BOX}"), ("Find that.", f"The second image: {BOX}"))
    records = [make_record(tasks[number % 2], *turns, folder=str(number)) for number in order]
    path.write_text(json.dumps(records))
    return path


def test_splits_share_no_images_and_have_their_sizes_and_the_seed_decides(tmp_path: Path) -> None:
    path = write_many(tmp_path / "m.json", list(range(200)))
    chosen, facts = choose_samples(path, make_sizes(20, 10, 1))
    assert facts["chosen"] == {
        "cot": {"Free-Form": 20, "Group_Grounding": 20},
        "rl": {"Free-Form": 10, "Group_Grounding": 10},
    }
    assert facts["usable"] == {"Free-Form": 200, "Group_Grounding": 200}
    clusters = {split: {sample.cluster for sample in samples} for split, samples in chosen.items()}
    assert not clusters["cot"] & clusters["rl"]
    assert choose_samples(path, make_sizes(20, 10, 1)) == (chosen, facts)
    assert choose_samples(path, make_sizes(20, 10, 2))[0] != chosen
    by_task, facts = choose_samples(path, make_sizes({"Free-Form": 5, "Group_Grounding": 40}, 10, 1, TASKS[2:4]))
    assert facts["chosen"]["cot"] == {"Free-Form": 5, "Group_Grounding": 40}
    only, _ = choose_samples(path, make_sizes(20, 10, 1, tasks=("Free-Form",)))
    assert {sample.task for samples in only.values() for sample in samples} == {"Free-Form"}


def test_dropped_turns_are_counted_by_task_and_reason(tmp_path: Path) -> None:
    records = [make_record("Difference", ("What?", "nothing")), make_record("Nonsense", ("What?", BOX))]
    (tmp_path / "m.json").write_text(json.dumps(records))
    _, facts = choose_samples(tmp_path / "m.json", make_sizes(1, 1, 0))
    assert facts["dropped"] == {"Difference": {"no box": 1}, "unknown": {"unknown task Nonsense": 1}}


def test_a_file_of_endless_reasons_does_not_fill_the_counts(tmp_path: Path) -> None:
    records = [make_record(f"Task_{number}", ("What?", BOX)) for number in range(100)]
    records[0]["images"][1] = "./MGrounding-630k/Difference/s/1.jpg"
    records.append(make_record("Difference", ("What?", BOX)))
    records[-1]["images"][1] = "./MGrounding-630k/Free-Form/s/1.jpg"
    (tmp_path / "m.json").write_text(json.dumps(records))
    _, facts = choose_samples(tmp_path / "m.json", make_sizes(1, 1, 0))
    assert len(facts["dropped"]["unknown"]) == 41 and facts["dropped"]["unknown"]["other reasons"] == 60
    assert facts["dropped"]["Difference"] == {"pictures of several tasks": 1}


def test_nothing_is_trained_on_a_picture_that_a_benchmark_shows(tmp_path: Path) -> None:
    names = ("objects365_v2_00900003", "00000001", "case001_r", "sa_6136360")
    assert [identify_picture(f"a/{name}.jpg") for name in names] == [names[0], None, None, names[3]]
    turn = ("Find it.", f"In the first image: {BOX}")
    records = [make_record("Free-Form", turn, folder=str(number)) for number in range(3)]
    records[1]["images"][2] = "./MGrounding-630k/Free-Form/Object365/sa_6136360.jpg"
    (tmp_path / "m.json").write_text(json.dumps(records))
    chosen, facts = choose_samples(tmp_path / "m.json", make_sizes(5, 5, 0), {"sa_6136360"})
    assert sum(map(len, chosen.values())) == 2
    assert facts["dropped"] == {"Free-Form": {"picture of a benchmark": 1}}


TEXT = st.text(st.characters(exclude_categories=()), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["<image>", BOX, "a/b.jpg"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(place=st.sampled_from([("images",), ("images", 1), ("conversations",), ("conversations", 1)]), value=JSON)
def test_any_value_in_a_record_is_refused_or_counted_and_what_is_kept_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str | int, ...], value: Any
) -> None:
    record = make_record("Free-Form", ("Find it.", f"In the third image: {BOX}"), ("And?", BOX))
    replace_at(record, place, value)
    check_all_counted(tmp_path_factory.mktemp("any"), record)


@settings(max_examples=100, deadline=None)
@given(
    turn=st.integers(0, 3),
    key=st.sampled_from(["from", "value"]),
    value=JSON | st.tuples(TEXT, TEXT).map(lambda ends: BOX.join(ends)),
)
def test_any_value_in_a_turn_is_refused_or_counted_and_what_is_kept_can_be_read(
    tmp_path_factory: pytest.TempPathFactory, turn: int, key: str, value: Any
) -> None:
    record = make_record("Free-Form", ("Find it.", f"In the third image: {BOX}"), ("And?", BOX))
    replace_at(record, ("conversations", turn, key), value)
    check_all_counted(tmp_path_factory.mktemp("any"), record)


def replace_at(data: Any, place: tuple[str | int, ...], value: Any) -> None:
    *path, last = place
    for key in path:
        data = data[key]
    data[last] = value


def check_all_counted(folder: Path, record: Any) -> None:
    (folder / "m.json").write_text(json.dumps([record]))
    try:
        chosen, facts = choose_samples(folder / "m.json", make_sizes(5, 5, 0))
    except UserError as error:
        assert "m.json, record 0: key '" in str(error)
        return
    counted = sum(facts["usable"].values()) + sum(sum(reasons.values()) for reasons in facts["dropped"].values())
    assert counted == len(record["conversations"]) // 2
    for split, samples in chosen.items():
        write_jsonl(folder / f"{split}.jsonl", [sample.to_json() for sample in samples])
        assert read_samples(folder / f"{split}.jsonl") == samples
