"""The GPU kit, shrunken for a processor: every part is measured by the code that measures it on a GPU."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from smoke_run import ROOT, call_migrl, start

KIT = ROOT / "perf" / "gpu.py"
PARTS = [
    *(
        "ceilings",
        "rollouts, 2 pictures",
        "grpo",
        "sft",
        "grpo, stock trl",
        "attention of a pack",
        "evaluate",
        "rollouts, adapter",
    ),
    *("rollouts, 1 pictures", "rollouts, 3 pictures"),
]


def call_kit(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return start("--tiny", "--results", folder / "rehearsal", *arguments, program=KIT).wait()


def read_parts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "rehearsal/measurements.json").read_text())["cards"]["cpu"]["parts"]
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with all parts."""
    folder = tmp_path_factory.mktemp("kit")
    result = call_kit(folder)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    for name in PARTS:
        assert f"{name}: " in result.stdout
    return folder


def test_every_part_is_measured_in_the_order_of_its_value(measured: Path) -> None:
    parts = read_parts(measured)
    assert list(parts) == PARTS
    bounds = set()
    for name, part in parts.items():
        assert part["complete"] and "skipped" not in part, (name, part)
        assert part["conditions"]["versions"]["torch"] and part["conditions"]["dtype"] == "float32"
        for figure in part["figures"].values():
            assert min(figure["seconds"]) > 0 and len(figure["seconds"]) >= 2
            if "bound" in figure:
                bounds.add(figure["bound"])
                assert 0 < figure["formula"]["low"] <= figure["formula"]["high"], (name, figure)
    assert bounds == {"train_lora", "prefill", "decode_transformers", "decode_adapter"}
    phases = parts["evaluate"]["figures"]
    times = {phase: figure["seconds"][0] for phase, figure in phases.items()}
    whole = sum(times[phase] for phase in ("preparing", "vision", "prefill", "decoding"))
    assert times["whole"] == pytest.approx(whole, rel=0.05) and times["reading"] > times["vision"]


def test_the_page_and_the_seal_follow_and_no_plan_for_a_gpu_uses_it(measured: Path) -> None:
    assert call_migrl("verify", measured).returncode == 0
    report = (measured / "rehearsal/report.md").read_text()
    assert "no figure here speaks for a GPU" in report and "| sft: step |" in report
    planned = call_migrl("plan", "--gpus", "8", "--gpu", "H100", "--json", "--results", measured)
    assert "nothing was measured on a GPU" in " ".join(json.loads(planned.stdout)["notes"])


def test_what_was_cut_off_is_completed_and_what_has_other_settings_is_measured_again(measured: Path) -> None:
    path = measured / "rehearsal/measurements.json"
    data = json.loads(path.read_text())
    parts = data["cards"]["cpu"]["parts"]
    del parts["ceilings"]
    parts["evaluate"]["complete"] = False
    path.write_text(json.dumps(data))
    result = call_kit(measured, "sft.per_device_train_batch_size=1")
    assert result.returncode == 0, result.stderr[-4000:]
    found = read_parts(measured)
    assert {name for name in PARTS if found[name] != parts.get(name)} == {"ceilings", "evaluate", "sft"}
    assert all(part["complete"] for part in found.values())
    assert found["sft"]["conditions"]["settings"]["per_device_train_batch_size"] == 1


def test_the_kit_stops_when_its_time_is_spent_and_says_what_is_missing(tmp_path: Path) -> None:
    result = call_kit(tmp_path, "--seconds", "0.1")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "not measured within 0.1 s: ceilings, rollouts, 2 pictures" in " ".join(result.stdout.split())
    assert not (tmp_path / "rehearsal/measurements.json").exists()


def test_without_a_gpu_only_the_tiny_kit_runs() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    result = start(program=KIT).wait()
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith("error: perf/gpu.py: no GPU here")
