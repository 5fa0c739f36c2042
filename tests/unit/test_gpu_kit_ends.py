"""What ends a part of the GPU kit early: a full card, a failure, the time, a torn file. The other parts go on."""

import json
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from migrl.evidence.measurements import MEASUREMENTS, read_cards
from migrl.report.gpu_parts import Conditions, Figure, Part

ROOT = Path(__file__).resolve().parents[2]
CARD = "NVIDIA H100 80GB HBM3"
CONDITIONS = Conditions(
    dtype="bfloat16", attention="sdpa", shapes="a.json", settings={}, driver="580.1", versions={"torch": "2.11.0"}
)
PLANNED = Part(conditions=CONDITIONS, revision=None, dirty=None, complete=False)


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "perf"))
    import gpu

    return gpu


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO())


def record(seconds: float, *, complete: bool = True) -> Part:
    figure = Figure(what="made up", seconds=(seconds,), flops=1e12)
    return PLANNED.model_copy(update={"figures": {"step": figure}, "complete": complete})


def run(kit: Any, folder: Path, measures: dict[str, Any], **options: Any) -> dict[str, Part]:
    """Run made-up parts on a made-up card; its parts in the file."""
    bench = SimpleNamespace(device=CARD, gpu_bytes=80 * 10**9)
    jobs = [kit.Job(name, "sdpa", measure) for name, measure in measures.items()]
    budget = kit.Budget(options.pop("seconds", 60))
    kit.run_jobs(jobs, bench, folder, budget, fresh=options.pop("fresh", False))
    return read_cards(folder)[CARD].parts


def measure_well(bench: Any, attention: str) -> Iterator[Part]:
    yield from (PLANNED, record(2.0))


def overflow(bench: Any, attention: str) -> Iterator[Part]:
    yield PLANNED
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90.00 GiB.\nmore")


def fail(bench: Any, attention: str) -> Iterator[Part]:
    yield PLANNED
    raise RuntimeError("no kernel image is available")


def test_a_part_that_does_not_fit_or_fails_says_so_and_the_others_go_on(kit: Any, tmp_path: Path) -> None:
    found = run(kit, tmp_path / "results/card", {"large": overflow, "broken": fail, "good": measure_well})
    assert found["large"].skipped == (
        "it does not fit the 80 GB of this card (CUDA out of memory. Tried to allocate 90.00 GiB.)"
    )
    assert found["broken"].skipped == "it failed: RuntimeError: no kernel image is available"
    assert found["good"].complete and found["good"].figures["step"].median == 2.0
    page = (tmp_path / "results/card/report.md").read_text()
    assert "| large | not measured: it does not fit the 80 GB of this card" in page


def test_a_part_that_is_cut_off_keeps_what_it_had_and_is_measured_again(kit: Any, tmp_path: Path) -> None:
    def hang(bench: Any, attention: str) -> Iterator[Part]:
        yield from (PLANNED, record(3.0, complete=False))
        time.sleep(60)

    found = run(kit, tmp_path / "results/card", {"slow": hang, "late": measure_well}, seconds=3)
    assert found["slow"].figures["step"].median == 3.0 and "late" not in found
    assert "slow: step (cut off)" in (tmp_path / "results/card/report.md").read_text()
    found = run(kit, tmp_path / "results/card", {"slow": measure_well, "late": measure_well})
    assert found["slow"].figures["step"].median == 2.0 and found["late"].complete


def test_a_good_figure_outlives_a_failure_and_is_measured_anew_when_asked(kit: Any, tmp_path: Path) -> None:
    run(kit, tmp_path / "results/card", {"sft": measure_well})
    assert run(kit, tmp_path / "results/card", {"sft": overflow}, fresh=True)["sft"].figures["step"].median == 2.0

    def measure_faster(bench: Any, attention: str) -> Iterator[Part]:
        yield from (PLANNED, record(1.0))

    assert run(kit, tmp_path / "results/card", {"sft": measure_faster})["sft"].figures["step"].median == 2.0
    assert run(kit, tmp_path / "results/card", {"sft": measure_faster}, fresh=True)["sft"].figures["step"].median == 1.0


def test_another_card_is_recorded_beside_the_first(kit: Any, tmp_path: Path) -> None:
    run(kit, tmp_path / "results/card", {"sft": measure_well})
    bench = SimpleNamespace(device="NVIDIA H200", gpu_bytes=141 * 10**9)
    kit.run_jobs([kit.Job("sft", "sdpa", measure_well)], bench, tmp_path / "results/card", kit.Budget(60), fresh=False)
    assert set(read_cards(tmp_path / "results/card")) == {CARD, "NVIDIA H200"}


@pytest.mark.parametrize("text", ['{"cards": {"NVIDIA', '{"cards": {"NVIDIA H100": {"parts": 1}}}', "[]", "\0"])
def test_a_file_that_cannot_be_read_is_set_aside(kit: Any, console: Console, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "results/card"
    folder.mkdir(parents=True)
    (folder / MEASUREMENTS).write_text(text)
    kit.set_torn_aside(folder, console)
    assert (tmp_path / f"results/.migrl-card.{MEASUREMENTS}.tmp").read_text() == text
    assert not (folder / MEASUREMENTS).exists()
    assert run(kit, folder, {"sft": measure_well})["sft"].complete
    assert list(json.loads((folder / MEASUREMENTS).read_text())) == ["cards"]
