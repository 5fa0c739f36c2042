"""Stored outputs of real models, rescored to the official figures. Needs the files: MIGRL_GOLDEN names their folder.

mig_bench/revised_MIG_bench.json, mig_bench/MIG_data.json, mig_bench/qwen2_vl/*.json, blink/val_answers.json,
blink/gpt4o/*.json
"""

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from migrl.benchmarks import BENCHMARKS
from migrl.peers import load_peers, read_stored
from migrl.peers.load import pick_peer
from migrl.scoring.rescore import ScoreSettings, rescore_file

FOLDER = os.environ.get("MIGRL_GOLDEN")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="MIGRL_GOLDEN does not name the folder of stored outputs")
GOLDEN = Path(FOLDER or ".")
REVISED = GOLDEN / "mig_bench" / "revised_MIG_bench.json"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def qwen2_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Qwen2-VL-7B's stored outputs as predictions; stored by task, each task in the file's order."""
    stored: dict[str, Iterator[Any]] = {}
    for path in (GOLDEN / "mig_bench" / "qwen2_vl").glob("*.json"):
        *rows, _ = read(path)
        stored[rows[0]["task"]] = iter(rows)
    lines = []
    for index, record in enumerate(read(REVISED)):
        row = next(stored[record["task"]])
        assert row["groundtruth"] == record["answer"]
        lines.append(json.dumps({"uid": f"mig_bench:{index}", "completion": row["answer"]}))
    path = tmp_path_factory.mktemp("qwen2_vl") / "predictions.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_both_versions_of_mig_bench_have_their_published_counts_and_defects() -> None:
    revised = BENCHMARKS["mig_bench"].load(REVISED, GOLDEN, "mig_bench")
    assert (revised.version, len(revised.items)) == ("revised", 4276)
    assert {kind: len(uids) for kind, uids in revised.defects.items()} == {"asked_twice": 4, "image_not_trusted": 126}
    original = BENCHMARKS["mig_bench"].load(GOLDEN / "mig_bench" / "MIG_data.json", GOLDEN, "mig_bench")
    assert (original.version, len(original.items)) == ("original", 4295)
    assert original.defects["inverted"] == tuple(f"mig_bench:{i}" for i in (7, 105, 126, 163, 512))
    assert original.defects["out_of_range"] == ("mig_bench:34", "mig_bench:703")
    tasks = Counter(item.sample.task for item in original.items)
    assert (tasks["region"], tasks["group_grounding"], tasks["view_diff"]) == (1203, 499, 94)


def test_qwen2_vl_on_the_revised_file_has_the_official_scores(qwen2_vl: Path) -> None:
    report = rescore_file("mig_bench", REVISED, qwen2_vl, ScoreSettings(), GOLDEN)
    metrics = {name: round(metric["macro"], 2) for name, metric in report["metrics"].items()}
    assert metrics == {"acc_70": 18.19, "acc_50": 30.02, "acc_30": 41.75, "mean_iou": 30.90}
    assert round(report["micro"], 2) == 28.72
    for path in (GOLDEN / "mig_bench" / "qwen2_vl").glob("*.json"):
        for task, official in read(path)[-1].items():
            cell = report["tasks"][task]
            assert cell["n"] == official["TOTAL"]
            for key, name in (
                ("accuracy", "IOU@0.5"),
                ("acc_30", "IOU@0.3"),
                ("acc_70", "IOU@0.7"),
                ("mean_iou", "AVE_IOU"),
            ):
                assert cell[key] == pytest.approx(100 * official[name] / official["TOTAL"], abs=1e-4)


def test_qwen2_vl_s_stored_outputs_agree_with_its_published_level_and_in_every_digit_with_their_summary(
    qwen2_vl: Path,
) -> None:
    peer = pick_peer(load_peers(), "qwen2_vl_7b/mig_bench")
    found = read_stored(peer, REVISED, qwen2_vl, GOLDEN)
    assert (found.verdict, found.n, round(found.measured or 0, 2)) == ("agrees", 4276, 30.02)
    official = {
        task: 100 * summary["IOU@0.5"] / summary["TOTAL"]
        for path in (GOLDEN / "mig_bench" / "qwen2_vl").glob("*.json")
        for task, summary in read(path)[-1].items()
    }
    assert found.tasks == {task: round(accuracy, 4) for task, accuracy in official.items()} and len(found.tasks) == 10


def test_the_form_of_the_record_is_what_the_stored_questions_were_asked_with() -> None:
    form = pick_peer(load_peers(), "qwen2_vl_7b/mig_bench").asked.form
    assert form is not None
    asked = [row["question"] for path in (GOLDEN / "mig_bench" / "qwen2_vl").glob("*.json") for row in read(path)[:-1]]
    made = [form.text.replace("{question}", record["question"]) for record in read(REVISED)]
    assert Counter(asked) == Counter(made)


def test_gpt4o_on_blink_agrees_with_every_official_letter_that_the_rule_decides() -> None:
    rows = [row for path in sorted((GOLDEN / "blink" / "gpt4o").glob("*.json")) for row in read(path)]
    parse: Any = BENCHMARKS["blink"].parsers["compat"]
    annotations = BENCHMARKS["blink"].load(GOLDEN / "blink" / "val_answers.json", GOLDEN, "blink")
    from migrl.benchmarks.readings import ChoiceQuestion

    options = {item.sample.uid: item.sample.target.options for item in annotations.items}  # type: ignore[union-attr]
    outcomes: Counter[str] = Counter()
    for row in rows:
        letter = parse(row["full_prediction"], ChoiceQuestion(options[f"blink:{row['idx']}"])).letter
        if letter is None:
            outcomes["left to the matcher, " + ("failed" if "Z" in row["prediction"] else "matched")] += 1
        else:
            outcomes["same" if row["prediction"] == f"({letter})" else "other"] += 1
    assert outcomes == {"same": 1636, "left to the matcher, matched": 261, "left to the matcher, failed": 4}
    assert annotations.version == "val, old labels of Relative_Reflectance"
