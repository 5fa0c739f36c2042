"""Writes benchmark_prompts.json: the exact messages of one sample of every task of every benchmark. On purpose only:

    python tests/golden/make_benchmark_prompts.py [FOLDER OF THE PUBLISHED FILES]

The samples are our own, in the published formats. With the published files at hand (their folder is the argument),
the hash of every prompt of MIG-Bench is written as well, task by task.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark_files import (  # noqa: E402 - the path above makes it importable when run as a script
    make_blink_row,
    make_grounding_record,
    make_mig_record,
    make_mmiu_row,
    make_muirbench_row,
    write_json,
    write_parquet,
    write_pictures,
)

from migrl.benchmarks import BENCHMARKS  # noqa: E402
from migrl.benchmarks.mig_bench import TASKS  # noqa: E402
from migrl.grounding.prompts import build_messages, quote_boxes  # noqa: E402
from migrl.grounding.samples import Sample  # noqa: E402

GOLDEN = Path(__file__).with_name("benchmark_prompts.json")
HASHES = Path(__file__).with_name("mig_bench_prompt_hashes.json")
ORIGINAL_SIZE, RESIZED_SIZE = (1000, 600), (812, 476)  # what 401,408 px leave of it


def render(sample: Sample) -> list[dict[str, Any]]:
    """Messages of a sample whose images all have the size above, boxes quoted in resized pixels."""
    question = quote_boxes(sample.question, "resized_px", original_size=ORIGINAL_SIZE, resized_size=RESIZED_SIZE)
    return build_messages(question, len(sample.images), "think", "choice" if sample.kind == "choice" else "box")


def render_prompts() -> dict[str, Any]:
    """Messages by benchmark and task."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, ["lisa/a.png", "a.png", "clip/0.png", "clip/1.png", "clip/2.png"])
        files = {"mig_bench": write_json(folder / "mig.json", [make_mig_record(task) for task in TASKS])}
        for grounding in ("lisa_val", "lisa_test", "llmseg", "revos", "reasonvos"):
            files[grounding] = write_json(folder / f"{grounding}.json", [make_grounding_record(grounding)])
        files["blink"] = write_parquet(folder / "val-0.parquet", [make_blink_row()])
        files["mmiu"] = write_json(folder / "mmiu.json", [make_mmiu_row()])
        files["muirbench"] = write_parquet(folder / "test-0.parquet", [make_muirbench_row()])
        return {
            f"{name}/{item.sample.task}": render(item.sample)
            for name, path in files.items()
            for item in BENCHMARKS[name].load(path, folder, name).items
        }


def hash_published(folder: Path) -> dict[str, dict[str, str]]:
    """One hash a version and task over all prompts of the published MIG-Bench files."""
    hashes: dict[str, dict[str, str]] = {}
    for path in (folder / "mig_bench" / "MIG_data.json", folder / "mig_bench" / "revised_MIG_bench.json"):
        annotations = BENCHMARKS["mig_bench"].load(path, folder, "mig_bench")
        digests = {task: hashlib.sha256() for task in TASKS}
        for item in annotations.items:
            digests[item.sample.task].update(json.dumps(render(item.sample)).encode())
        hashes[annotations.version] = {task: digest.hexdigest()[:16] for task, digest in digests.items()}
    return hashes


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(render_prompts(), indent=1) + "\n")
    if len(sys.argv) > 1:
        HASHES.write_text(json.dumps(hash_published(Path(sys.argv[1])), indent=1) + "\n")
