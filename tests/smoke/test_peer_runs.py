"""Published checkpoints, on tiny ones: from the weights of two families to the verdict on a level, by one command."""

import json
from pathlib import Path

import pytest
import yaml
from architectures import QWEN2_VL, write_untrained
from smoke_run import ROOT, call_migrl
from test_published_benchmarks import write_catalog, write_hub

from migrl.grounding.prompts import build_own_messages, hash_messages
from migrl.peers import PEERS_FILE, load_peers
from migrl.scoring.rows import load_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers")
    write_hub(folder / "hub")
    write_catalog(folder / "catalog.yaml")
    write_untrained(folder / "qwen2_vl", QWEN2_VL)
    write_records(folder)
    return folder


def write_records(folder: Path) -> None:
    """The committed file with tiny weights in place of its checkpoints, and what one is bound to answer: nothing."""
    file = yaml.safe_load(PEERS_FILE.read_text())
    file["checkpoints"] = {
        "tiny_2": {"path": str(folder / "qwen2_vl"), "revision": None, "family": "Qwen2-VL", "frame": "permille"},
        "tiny_2_5": {
            "path": str(ROOT / "reproduce/tiny_base"),
            "revision": None,
            "family": "Qwen2.5-VL",
            "frame": "resized_px",
        },
        "away": {"path": "someone/away", "revision": "a" * 40, "family": "Qwen2-VL", "frame": "permille"},
    }
    asked = (
        *(("tiny_2", "mig_bench", "mig_revised_univg", 0.5), ("tiny_2", "lisa_val", "zero_shot_image", 99.0)),
        *(("tiny_2_5", "mig_bench", "mig_revised_pixels", 99.0), ("away", "mig_bench", "mig_revised", 30.2)),
    )
    file["peers"] = [
        {"checkpoint": name, "benchmark": on, "protocol": how, "level": {"stated": stated, "source": "made up"}}
        for name, on, how, stated in asked
    ]
    (folder / "peers.yaml").write_text(yaml.safe_dump(file))


def test_every_record_ends_in_a_verdict_and_what_cannot_run_says_why(place: Path) -> None:
    keys = [f"source.{key}={place / name}" for key, name in (("catalog", "catalog.yaml"), ("downloads", "downloads"))]
    keys += [f"source.offline={place / 'hub'}", "model.dtype=float32", "evaluate.max_new_tokens=8"]
    places = ["--peers", place / "peers.yaml", "--runs", place / "runs", "--results", place / "results"]
    result = call_migrl("peers", *places, *keys)
    # Of the two that differ, the other one's authors did not say how they asked.
    assert "error: tiny_2/lisa_val: not the published level" in result.stderr, result.stdout + result.stderr[-3000:]
    assert result.returncode == 1
    found = {one["name"]: one for one in json.loads((place / "results/peers/peers.json").read_text())}
    assert {name: one["verdict"] for name, one in found.items()} == {
        "tiny_2/mig_bench": "agrees",
        "tiny_2/lisa_val": "differs",
        "tiny_2_5/mig_bench": "differs",
        "away/mig_bench": "not run",
    }
    assert (found["tiny_2/mig_bench"]["n"], len(found["tiny_2/mig_bench"]["tasks"])) == (10, 10)
    assert found["tiny_2/mig_bench"]["device"] == "cpu" and "someone/away" in found["away/mig_bench"]["reason"]
    page = (place / "results/peers/README.md").read_text()
    assert "1 agrees, 2 differs, 1 not run" in page

    peer = load_peers(place / "peers.yaml")[0]
    rows = load_rows(place / "runs/peers/tiny_2-mig_bench/evaluate/samples.jsonl")
    form = peer.asked.form
    assert form is not None
    for row in rows:  # asked in the authors' words, and in their frame
        messages = build_own_messages(row.sample.question, len(row.sample.images), form.text, form.lead)
        assert (row.prompt_hash, row.frame) == (hash_messages(messages), "permille")
    [told] = json.loads((place / "runs/peers/tiny_2-mig_bench/evaluate/evaluations.json").read_text())
    assert (told["max_pixels"], told["max_new_tokens"], told["decoding"]["source"]) == (401408, 8, "checkpoint")
