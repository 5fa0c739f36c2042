"""Questions for any number of boxes through the real commands: a rendered set, and sets that are brought by hand."""

import json
from pathlib import Path

import pytest
from benchmark_files import write_json, write_parquet, write_pictures
from smoke_run import call_migrl
from test_published_benchmarks import arguments, write_catalog

from migrl.grounding.samples import BoxesTarget, read_samples
from migrl.scoring.comparable import index_rows
from migrl.scoring.rows import load_rows, rescore_row
from migrl.scoring.scores import compute_scores


def test_the_rendered_set_is_drawn_asked_scored_reported_and_verified(tmp_path: Path) -> None:
    places = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    settings = ["source.eval_per_task={mini_mig: 1, mini_any: 4}", "evaluate.arms=[base]", "pass_rates=null"]
    result = call_migrl("reproduce", "--recipe", "test", *places, *settings)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-6000:]
    rows = [row for row in load_rows(tmp_path / "runs/test/evaluate/samples.jsonl") if row.sample.kind == "boxes"]
    assert len(rows) == 8 and {row.sample.benchmark for row in rows} == {"mini_any"}
    assert all(rescore_row(row) == row for row in rows)
    scores = json.loads((tmp_path / "results/test/scores.json").read_text())["base"]
    assert scores["mini_any"]["detections"]["confidence"] == 1 and "detections" not in scores["mini_mig"]
    assert "compat" in scores["mini_mig"] and "compat" not in scores["mini_any"]
    for name in ("report.md", "report.html"):
        page = (tmp_path / "results/test" / name).read_text()
        assert "Any number of boxes" in page and "AP50 has nothing to rank" in page
    verified = call_migrl("verify", tmp_path / "results/test")
    assert verified.returncode == 0, verified.stdout + verified.stderr


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MC-Bench and Ref-L4 in their published forms where the user puts them, two questions each."""
    place = tmp_path_factory.mktemp("brought")
    catalog = write_catalog(place / "catalog.yaml")
    catalog.write_text(catalog.read_text().replace("records: 1\n", "records: 2\n"))
    mc_bench, ref_l4 = place / "downloads/mc_bench", place / "downloads/ref_l4"
    write_pictures(mc_bench / "images", [f"D3/{n}.png" for n in range(4)], (140, 112))
    pairs = [
        {"id": n, "images_id": [2 * n, 2 * n + 1], "text": text, "positive_sample": n == 0, "text_style": "Referring"}
        for n, text in enumerate(("the larger dog", "a red cup"))
    ]
    images = [
        {"id": n, "text_id": n // 2, "inter_img_id": n % 2, "file_name": f"D3/{n}.png", "height": 112, "width": 140}
        for n in range(4)
    ]
    boxes = [
        {
            "id": n,
            "image_id": n,
            "text_id": 0,
            "category_id": n + 1,
            "area": 400,
            "bbox": [14, 28, 28, 56],
            "iscrowd": 0,
        }
        for n in range(2)
    ]
    groups = [{"id": 1, "name": "group 1"}, {"id": 2, "name": "group 2"}]
    data = {"descriptions": pairs, "images": images, "annotations": boxes, "categories": groups}
    write_json(mc_bench / "mc-bench_v0.2_val.json", data)
    write_pictures(ref_l4 / "images", ["coco/a.png"], (140, 112))
    row = {"file_name": "coco/a.png", "caption": "The dog on the left.", "bbox": [14.0, 28.0, 28.0, 56.0]}
    for split in ("val", "test"):
        rows = [row | {"id": f"{split}0", "ori_category_id": "o365_1"}]
        write_parquet(ref_l4 / f"annotations/ref-l4-{split}.parquet", rows)
    return place


def test_sets_that_are_brought_by_hand_are_fetched_and_evaluated(brought: Path) -> None:
    call = arguments(brought, "--runs", brought / "runs", benchmarks=("mc_bench", "ref_l4"))
    for stage in ("fetch", "evaluate"):
        result = call_migrl(stage, *call)
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert "AP50" in result.stdout and "has nothing to rank" in " ".join(result.stdout.split())
    first, second = (sample.target for sample in read_samples(brought / "runs/test/fetch/data/mc_bench.jsonl"))
    assert isinstance(first, BoxesTarget) and isinstance(second, BoxesTarget)
    assert [(box.image, box.box_unit) for box in first.boxes] == [(n, (0.1, 0.25, 0.3, 0.75)) for n in (1, 2)]
    assert (first.groups, second.boxes) == ((1, 2), ())
    scores = compute_scores(index_rows(load_rows(brought / "runs/test/evaluate/samples.jsonl")))["base"]
    assert scores["mc_bench"]["detections"]["n"] == 2 and scores["ref_l4"]["n"] == 2
    assert "compat" not in scores["mc_bench"] and "compat" not in scores["ref_l4"]
