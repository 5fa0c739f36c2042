"""MC-Bench: its average precision against cases worked out by hand, its pair accuracy, its strict files."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from migrl.benchmarks.mc_bench import MC_BENCH, STYLES, McBench, McBox, McImage, McPair, load_detections, load_mc_bench
from migrl.benchmarks.mc_bench_scores import average_ap50, bootstrap_ap50, run_coco, score_mc_bench
from migrl.cli import app
from migrl.errors import UserError
from migrl.grounding.samples import BoxesTarget, BoxTarget, parse_sample

BOX = (10.0, 10.0, 20.0, 20.0)
FAR = (70.0, 70.0, 20.0, 20.0)
GROUPS = tuple(range(1, 8))


def make_bench(*truths_by_pair, styles=STYLES[:1]):
    """Pair p has the images 2p and 2p + 1; each pair is a list of (image, group, box)."""
    pairs = []
    for number, truths in enumerate(truths_by_pair):
        images = tuple(McImage(2 * number + i, f"D3/{number}_{i}.jpg", 100, 100) for i in (0, 1))
        boxes = tuple(McBox(*truth) for truth in truths)
        pairs.append(McPair(number, "the larger dog", styles[number % len(styles)], images, boxes))
    return McBench(tuple(pairs), GROUPS)


def score_ap50(bench, *detections):
    """AP of (image, group, box, score)."""
    return score_mc_bench(bench, [McBox(*detection) for detection in detections], resamples=5)["ap50"]


RECORDS = {
    "info": {"version": "0.2"},
    "descriptions": [
        {"id": 0, "images_id": [0, 1], "text": "the larger dog", "positive_sample": True, "text_style": "Comparison"},
        {"id": 1, "images_id": [2, 3], "text": "a red cup", "positive_sample": False, "text_style": "Referring"},
    ],
    "images": [
        {"id": i, "text_id": i // 2, "inter_img_id": i % 2, "file_name": f"D3/{i}.jpg", "height": 90, "width": 100}
        for i in range(4)
    ],
    "annotations": [
        {"id": i, "image_id": i, "text_id": 0, "category_id": 1, "area": 400, "bbox": [10, 10, 20, 20], "iscrowd": 0}
        for i in range(2)
    ],
    "categories": [{"id": 1, "name": "group 1"}, {"id": 2, "name": "group 2"}],
}
DETECTIONS = [{"image_id": i, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.5} for i in range(2)]


def save(folder, name, data):
    path = folder / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def load_both(folder, records=RECORDS, detections=DETECTIONS):
    bench = load_mc_bench(save(folder, "mc.json", records))
    return bench, load_detections(save(folder, "found.json", detections), bench)


def test_perfect_detections_read_from_files_give_100_in_both_metrics_and_print_nothing(tmp_path, capsys):
    scores = score_mc_bench(*load_both(tmp_path))
    assert capsys.readouterr().out == ""
    assert json.loads(json.dumps(scores)) == scores
    # The file's first box has id 0, which COCOeval alone would count as missed.
    assert (scores["ap50"], scores["pair_accuracy"], scores["n"]) == (100, 100, 2)
    assert scores["low"] == pytest.approx(34.238, abs=1e-3) and scores["high"] == 100
    assert list(scores["styles"]) == ["Referring", "Comparison"]
    assert scores["styles"]["Comparison"]["ap50"] == 100
    assert scores["styles"]["Referring"]["ap50"] is None and scores["styles"]["Referring"]["pair_accuracy"] == 100


def test_without_detections_nothing_is_found_and_only_pairs_without_boxes_are_right(tmp_path):
    scores = score_mc_bench(*load_both(tmp_path, detections=[]))
    assert (scores["ap50"], scores["pair_accuracy"]) == (0, 50)


def test_average_precision_of_a_hit_a_miss_and_a_hit():
    bench = make_bench([(0, 1, BOX)], [(2, 1, BOX)])
    # Precision 1 at the 51 recalls up to one half, 2/3 at the other 50.
    found = (0, 1, BOX, 0.9), (1, 1, BOX, 0.8), (2, 1, BOX, 0.7)
    assert score_ap50(bench, *found) == pytest.approx(100 * (51 + 50 * 2 / 3) / 101, abs=1e-4)
    # The first hit alone; and a second box on a thing already found is wrong: hit, miss, hit again.
    assert score_ap50(bench, found[0]) == pytest.approx(100 * 51 / 101, abs=1e-4)
    twice = (0, 1, (11.0, 10.0, 20.0, 20.0), 0.8)
    assert score_ap50(bench, found[0], twice, found[2]) == score_ap50(bench, *found)


def test_an_iou_of_exactly_one_half_is_a_hit_and_the_wrong_image_is_none():
    bench = make_bench([(0, 1, BOX)])
    assert score_ap50(bench, (0, 1, (10, 10, 20, 40), 1.0)) == 100
    assert score_ap50(bench, (0, 1, (10, 10, 20, 41), 1.0)) == 0
    assert score_ap50(bench, (1, 1, BOX, 1.0)) == 0


def test_groups_weigh_by_their_number_of_boxes():
    bench = make_bench([(0, 1, BOX), (0, 1, FAR), (1, 1, BOX), (1, 2, FAR)])
    assert score_ap50(bench, (0, 1, BOX, 0.9), (0, 1, FAR, 0.8), (1, 1, BOX, 0.7)) == 75


def test_only_the_hundred_best_scores_of_an_image_count():
    bench = make_bench([(0, 1, BOX)])
    wrong = [(0, 1, FAR, 0.9)] * 99
    assert score_ap50(bench, *wrong, (0, 1, BOX, 0.5)) == 1
    assert score_ap50(bench, *wrong, wrong[0], (0, 1, BOX, 0.5)) == 0


def test_predicted_groups_are_renamed_in_every_pair_and_may_swap():
    bench = make_bench(*([(2 * p, 1, BOX), (2 * p + 1, 2, FAR)] for p in range(3)))
    swapped = [(2 * p + i, 2 - i, box, 0.9) for p in range(3) for i, box in enumerate((BOX, FAR))]
    assert score_ap50(bench, *swapped) == 100
    assert score_ap50(bench, *((image, 1, box, score) for image, _, box, score in swapped)) < 100


def test_a_false_find_costs_as_much_in_a_rare_group():
    bench = make_bench([(0, 1, BOX)], [])
    for group in (1, 7):
        assert score_ap50(bench, (0, 1, BOX, 0.5), (2, group, BOX, 0.9)) == 50


@pytest.mark.parametrize("true", range(4))
@pytest.mark.parametrize("found", range(4))
def test_a_pair_is_right_if_something_is_found_exactly_where_something_is(true, found):
    bench = make_bench([(i, 1, BOX) for i in (0, 1) if true >> i & 1])
    detections = [McBox(i, 2, FAR, 0.1) for i in (0, 1) if found >> i & 1 for _ in range(2)]
    scores = score_mc_bench(bench, detections, resamples=5)
    assert scores["pair_accuracy"] == (100 if true == found else 0)
    assert (scores["ap50"] is None) == (true == 0)
    assert scores["ap50_low"] is None and scores["ap50_high"] is None  # a single pair cannot be resampled


corners = st.tuples(*[st.integers(0, 6)] * 2).map(lambda corner: (10.0 * corner[0], 10.0 * corner[1], 20.0, 20.0))
truth_lists = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3), corners), max_size=8)
detection_lists = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 3), corners, st.sampled_from([0.2, 0.5, 0.9])), max_size=10
)


def spread_truths(truths):
    return make_bench(*([truth for truth in truths if truth[0] // 2 == pair] for pair in range(3)), styles=STYLES[:2])


@given(truth_lists, detection_lists, st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_detections_pairs_and_images(tmp_path_factory, truths, found, random):
    records = copy.deepcopy(RECORDS)
    records["categories"].append({"id": 3, "name": "group 3"})
    rows = [(image, group, box) for image, group, box in truths if image < 4]
    records["annotations"] = [
        {
            "id": i,
            "image_id": image,
            "text_id": image // 2,
            "category_id": group,
            "area": 400,
            "bbox": box,
            "iscrowd": 0,
        }
        for i, (image, group, box) in enumerate([*rows, (0, 1, BOX)])
    ]
    keys = ("image_id", "category_id", "bbox", "score")
    detections = [dict(zip(keys, row, strict=True)) for row in found if row[0] < 4]
    folder = tmp_path_factory.mktemp("mc")
    scores = score_mc_bench(*load_both(folder, records, detections), resamples=5)
    for listed in (detections, *(records[key] for key in ("descriptions", "images", "annotations", "categories"))):
        random.shuffle(listed)
    assert score_mc_bench(*load_both(folder, records, detections), resamples=5) == scores


@given(truth_lists, detection_lists, st.permutations([1, 2, 3]))
def test_the_number_of_a_predicted_group_means_nothing(truths, found, names):
    bench = spread_truths(truths)
    renamed = [(image, names[group - 1], box, score) for image, group, box, score in found]
    distinct = {(image, box, score): None for image, _, box, score in found}
    if len(distinct) == len(found):  # two groups with one and the same box are told apart by their numbers only
        assert score_ap50(bench, *renamed) == score_ap50(bench, *found)


@given(truth_lists, detection_lists)
def test_the_bootstrap_counts_matches_as_coco_does(truths, found):
    bench = spread_truths(truths)
    evaluation = run_coco(bench.pairs, [McBox(*row) for row in sorted(found, key=lambda row: row[0])], GROUPS)

    class EachOnce:
        def multinomial(self, n, shares, size):
            return np.ones((size, n), dtype=int)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "default_rng", lambda seed: EachOnce())
        interval = bootstrap_ap50(evaluation, bench.pairs, resamples=2)
    assert interval == pytest.approx([average_ap50(evaluation)] * 2, abs=1e-12, nan_ok=True)


def test_the_interval_repeats_and_holds_the_score():
    bench = make_bench(*([(2 * p, 1, BOX)] for p in range(30)))
    found = [McBox(2 * p, 1, BOX if p % 3 else FAR, 0.9) for p in range(30)]
    scores = score_mc_bench(bench, found)
    assert 0 < scores["ap50_low"] < scores["ap50"] < scores["ap50_high"] < 100
    assert score_mc_bench(bench, found) == scores


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("descriptions[0]", "images_id", [0]),
        ("descriptions[0]", "images_id", [0, 0]),
        ("descriptions[0]", "images_id", [0, 9]),
        ("descriptions[0]", "images_id", [0, True]),
        ("descriptions[1]", "id", 0),
        ("descriptions[1]", "text", ""),
        ("descriptions[1]", "text_style", "Guessing"),
        ("descriptions[1]", "positive_sample", 1),
        ("images[3]", "id", -1),
        ("images[3]", "id", 2**70),
        ("images[3]", "id", 2),
        ("images[3]", "text_id", 5),
        ("images[3]", "text_id", 0),
        ("images[3]", "inter_img_id", 2),
        ("images[3]", "inter_img_id", 0),
        ("images[3]", "file_name", "../secret.jpg"),
        ("images[3]", "file_name", "/etc/passwd"),
        ("images[3]", "file_name", "a\0.jpg"),
        ("images[3]", "height", 0),
        ("images[3]", "width", 100.0),
        ("annotations[1]", "id", 0),
        ("annotations[1]", "image_id", 7),
        ("annotations[1]", "text_id", 1),
        ("annotations[1]", "category_id", 3),
        ("annotations[1]", "area", float("nan")),
        ("annotations[1]", "bbox", [10, 10, 20]),
        ("annotations[1]", "bbox", [10, 10, 20, float("nan")]),
        ("annotations[1]", "bbox", [-1, 10, 20, 20]),
        ("annotations[1]", "bbox", [10, 10, 0, 20]),
        ("annotations[1]", "bbox", [90, 10, 20, 20]),
        ("annotations[1]", "bbox", [10, 10, 20, 10**400]),
        ("annotations[1]", "iscrowd", 2),
        ("categories[1]", "id", 1),
        ("categories[1]", "name", None),
        ("detections[1]", "image_id", 8),
        ("detections[1]", "category_id", 4),
        ("detections[1]", "bbox", "1, 2, 3, 4"),
        ("detections[1]", "bbox", [10, 80, 20, 20]),
        ("detections[1]", "score", "0.5"),
        ("detections[1]", "score", float("inf")),
        ("detections[1]", "score", -0.1),
        ("detections[1]", "segmentation", []),
    ],
)
def test_a_broken_record_is_refused_by_file_list_index_and_key(tmp_path, place, key, value):
    records, detections = copy.deepcopy(RECORDS), copy.deepcopy(DETECTIONS)
    name, index = place.rstrip("]").split("[")
    (detections if name == "detections" else records[name])[int(index)][key] = value
    with pytest.raises(UserError) as caught:
        load_both(tmp_path, records, detections)
    file = "found.json" if name == "detections" else "mc.json"
    assert f"{tmp_path / file}, {place}: key {key!r}: " in str(caught.value) and "; " in str(caught.value)


def list_places(data, place=()):
    """Every value within decoded JSON, by its keys and indexes."""
    if isinstance(data, dict | list):
        for key in data if isinstance(data, dict) else range(len(data)):
            yield (*place, key)
            yield from list_places(data[key], (*place, key))


VALID = {"records": RECORDS, "detections": DETECTIONS}
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(list(list_places(VALID))), JUNK, st.booleans())
def test_any_junk_at_any_place_is_scored_or_refused_in_words(tmp_path_factory, place, junk, drop):
    broken = copy.deepcopy(VALID)
    parent = broken
    for key in place[:-1]:
        parent = parent[key]
    if drop and isinstance(parent, dict) and len(place) > 1:
        del parent[place[-1]]
    else:
        parent[place[-1]] = junk
    try:
        bench, detections = load_both(tmp_path_factory.mktemp("mc"), broken["records"], broken["detections"])
    except UserError:
        return
    assert 0 <= score_mc_bench(bench, detections, resamples=5)["pair_accuracy"] <= 100


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"images": {}}', "\ud800"])
def test_a_file_that_is_none_is_refused_in_words(tmp_path, text):
    path = tmp_path / "mc.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match="mc.json"):
        load_mc_bench(path)
    with pytest.raises(UserError, match="no.json"):
        load_mc_bench(tmp_path / "no.json")


def test_the_command_scores_a_coco_result_list(tmp_path):
    annotations, predictions = save(tmp_path, "truth.json", RECORDS), save(tmp_path, "found.json", DETECTIONS)
    command = ["score", "mc_bench", "--annotations", str(annotations), "--predictions", str(predictions)]
    report = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert (report["ap50"], report["pair_accuracy"], report["n"]) == (100.0, 100.0, 2)
    assert "Comparison" in CliRunner().invoke(app, command).stdout


def test_each_pair_is_a_sample_that_asks_for_a_list_and_a_crowd_is_no_true_box(tmp_path):
    records = copy.deepcopy(RECORDS)
    records["annotations"][1] |= {"iscrowd": 1}
    records["annotations"].append(records["annotations"][0] | {"id": 2, "category_id": 2, "bbox": [80, 60, 20.5, 30]})
    annotations = MC_BENCH.load(save(tmp_path, "mc.json", records), tmp_path, "mc_bench")
    first, second = (item.sample for item in annotations.items)
    boxes = (BoxTarget(1, (0.1, 10 / 90, 0.3, 30 / 90)), BoxTarget(1, (0.8, 60 / 90, 1.0, 1.0)))  # rounding is cut
    assert first.target == BoxesTarget(boxes, (1, 2)) and second.target == BoxesTarget(())
    assert (first.task, first.images, first.sizes) == ("Comparison", ("D3/0.jpg", "D3/1.jpg"), ((100, 90), (100, 90)))
    assert "the larger dog" in first.question and parse_sample(first.to_json(), "x") == first
    assert annotations.defects == {"crowd": ("mc_bench:0",)} and MC_BENCH.counts[annotations.version] == 2000
