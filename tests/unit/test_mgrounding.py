"""MGrounding-630k: only what names its image is kept, the rest is counted, and a huge file needs little memory."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mgrounding_records import make_record

from migrl.data import mgrounding
from migrl.data.json_stream import stream_records
from migrl.data.mgrounding import TASKS, choose_samples, convert_record
from migrl.data.pool import PoolSizes, identify_picture
from migrl.errors import UserError
from migrl.files import write_jsonl
from migrl.grounding.mentions import find_images
from migrl.grounding.samples import BoxTarget, read_samples

BOX = "<|box_start|>(100,200),(300,400)<|box_end|>"
CAT = "Find <|object_ref_start|>the cat<|object_ref_end|>."


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
        ("Object_Tracking", f"It is at {BOX} in the first frame. Find it in the 3rd image.", BOX, 3),
        (
            "Group_Grounding",
            "Find it.",
            f"Third image: <|object_ref_start|>the first picture<|object_ref_end|>{BOX}",
            3,
        ),
        ("Free-Form", "Find it.", "The 2nd image: <|box_start|>( 100, 200 ) , ( 300.0, 400 )<|box_end|>", 2),
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
        (f"In the third image: {BOX}<|box_start|>(-1,2),(3,4)<|box_end|>", "several boxes"),
        (f"In the third image: {BOX} and (5,6),(7,8)", "several boxes"),
        ("In the third image: <|box_start|>(1,2),(3,4),(5,6),(7,8)<|box_end|>", "several boxes"),
        ("In the first image <|box_start|>(0.1,0.2),(0.3,0.4)<|box_end|>", "box of 0 to 1"),
        (f"It is not in the first image: {BOX}", "image named in passing"),
        (f"The second image does not show it: {BOX}", "image named in passing"),
        (f"Like the dog in the first image: {BOX}", "image named in passing"),
        (f"As in the first image, but in another image: {BOX}", "image named in words not read"),
        (f"The first image has it, and so has frame 3: {BOX}", "image named in words not read"),
        (f"In the twenty-first image: {BOX}", "image named in words not read"),
        (f"<|object_ref_start|>the dog of the third image<|object_ref_end|>{BOX}", "no image named"),
    ],
)
def test_a_turn_without_one_sound_box_in_one_named_image_is_dropped_and_counted(answer: str, reason: str) -> None:
    record = make_record("Group_Grounding", ("Find the dog.", answer), (CAT, f"The second image: {BOX}"))
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
        ("Object_Tracking", f"Find what is at {BOX} in the second image.", "box of another image in the question"),
        ("Object_Tracking", f"Find {BOX.replace('300', '1300')} again.", "broken box in the question"),
        ("Object_Tracking", f"Find {BOX} again.", ""),
        ("Difference", f"Find {BOX} of the first image again.", ""),
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
    assert list(stream_records(path, chunk)) == list(enumerate(records))


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
    turns = (("Find it.", f"In the first image: {BOX}"), (CAT, f"The second image: {BOX}"))
    records = [make_record(tasks[number % 2], *turns, folder=str(number)) for number in order]
    path.write_text(json.dumps(records))
    return path


def test_splits_share_no_images_and_have_their_sizes_and_the_seed_decides(tmp_path: Path) -> None:
    path = write_many(tmp_path / "m.json", list(range(200)))
    chosen, facts = choose_samples(path, make_sizes(20, 10, 1))
    none = dict.fromkeys(TASKS, 0)
    assert facts["chosen"] == {
        "cot": {**none, "Free-Form": 20, "Group_Grounding": 20},
        "rl": {**none, "Free-Form": 10, "Group_Grounding": 10},
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
    assert (facts["records"], facts["turns"]) == (2, 2)


@pytest.mark.parametrize(
    ("task", "question"),
    [
        ("Free-Form", "Which dog is like the one in the first image?"),
        ("Group_Grounding", "The first image shows a dog. Find it."),
        ("Common_Object", "Find what matches the object of the first image."),
        ("Common_Object", "The first image shows a dog. Find it."),
        ("Common_Object", "The dog of the first image: find it in the others."),
        ("Difference", "What is shown in the first image only?"),
        ("Object_Tracking", f"Find what is at {BOX} in the first image."),
        ("Object_Tracking", f"Find what is at {BOX} again, first image or not."),
    ],
)
def test_an_image_that_a_question_names_for_another_reason_is_not_taken_for_the_answer_s(
    task: str, question: str
) -> None:
    conversion = convert(make_record(task, (question, BOX)))
    assert not conversion.samples and conversion.dropped.total() == 1
    assert set(conversion.dropped) <= {"image named in passing", "no image named"}


def test_a_later_turn_is_kept_only_where_its_question_names_its_object() -> None:
    answer = f"In the third image: {BOX}"
    conversion = convert(make_record("Free-Form", ("Find the dog.", answer), ("Again?", answer), (CAT, answer)))
    assert [sample.uid for sample in conversion.samples] == ["mgrounding:7:0", "mgrounding:7:2"]
    assert conversion.dropped == {"leans on an earlier turn": 1}


def test_a_box_in_a_picture_that_is_shown_twice_is_dropped() -> None:
    record = make_record("Free-Form", ("Find it.", f"In the third image: {BOX}"))
    record["images"][0] = record["images"][2]
    assert convert(record).dropped == {"picture of the box shown twice": 1}


def test_samples_are_drawn_from_the_whole_file_whatever_its_order(tmp_path: Path) -> None:
    turn = ("Find it.", f"In the first image: {BOX}")
    records = [make_record("Free-Form", turn, folder=f"{'ab'[number // 500]}/{number}") for number in range(1000)]
    drawn = []
    for order in (records, records[::-1]):
        (tmp_path / "m.json").write_text(json.dumps(order))
        chosen, _ = choose_samples(tmp_path / "m.json", make_sizes(100, 100, 0))
        drawn.append({split: {sample.images for sample in samples} for split, samples in chosen.items()})
    assert drawn[0] == drawn[1]
    for split in ("cot", "rl"):
        # 100 of 1000 in two halves: 50 each, standard deviation 4.7.
        assert 30 < sum("/a/" in images[0] for images in drawn[0][split]) < 70


def test_what_is_asked_twice_is_taken_once_and_what_is_answered_in_two_ways_not_at_all(tmp_path: Path) -> None:
    def ask(folder: str, image: str) -> dict[str, Any]:
        return make_record("Free-Form", ("Find it.", f"In the {image} image: {BOX}"), folder=folder)

    records = [ask("a", "first"), ask("a", "first"), ask("b", "first"), ask("b", "second"), ask("c", "third")]
    (tmp_path / "m.json").write_text(json.dumps(records))
    chosen, facts = choose_samples(tmp_path / "m.json", make_sizes(9, 9, 0, ("Free-Form",)))
    assert sorted(s.images[0] for samples in chosen.values() for s in samples) == [
        "Free-Form/a/0.jpg",
        "Free-Form/c/0.jpg",
    ]
    assert facts["dropped"] == {"Free-Form": {"asked twice": 1, "asked twice with several answers": 1}}
    assert (facts["usable"], facts["withdrawn"]) == ({"Free-Form": 3}, 1)


def test_broken_records_are_left_out_and_counted_up_to_the_share_that_the_recipe_allows(tmp_path: Path) -> None:
    records: list[Any] = [
        make_record("Free-Form", ("Find it.", f"In the first image: {BOX}"), folder=str(number))
        for number in range(200)
    ]
    for number, broken in ((17, {"images": []}), (90, {"conversations": None})):
        records[number].update(broken)
    (tmp_path / "m.json").write_text(json.dumps(records))
    sizes = make_sizes(300, 300, 0)
    for share in (0.0, 0.009):
        with pytest.raises(UserError, match=r"m\.json: 2 of 200 records .* record 17: key 'images'.*broken_share"):
            choose_samples(tmp_path / "m.json", replace(sizes, broken_share=share))
    _, facts = choose_samples(tmp_path / "m.json", replace(sizes, broken_share=0.01))
    assert facts["broken_records"] == {"count": 2, "first": [17, 90]}
    assert (facts["records"], facts["turns"], facts["usable"]) == (200, 198, {"Free-Form": 198})


def test_a_list_of_long_records_does_not_stay_in_memory(tmp_path: Path) -> None:
    record = json.dumps({"thought": "x" * 20_000})
    (tmp_path / "m.json").write_text("[" + ",".join([record] * 2500) + "]")  # 50 MB
    tracemalloc.start()
    try:
        count = sum(1 for _ in stream_records(tmp_path / "m.json"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 2500 and peak < 16_000_000


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
    record = make_record("Free-Form", ("Find it.", f"In the third image: {BOX}"), (CAT, BOX))
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
    record = make_record("Free-Form", ("Find it.", f"In the third image: {BOX}"), (CAT, BOX))
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
    assert counted == facts["turns"] == len(record["conversations"]) // 2
    for split, samples in chosen.items():
        write_jsonl(folder / f"{split}.jsonl", [sample.to_json() for sample in samples])
        assert read_samples(folder / f"{split}.jsonl") == samples
