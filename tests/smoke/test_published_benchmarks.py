"""fetch and evaluate on the published formats: real stages, the tiny model, a folder laid out like the Hub."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
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
from smoke_run import ROOT, call_migrl

from migrl.benchmarks.mig_bench import TASKS
from migrl.files import write_jsonl
from migrl.grounding.samples import BoxTarget, Sample, read_samples
from migrl.scoring.comparable import index_rows
from migrl.scoring.rows import load_rows
from migrl.scoring.scores import compute_scores

BENCHMARKS = (
    "mig_bench",
    "mig_bench_original",
    "lisa_val",
    "llmseg",
    "revos",
    "reasonvos",
    "blink",
    "mmiu",
    "muirbench",
)
BOX = "(100,200),(300,400)"
RECORDS = {"mig_bench": 10, "mig_bench_original": 9, "blink": 14, "mmiu": 3, "muirbench": 1}


def write_hub(folder: Path) -> Path:
    """Every file of the catalogue in the Hub's layout, a handful of records each."""
    records = [make_mig_record(task) for task in TASKS]
    pictures = folder / "pictures"
    for number, name in enumerate(name for record in records for name in record["images"]):
        write_pictures(pictures, [name], (112 + 28 * (number % 3), 112))
    write_json(folder / "GD-ML/UniVG-R1-data/revised_MIG_bench.json", records)
    original = [make_original(record) for record in records if record["task"] != "diff"]
    write_json(folder / "Michael4933/MIG-Bench/MIG_data.json", original)
    pack(pictures / "MIG-Bench", folder / "Michael4933/MIG-Bench/images.zip")

    zero_shot = folder / "zero"
    write_pictures(zero_shot, ["lisa/a.png", "LLMSeg/images/a.png", *(f"ReVOS_eval/clip/{n}.png" for n in range(3))])
    write_pictures(zero_shot, [f"clip/{n}.png" for n in range(3)])
    pack(zero_shot, folder / "SuleBai/UniVG-R1-zeroshot/zero-shot.zip")
    names = {"lisa_val": "lisa_val", "llmseg": "LLMSeg_eval", "revos": "ReVOS_eval", "reasonvos": "ReasonVOS_eval"}
    for name, file in names.items():
        path = folder / "GD-ML/UniVG-R1-data/zero_shot_evaluation" / f"{file}.json"
        write_json(path, [make_grounding_record(name)])

    for task in yaml.safe_load((ROOT / "reproduce/sources.yaml").read_text())["sources"]["blink"]["files"]:
        config = task["path"].split("/")[0]
        rows = [make_blink_row(f"val_{config}_1")]
        write_parquet(folder / "BLINK-Benchmark/BLINK" / task["path"], rows)
    write_parquet(folder / "MUIRBENCH/MUIRBENCH/data/test-00000-of-00001.parquet", [make_muirbench_row()])
    hub = folder / "FanqingM/MMIU-Benchmark"
    write_parquet(hub / "all.parquet", [make_mmiu_row(), make_mmiu_row(output=None), make_mmiu_row(output="A")])
    relations = ("2D-spatial", "3D-spatial", "Continuous-temporal", "Discrete-temporal", "High-level-obj-semantic")
    for relation in (*relations, "High-level-sub-semantic", "Low-level-semantic"):
        write_pictures(folder / relation, ["t/0.png", "t/1.png"])
        pack(folder / relation, hub / f"{relation}.zip")
    write_mgrounding(folder)
    write_univg(folder)
    return folder


def write_mgrounding(folder: Path) -> None:
    """Forty records of two tasks; archives hold the folders of the authors' machine, as the published ones do."""
    box = f"<|box_start|>{BOX}<|box_end|>"
    records = []
    for number in range(40):
        task, inner = (("Group_Grounding", "SA-1B"), ("Free-Form", "Object365"))[number % 2]
        names = [f"{task}/{inner}/{number}_{index}.png" for index in range(2)]
        write_pictures(folder / task / "home/someone/MGrounding-630k", names)
        said = [("human", "<image>\n<image>\nFind it."), ("gpt", f"It's in the second image. {box}")]
        turns = [{"from": speaker, "value": value} for speaker, value in said]
        images = [f"./MGrounding-630k/{name}" for name in names]
        records.append({"id": str(number), "type": task, "images": images, "conversations": turns})
    hub = folder / "Michael4933/MGrounding-630k"
    write_json(hub / "MGrounding-630k.json", records)
    for task in ("Group_Grounding", "Free-Form"):
        pack(folder / task, hub / f"{task}.zip")


def write_univg(folder: Path) -> None:
    """UniVG-R1's stages over the first of those records, and a question over a picture of COCO."""
    thoughts = ["Image 2 shows it."] * 10 + ["It is there.", "Image 2 shows it at (100,200),(300,400)."]
    pool = json.loads((folder / "Michael4933/MGrounding-630k/MGrounding-630k.json").read_text())
    cot = []
    for record, thought in zip(pool, thoughts, strict=False):
        said = (("human", "<image><image>Find it."), ("gpt", f"<think>{thought}</think>\n<answer>{BOX}</answer>"))
        turns = [{"from": speaker, "value": value} for speaker, value in said]
        cot.append({"images": [f"/there/{name[2:]}" for name in record["images"]], "conversations": turns})
    shown = [record["images"] for record in pool[8:16]]
    shown.append(["/there/dataset/coco/train2014/COCO_train2014_000000000009.jpg"])
    rl = [
        {"question": "<image>" * len(names) + "Find it.", "answer": [100, 200, 300, 400], "images": names}
        for names in shown
    ]
    write_json(folder / "GD-ML/UniVG-R1-data/stage1_cotsft.json", cot)
    write_json(folder / "GD-ML/UniVG-R1-data/stage2_rl.json", rl)
    write_pictures(folder, ["coco/train2014/COCO_train2014_000000000009.jpg"])


def pack(content: Path, archive: Path) -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(content.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(content))


def write_catalog(path: Path) -> Path:
    """The real catalogue with our counts and without the hashes of the real files."""
    catalog = yaml.safe_load((ROOT / "reproduce/sources.yaml").read_text())
    for name, source in catalog["sources"].items():
        source["records"] = RECORDS.get(name, 1)
        for file in source.get("files", ()):
            file.pop("sha256", None)
            file.pop("bytes", None)
    path.write_text(yaml.safe_dump(catalog))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_hub(folder / "hub")
    write_catalog(folder / "catalog.yaml")
    write_training(folder / "training")
    return folder


def write_training(folder: Path) -> None:
    """A training sample a split, as the README describes the folder."""
    write_pictures(folder, ["shots/0.png", "shots/1.png"])
    for split in ("cot", "rl"):
        target = BoxTarget(2, (0.1, 0.2, 0.3, 0.4))
        images = ("shots/0.png", "shots/1.png")
        sample = Sample(f"{split}:0", "shots", "refer", images, "Locate it in image 2.", target, "c")
        write_jsonl(folder / f"{split}.jsonl", [sample.to_json()])


def arguments(
    place: Path, *more: str | Path, benchmarks: tuple[str, ...] = BENCHMARKS, training: dict[str, Any] | None = None
) -> list[str | Path]:
    if training is None and (place / "training").exists():
        training = {"kind": "folder", "path": str(place / "training")}
    source: dict[str, Any] = {"kind": "hub", "benchmarks": list(benchmarks), "training": training}
    source |= {"catalog": str(place / "catalog.yaml"), "downloads": str(place / "downloads")}
    settings = [f"source={json.dumps(source)}", "evaluate.arms=[base]", "evaluate.max_new_tokens=8"]
    return ["--recipe", "test", *more, *settings]


def test_every_benchmark_is_fetched_offline_checked_and_evaluated(place: Path) -> None:
    runs = ("--runs", place / "runs")
    fetched = call_migrl("fetch", *arguments(place, *runs, "--offline", place / "hub"))
    assert fetched.returncode == 0, fetched.stderr[-3000:]
    data = place / "runs/test/fetch/data"
    counts = {path.stem: len(path.read_text().splitlines()) for path in data.glob("*.jsonl")}
    expected = {name: RECORDS.get(name, 1) - (name == "mmiu") for name in BENCHMARKS}
    assert counts == {**expected, "cot": 1, "rl": 1}
    facts = json.loads((place / "runs/test/fetch/manifest.json").read_text())["facts"]["benchmarks"]
    assert facts["mmiu"]["defects"] == {"no_answer": 1}
    assert facts["mig_bench"]["version"] == "revised" and facts["mig_bench_original"]["version"] == "original"

    checked = call_migrl("fetch", "--check", *arguments(place, *runs))
    assert checked.returncode == 0, checked.stdout + checked.stderr[-3000:]

    evaluated = call_migrl("evaluate", *arguments(place, *runs))
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    scores = compute_scores(index_rows(load_rows(place / "runs/test/evaluate/samples.jsonl")))["base"]
    assert set(scores) == set(BENCHMARKS)
    assert "compat" in scores["mig_bench"] and "compat" not in scores["blink"]
    assert len(scores["mig_bench"]["tasks"]) == 10

    annotations = place / "downloads/mig_bench/revised_MIG_bench.json"
    sound = annotations.read_bytes()
    annotations.unlink()  # it is a hard link
    annotations.write_bytes(sound.replace(b"[100, 200", b"[101, 200", 1))
    picture = place / "downloads/mig_bench/MIG-Bench/images/region/1.png"
    picture.write_bytes(b"x")
    checked = call_migrl("fetch", "--check", *arguments(place, *runs))
    assert checked.returncode == 1
    for name in ("revised_MIG_bench.json", "MIG-Bench/images/region/1.png"):
        assert f"changed: mig_bench: {name}" in checked.stdout
    assert call_migrl("fetch", "--force", *arguments(place, *runs, "--offline", place / "hub")).returncode == 0
    assert annotations.read_bytes() == sound and len(picture.read_bytes()) > 1

    again = call_migrl("fetch", *arguments(place, *runs))
    assert "already done" in again.stdout  # where files lie is no part of the result


def test_training_samples_come_from_mgrounding_with_only_the_archives_of_the_wanted_tasks(place: Path) -> None:
    training = {"kind": "mgrounding", "cot_per_task": 4, "rl_per_task": 3, "tasks": ["Group_Grounding", "Free-Form"]}
    call = arguments(
        place, "--runs", place / "pool", "--offline", place / "hub", benchmarks=("lisa_val",), training=training
    )
    result = call_migrl("fetch", *call)
    assert result.returncode == 0, result.stderr[-3000:]
    folder = place / "pool/test/fetch"
    splits = {split: read_samples(folder / f"data/{split}.jsonl") for split in ("cot", "rl")}
    assert {split: len(samples) for split, samples in splits.items()} == {"cot": 8, "rl": 6}
    assert not {s.cluster for s in splits["cot"]} & {s.cluster for s in splits["rl"]}
    assert all((folder / "data" / image).is_file() for sample in splits["rl"] for image in sample.images)
    facts = json.loads((folder / "manifest.json").read_text())["facts"]["training"]
    assert (facts["records"], facts["usable"]) == (40, {"Free-Form": 20, "Group_Grounding": 20})
    assert len(facts["files"]) == 3  # the records and two archives


def test_univg_r1_s_stages_are_trained_on_with_their_reasoning_and_the_pool_s_pictures(
    place: Path, tmp_path: Path
) -> None:
    training: dict[str, Any] = {"kind": "univg", "tasks": ["Group_Grounding", "Free-Form"], "single_image": True}
    training |= {"cot_per_task": {"Free-Form": 4, "Group_Grounding": 5, "Single_Image": 1}, "rl_per_task": 9}

    def call(stage: str, hub: Path, *more: str | Path) -> subprocess.CompletedProcess[str]:
        folders = ("--runs", tmp_path / "runs", *(("--offline", hub) if stage == "fetch" else ()))
        return call_migrl(stage, *arguments(place, *folders, benchmarks=("lisa_val",), training=training), *more)

    folder = tmp_path / "runs/test"
    coco = place / "hub/coco"
    coco.rename(place / "hub/away")
    result = call("fetch", place / "hub")
    assert result.returncode == 1 and "train2014.zip from the COCO site" in result.stderr
    (place / "hub/away").rename(coco)

    assert (result := call("fetch", place / "hub")).returncode == 0, result.stderr[-3000:]
    facts = json.loads((folder / "fetch/manifest.json").read_text())["facts"]["training"]
    assert facts["chosen"] == {
        "cot": {"Free-Form": 4, "Group_Grounding": 4, "Single_Image": 0},
        "rl": {"Free-Form": 4, "Group_Grounding": 4, "Single_Image": 1},
    }
    assert facts["rl"]["target_known_from"] == {"MGrounding-630k": 8, "one picture": 1}
    assert facts["cot"]["dropped"] == {
        "Free-Form": {"coordinates in the thought": 1, "images of an RL sample": 1},
        "Group_Grounding": {"images of an RL sample": 2},
    }
    assert len(facts["files"]) == 6 and "MIT" in facts["licences"].values()
    assert "SA-1B" in facts["licences"]["Michael4933/MGrounding-630k"] and "CC BY 4.0" in facts["licences"]["coco"]
    assert "cot Group_Grounding 4 of 5" in result.stderr

    settings = ("synthesize.teacher={engine: scripted}", "synthesize.candidates=1")
    assert (result := call("synthesize", place / "hub", *settings)).returncode == 0, result.stderr[-3000:]
    kept = [json.loads(line) for line in (folder / "synthesize/cot.jsonl").read_text().splitlines()]
    assert len(kept) == 8
    assert all(row["completion"].startswith("<think>Image 2 shows it.</think>") for row in kept)


def test_a_missing_image_and_a_wrong_count_stop_the_run_and_are_listed(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "hub", tmp_path / "hub")
    shutil.copy(write_catalog(tmp_path / "catalog.yaml"), tmp_path / "sound.yaml")
    hub = tmp_path / "hub/Michael4933/MIG-Bench"
    pictures = tmp_path / "hub/pictures/MIG-Bench"
    for name in ("region/1.png", "view_diff/0.png"):
        (pictures / "images" / name).unlink()
    (hub / "images.zip").unlink()
    pack(pictures, hub / "images.zip")
    call = arguments(tmp_path, "--runs", tmp_path / "runs", "--offline", tmp_path / "hub", benchmarks=("mig_bench",))
    result = call_migrl("fetch", *call)
    assert result.returncode == 1 and "2 missing images" in result.stderr
    checked = call_migrl("fetch", "--check", *call)
    assert checked.returncode == 1
    for name in ("region/1.png", "view_diff/0.png"):
        assert f"missing: mig_bench: MIG-Bench/images/{name}" in checked.stdout

    catalog = yaml.safe_load((tmp_path / "catalog.yaml").read_text())
    catalog["sources"]["mmiu"]["records"] = 4
    (tmp_path / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    call = arguments(tmp_path, "--runs", tmp_path / "runs", "--offline", tmp_path / "hub", benchmarks=("mmiu",))
    assert "mmiu: 3 records, 4 are expected" in call_migrl("fetch", *call).stderr


def test_a_benchmark_that_was_never_fetched_and_an_unknown_one_are_errors(place: Path, tmp_path: Path) -> None:
    write_catalog(tmp_path / "catalog.yaml")
    result = call_migrl("fetch", "--check", *arguments(tmp_path))
    assert result.returncode == 1 and "run `migrl fetch` first" in result.stderr
    result = call_migrl("fetch", *arguments(tmp_path, benchmarks=("blonk",)))
    assert result.returncode == 1 and "'blonk' is not in" in result.stderr
    result = call_migrl("fetch", *arguments(tmp_path, benchmarks=("mc_bench",)))
    assert result.returncode == 1 and "links to it on Google Drive" in " ".join(result.stderr.split())
