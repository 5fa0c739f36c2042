"""Loaders: files of the published formats are read as they are, and every broken record is refused by name."""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from benchmark_files import (
    make_blink_row,
    make_grounding_record,
    make_mig_record,
    make_mmiu_row,
    make_muirbench_row,
    make_original,
    write_json,
    write_parquet,
    write_pictures,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from migrl.benchmarks import BENCHMARKS, Annotations
from migrl.benchmarks.clusters import name_clusters
from migrl.benchmarks.mig_bench import TASKS
from migrl.errors import UserError
from migrl.grounding.images import MissingPictures
from migrl.grounding.samples import BoxTarget, ChoiceTarget, parse_sample

GROUNDING = ("lisa_val", "llmseg", "revos", "reasonvos")


def load(name: str, path: Path) -> Annotations:
    folder = path.parent if path.is_file() else path
    return BENCHMARKS[name].load(path, folder, name)


def write_grounding_pictures(folder: Path) -> None:
    write_pictures(folder, ["lisa/a.png", "a.png", "clip/0.png", "clip/1.png", "clip/2.png"])


def test_mig_bench_takes_each_box_to_the_image_that_its_task_means(tmp_path: Path) -> None:
    annotations = load("mig_bench", write_json(tmp_path / "a.json", [make_mig_record(task) for task in TASKS]))
    assert annotations.version == "revised"
    images = {item.sample.task: item.sample.target.image for item in annotations.items}  # type: ignore[union-attr]
    assert images == {
        "diff": 2,
        "view_diff": 2,
        "common_object": 3,
        "object_tracking": 5,
        "multi_view": 2,
        "region": 1,
        "refer_grounding": 2,
        "group_grounding": 3,
        "reasoning": 2,
        "correspondence": 2,
    }
    assert all(item.exact_box_unit == tuple(Fraction(v, 10) for v in (1, 2, 3, 4)) for item in annotations.items)
    for item in annotations.items:
        assert parse_sample(json.loads(json.dumps(item.sample.to_json())), "here") == item.sample


def test_a_key_that_comes_twice_is_found_among_a_hundred_thousand(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[{" + "".join(f'"k{n}": 1, ' for n in range(100_000)) + '"k99999": 2}]')
    with pytest.raises(UserError, match=f"^{path}: .*key 'k99999' comes twice"):
        load("mig_bench", path)


def test_mig_bench_tells_its_versions_apart_and_counts_the_defects_of_the_original(tmp_path: Path) -> None:
    diff = make_original(make_mig_record("diff", question="Say where the pictures differ. "))
    records = [make_original(make_mig_record(task)) for task in TASKS if task != "diff"]
    records += [diff, {**records[0], "answer": [0.3, 0.2, 0.1, 0.4]}, {**records[1], "answer": [0.1, 0.2, 0.3, 1.048]}]
    annotations = load("mig_bench", write_json(tmp_path / "a.json", records))
    assert annotations.version == "original"
    assert annotations.defects == {
        "asked_twice": ("mig_bench:0", "mig_bench:1", "mig_bench:10", "mig_bench:11"),
        "image_not_trusted": ("mig_bench:9",),
        "inverted": ("mig_bench:10",),
        "out_of_range": ("mig_bench:11",),
    }
    assert annotations.items[0].exact_box_unit == annotations.items[3].exact_box_unit


def test_group_grounding_trusts_the_image_only_where_the_note_fits_the_answer(tmp_path: Path) -> None:
    stale = make_mig_record("group_grounding", answer=[100, 200, 300, 401])
    annotations = load("mig_bench", write_json(tmp_path / "a.json", [make_mig_record("group_grounding"), stale]))
    targets = [item.sample.target for item in annotations.items]
    assert [(t.image, t.image_trusted) for t in targets if isinstance(t, BoxTarget)] == [(3, True), (3, False)]


def test_questions_that_share_a_picture_share_a_cluster_whatever_their_order() -> None:
    sets = [("a", "b"), ("c",), ("d", "b"), ("c", "e"), ()]
    assert name_clusters(sets) == ["a", "c", "a", "c", "#4"]
    assert sorted(name_clusters(sets[:4][::-1])) == sorted(["a", "c", "a", "c"])


@pytest.mark.parametrize("name", GROUNDING)
def test_reasoning_grounding_boxes_are_pixels_of_the_target_image(tmp_path: Path, name: str) -> None:
    write_grounding_pictures(tmp_path)
    annotations = load(name, write_json(tmp_path / "a.json", [make_grounding_record(name)]))
    item = annotations.items[0]
    assert item.exact_box_unit == (Fraction(1, 10), Fraction(1, 4), Fraction(1, 2), Fraction(1, 2))
    assert item.sample.target.image == (1 if name in ("lisa_val", "llmseg") else 3)  # type: ignore[union-attr]
    assert item.sample.images[-1].endswith(("a.png", "2.png"))


def test_a_grounding_box_beyond_its_picture_is_counted_and_kept(tmp_path: Path) -> None:
    write_grounding_pictures(tmp_path)
    records = [
        make_grounding_record("lisa", boxes=[[10, 20, 101, 40]]),
        make_grounding_record("lisa", boxes=[[5, 5, 5, 9]]),
    ]
    annotations = load("lisa_val", write_json(tmp_path / "a.json", records))
    assert annotations.defects == {"inverted": ("lisa_val:1",), "out_of_range": ("lisa_val:0",)}
    assert len(annotations.items) == 2


def test_a_missing_picture_stops_a_set_whose_boxes_are_pixels(tmp_path: Path) -> None:
    with pytest.raises(
        MissingPictures, match=r"a\.json, record 0: key 'image_path': 1 missing image \(lisa/a\.png\)"
    ) as caught:
        load("lisa_val", write_json(tmp_path / "a.json", [make_grounding_record("lisa")]))
    assert caught.value.names == ("lisa/a.png",)


@pytest.mark.parametrize("wrapper", ["", "zero-shot/"])
def test_pictures_are_found_where_the_official_scripts_look_for_them(tmp_path: Path, wrapper: str) -> None:
    frames = [f"{wrapper}ReVOS_eval/clip/{n:05d}.png" for n in (0, 10, 9)]
    write_pictures(tmp_path, [f"{wrapper}LLMSeg/images/a.png", f"{wrapper}lisa/a.png", *frames])
    absolute = make_grounding_record("lisa", image_path="/home/someone/data/lisa/a.png")
    found = {
        name: load(name, write_json(tmp_path / f"{name}.json", [record])).items[0].sample.images
        for name, record in (
            ("lisa_val", absolute),
            ("llmseg", make_grounding_record("llmseg")),
            ("revos", make_grounding_record("revos")),
        )
    }
    assert found["lisa_val"] == (f"{wrapper}lisa/a.png",)
    assert found["llmseg"] == (f"{wrapper}LLMSeg/images/a.png",)
    assert found["revos"] == (frames[0], frames[2], frames[1])  # by number, not by name


def test_blink_reads_the_parquet_files_and_writes_their_pictures(tmp_path: Path) -> None:
    rows = [make_blink_row("val_Jigsaw_1"), make_blink_row("val_Jigsaw_2", answer="(A)")]
    write_parquet(tmp_path / "Jigsaw" / "val-00000-of-00001.parquet", rows)
    write_parquet(tmp_path / "Counting" / "val-00000-of-00001.parquet", [make_blink_row("val_Counting_1")])
    annotations = load("blink", tmp_path)
    assert [item.sample.uid for item in annotations.items] == [
        "blink:val_Counting_1",
        "blink:val_Jigsaw_1",
        "blink:val_Jigsaw_2",
    ]
    assert annotations.items[1].sample.target == ChoiceTarget("B", 2)
    extract = BENCHMARKS["blink"].extract
    assert extract is not None and extract(tmp_path, tmp_path / "images") == 6
    for item in annotations.items:
        assert len(item.sample.images) == 2
        assert all((tmp_path / "images" / name).is_file() for name in item.sample.images)


def test_blink_reads_the_plain_answers_file(tmp_path: Path) -> None:
    annotations = load("blink", write_json(tmp_path / "a.json", {"val_Multi-view_Reasoning_3": "(A)"}))
    item = annotations.items[0]
    assert (item.sample.task, item.sample.target) == ("Multi-view_Reasoning", ChoiceTarget("A", 2))
    assert annotations.version == "val, without Relative_Reflectance"


def test_mmiu_counts_rows_without_answer_and_letters_without_option(tmp_path: Path) -> None:
    rows = [make_mmiu_row(), make_mmiu_row(output=None), make_mmiu_row(output="E"), make_mmiu_row(options="none")]
    for path in (write_json(tmp_path / "a.json", rows), write_parquet(tmp_path / "all.parquet", rows)):
        annotations = load("mmiu", path)
        assert annotations.defects == {
            "letter_without_option": ("mmiu:2",),
            "no_answer": ("mmiu:1",),
            "options_unreadable": ("mmiu:3",),
        }
        assert [item.sample.uid for item in annotations.items] == ["mmiu:0", "mmiu:2", "mmiu:3"]
        assert annotations.items[0].choices == ("first", "second", "third")
        assert annotations.items[0].sample.question == "Which comes last?\nChoose.\nA: first\nB: second\nC: third"
        assert annotations.items[0].sample.images == ("Low-level-semantic/t/0.png", "Low-level-semantic/t/1.png")


def test_muirbench_numbers_its_placeholders_and_pairs_its_twins(tmp_path: Path) -> None:
    rows = [make_muirbench_row("7"), make_muirbench_row("8", counterpart_idx="7", answer="C")]
    write_parquet(tmp_path / "data" / "test-00000-of-00002.parquet", rows[:1])
    write_parquet(tmp_path / "data" / "test-00001-of-00002.parquet", rows[1:])
    annotations = load("muirbench", tmp_path)
    assert [item.sample.cluster for item in annotations.items] == ["7", "7"]
    assert annotations.items[0].sample.question.startswith("How many cats are in Image 1 and Image 2?\n(A) one\n")
    extract = BENCHMARKS["muirbench"].extract
    assert extract is not None and extract(tmp_path, tmp_path / "images") == 4


BAD_TEXT: tuple[Any, ...] = (None, 5, "", "  ", ["a"], math.nan, "half a pair \ud800")
BAD_PATHS: tuple[Any, ...] = (
    None,
    "a.png",
    [],
    [5],
    [""],
    ["/etc/passwd"],
    ["../a.png"],
    ["./../a.png"],
    ["a/../../b.png"],
    ["a\\..\\b.png"],
    ["a/./b.png"],
)
BAD_BOX: tuple[Any, ...] = (
    None,
    "100,200,300,400",
    [],
    [100, 200, 300],
    [100, 200, 300, 400, 500],
    [100, 200, 300, "400"],
    [100, 200, 300, None],
    [100, 200, 300, True],
    [-100, 200, 300, 400],
    [math.nan, 200, 300, 400],
    [100, 200, math.inf, 400],
    [100, 200, 10**400, 400],
)
MIG_MUTATIONS: dict[str, tuple[Any, ...]] = {
    "task": (*BAD_TEXT, "unknown_task"),
    "images": (*BAD_PATHS, ["one.png", "two.png"], [f"{number}.png" for number in range(6)]),
    "question": (*BAD_TEXT, "no image is named", "in the 2th image, in the 3th image"),
    "answer": (*BAD_BOX, [100, 200, 300, 1001], [100, 200, 300, 400.5], [0.1, 0.2, 0.3, 0.4]),
    "additional_info": (None, 5, ["a"]),
    "need_format": (None, 1, "true"),
}


@pytest.mark.parametrize("key", MIG_MUTATIONS)
@pytest.mark.parametrize("version", ["revised", "original"])
def test_every_mutation_of_a_mig_bench_record_is_refused_by_file_index_and_key(
    tmp_path: Path, key: str, version: str
) -> None:
    good = make_mig_record("common_object")
    good = good if version == "revised" else make_original(good)
    mutated = [{k: v for k, v in good.items() if k != key}]
    for value in MIG_MUTATIONS[key]:
        fits_original = version == "original" and value == [0.1, 0.2, 0.3, 0.4]
        mutated += [] if fits_original else [{**good, key: value}]
    for record in mutated:
        refuse(tmp_path, "mig_bench", [good, good, record, good], 2, key)


def test_unknown_keys_and_records_that_are_no_objects_are_refused(tmp_path: Path) -> None:
    good = make_mig_record("region")
    refuse(tmp_path, "mig_bench", [good, {**good, "anwser": []}], 1, "anwser")
    for record in (None, [], "text", 5):
        with pytest.raises(UserError, match=r"a\.json, record 1: must be an object"):
            load("mig_bench", write_json(tmp_path / "a.json", [good, record]))


GROUNDING_MUTATIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "lisa_val": {
        "image_path": (*BAD_TEXT, "../a.png", "a/../../b.png"),
        "instruction": (None, 5, "", []),
        "boxes": (None, [], [[1, 2, 3]], *([box] for box in BAD_BOX if box is not None)),
    },
    "llmseg": {
        "image_path": (*BAD_TEXT, "../a.png"),
        "question": BAD_TEXT,
        "bbox": (
            None,
            [],
            [10, 20, 50, 40],
            [[10, 20], [50, 40, 1]],
            [[10, 20], [50]],
            [[10, 20], [50, -1]],
            [[10, 20], [50, math.nan]],
        ),
    },
    "revos": {
        "video_id": (*BAD_TEXT, "../clip", "/clip"),
        "frames": (None, [], [0, 1], [0, 1, -1], [0, 1, "2"], [0, 1, True], [0, 1, 3]),
        "question": BAD_TEXT,
        "bbox_list": (None, [], [[1, 2, 3, 4]] * 2, *([[], [], box] for box in BAD_BOX)),
    },
    "reasonvos": {
        "image_list": (*BAD_PATHS, ["clip/0.png", "clip/1.png"]),
        "question": BAD_TEXT,
        "bbox_list": (
            None,
            [],
            ["1 2 3 4"] * 2,
            ["", "", ""],
            ["", "", "1 2 3"],
            ["", "", None],
            ["", "", "1 2 3 4 5"],
            ["", "", "1 -2 3 4"],
        ),
    },
}


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, keys in GROUNDING_MUTATIONS.items() for key in keys])
def test_every_mutation_of_a_grounding_record_is_refused_by_file_index_and_key(
    tmp_path: Path, name: str, key: str
) -> None:
    write_grounding_pictures(tmp_path)
    good = make_grounding_record(name)
    bad = [{k: v for k, v in good.items() if k != key}, *({**good, key: v} for v in GROUNDING_MUTATIONS[name][key])]
    for record in bad:
        refuse(tmp_path, name, [good, record], 1, key)


MMIU_MUTATIONS: dict[str, tuple[Any, ...]] = {
    "task": BAD_TEXT,
    "options": BAD_TEXT,
    "question": (None, 5, ["a"]),
    "context": (None, 5, ["a"]),
    "input_image_path": BAD_PATHS,
    "output": (5, "", "CC", "3", "Z", ["C"]),
}


@pytest.mark.parametrize("key", MMIU_MUTATIONS)
def test_every_mutation_of_an_mmiu_record_is_refused_by_file_index_and_key(tmp_path: Path, key: str) -> None:
    good = make_mmiu_row()
    for record in [{k: v for k, v in good.items() if k != key}, *({**good, key: v} for v in MMIU_MUTATIONS[key])]:
        refuse(tmp_path, "mmiu", [good, record], 1, key)


def refuse(folder: Path, name: str, records: list[Any], index: int, key: str) -> None:
    path = write_json(folder / "a.json", records)
    with pytest.raises(UserError) as caught:
        load(name, path)
    assert f"a.json, record {index}: key {key!r}: " in str(caught.value), records[index]


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"idx": "val_Unknown_1"}, "idx"),
        ({"idx": "test_Jigsaw_1"}, "idx"),
        ({"idx": "val_Jigsaw_1/../../x"}, "idx"),
        ({"sub_task": "Counting"}, "sub_task"),
        ({"answer": "hidden"}, "answer"),
        ({"answer": "(C)"}, "answer"),
        ({"prompt": None}, "prompt"),
        ({"choices": []}, "choices"),
        ({"image_1": None, "image_2": None}, "image_1"),
        ({"image_1": None}, "image_1"),
    ],
)
def test_a_broken_blink_row_is_refused_by_file_index_and_key(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    write_parquet(tmp_path / "val-0.parquet", [make_blink_row(), make_blink_row(**{"idx": "val_Jigsaw_2", **changes})])
    with pytest.raises(UserError, match=rf"val-0\.parquet, record 1: key '{key}': "):
        load("blink", tmp_path)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"idx": "../x"}, "idx"),
        ({"idx": "7"}, "idx"),
        ({"answer": "D"}, "answer"),
        ({"answer": "BB"}, "answer"),
        ({"options": []}, "options"),
        ({"image_list": []}, "image_list"),
        ({"question": "<image> <image> <image>"}, "image_list"),
        ({"task": None}, "task"),
    ],
)
def test_a_broken_muirbench_row_is_refused_by_file_index_and_key(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    write_parquet(tmp_path / "test-0.parquet", [make_muirbench_row(), make_muirbench_row(**{"idx": "9", **changes})])
    with pytest.raises(UserError, match=rf"test-0\.parquet, record 1: key '{key}': "):
        load("muirbench", tmp_path)


def test_a_part_of_a_region_record_that_is_not_there_is_refused(tmp_path: Path) -> None:
    good = make_mig_record("region")
    for question in ("Locate a part.", "Locate the 3th part in the picture."):
        refuse(tmp_path, "mig_bench", [good, {**good, "question": question}], 1, "question")


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"val_Jigsaw_1": "(A)", "val_Jigsaw_1": "(B)"}')
    with pytest.raises(UserError, match="key 'val_Jigsaw_1' comes twice"):
        load("blink", path)


def test_files_that_are_no_annotations_are_one_clear_error(tmp_path: Path) -> None:
    torn, other = tmp_path / "torn.json", tmp_path / "torn.parquet"
    for path in (torn, other):
        path.write_text('[{"task": "diff"')
    for name, path, reason in (
        ("mig_bench", tmp_path / "none.json", "no such file"),
        ("mig_bench", torn, "not readable as JSON"),
        ("mig_bench", write_json(tmp_path / "empty.json", []), "non-empty JSON list"),
        ("mig_bench", write_json(tmp_path / "map.json", {"a": 1}), "non-empty JSON list"),
        ("blink", write_json(tmp_path / "list.json", [1]), "must map idx to answer"),
        ("blink", tmp_path, "no val-"),
        ("mmiu", other, "not readable as parquet"),
        ("muirbench", write_parquet(tmp_path / "test-0.parquet", [{"idx": "1"}]), "column 'task' is missing"),
    ):
        with pytest.raises(UserError, match=reason) as caught:
            load(name, path)
        assert str(path) in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
RECORDS: dict[str, dict[str, Any]] = {
    "mig_bench": make_mig_record("group_grounding"),
    "mmiu": make_mmiu_row(),
    **{name: make_grounding_record(name) for name in GROUNDING},
}


@settings(max_examples=300)
@given(data=st.data(), name=st.sampled_from(sorted(RECORDS)), value=JSON)
def test_any_value_under_any_key_is_read_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    write_grounding_pictures(folder)
    key = data.draw(st.sampled_from(sorted(RECORDS[name])))
    path = write_json(folder / "a.json", [RECORDS[name], {**RECORDS[name], key: value}])
    try:
        assert len(load(name, path).items) >= 1
    except UserError as error:
        assert "a.json, record 1: key " in str(error) or isinstance(error, MissingPictures)


REF_L4 = {"id": "0", "file_name": "coco/a.png", "caption": "The dog.", "bbox": [10.0, 10.0, 40.0, 10.0]}


def test_ref_l4_reads_val_and_test_as_one_set_and_counts_what_no_answer_can_hit(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["coco/a.png"], (100, 40))
    for split, box in (("val", REF_L4["bbox"]), ("test", [90.0, 10.0, 20.0, 10.0])):
        write_parquet(tmp_path / f"ref-l4-{split}.parquet", [REF_L4 | {"bbox": box, "is_rewrite": True}])
    annotations = load("ref_l4", tmp_path)
    test, val = annotations.items  # in the order of the files' names
    assert val.exact_box_unit == (Fraction(1, 10), Fraction(1, 4), Fraction(1, 2), Fraction(1, 2))
    assert val.sample.question.endswith("in the image: The dog.") and val.sample.kind == "box"
    assert annotations.defects == {"out_of_range": (test.sample.uid,)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 2, 3]}, "key 'bbox': must be 4 numbers"),
        ({"bbox": [1, 2, -3, 4]}, "not negative"),
        ({"file_name": "../a.png"}, "is no path inside"),
        ({"file_name": "b.png"}, "b.png"),
        ({"caption": None}, "key 'caption'"),
    ],
)
def test_a_broken_record_of_ref_l4_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write_pictures(tmp_path, ["coco/a.png"], (100, 40))
    with pytest.raises(UserError, match=reason):
        load("ref_l4", write_json(tmp_path / "a.json", [REF_L4 | change]))
