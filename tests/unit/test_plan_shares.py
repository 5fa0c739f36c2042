"""Shares of a GPU's peaks that `make gpu` measured: used where all that decides them is the plan's, else named."""

from pathlib import Path
from typing import Any

import pytest

from migrl.errors import UserError
from migrl.evidence.measurements import MEASUREMENTS, add_part, write_cards
from migrl.evidence.seal import write_tree
from migrl.evidence.verify import verify
from migrl.files import write_json
from migrl.plan.assumptions import load_assumptions
from migrl.plan.build import Plan, build_plan
from migrl.plan.machine import GpuOptions
from migrl.recipe import load_recipe
from migrl.report.gpu_parts import Card, Conditions, Figure, Part

ROOT = Path(__file__).resolve().parents[2]
EIGHT = GpuOptions(gpus=8, memory_gb=80, name="NVIDIA H100 80GB HBM3")
CARD = "NVIDIA H100 80GB HBM3"
TRANSFORMERS = ("select.engine=transformers", "evaluate.engine=transformers", "grpo.engine=transformers")
PEAK, BANDWIDTH = 989.4e12, 3.35e12
CONDITIONS = Conditions(
    dtype="bfloat16",
    attention="flash_attention_2",
    shapes="reproduce/shapes/qwen2_5_vl_7b.json",
    settings={},
    driver="580.1",
    versions={"torch": "2.11.0"},
)
FIGURES = {
    "step": Figure(what="training", seconds=(2.0, 1.0, 3.0), flops=0.5 * PEAK, bound="train_lora"),
    "long": Figure(what="training", seconds=(1.0,), flops=0.3 * PEAK, bound="train_lora"),
    "reading": Figure(what="prompts", seconds=(1.0,), flops=0.4 * PEAK, bound="prefill"),
    "decoding": Figure(what="answers", seconds=(1.0,), bytes=0.2 * BANDWIDTH, bound="decode_transformers"),
    "adapter": Figure(what="answers", seconds=(1.0,), bytes=0.1 * BANDWIDTH, bound="decode_adapter"),
}


def write_part(results: Path, device: str = CARD, **changes: Any) -> Path:
    """Results with one part of a card; return their root."""
    conditions = CONDITIONS.model_copy(update={k: v for k, v in changes.items() if k in Conditions.model_fields})
    figures = changes.get("figures", FIGURES)
    part = Part(conditions=conditions, revision="a" * 40, dirty=False, complete=True, figures=figures)
    add_part(results / "rehearsal", device, 80.0, "everything", part)
    return results


def plan(tmp_path: Path, results: Path, *overrides: str, options: GpuOptions = EIGHT) -> Plan:
    recipe = load_recipe(ROOT / "reproduce/recipes/paper.yaml", [*TRANSFORMERS, *overrides])
    return build_plan(recipe, tmp_path / "runs", results, options)


def list_bases(made: Plan) -> dict[str, str]:
    return {stage.name: stage.duration.basis for stage in made.stages if stage.duration is not None}


def test_measured_shares_take_the_place_of_assumed_ones(tmp_path: Path) -> None:
    assumed = {stage.name: stage.duration for stage in plan(tmp_path, tmp_path / "none").stages}
    made = plan(tmp_path, write_part(tmp_path / "results"))
    bases = list_bases(made)
    assert bases.pop("synthesize") == "assumed"  # by vLLM, which the kit does not measure
    assert set(bases.values()) == {"measured"} and {"sft", "select", "grpo", "evaluate"} <= bases.keys()
    sft = {stage.name: stage for stage in made.stages}["sft"].duration
    low, high = load_assumptions().efficiency.train_lora.range
    # From 25 to 30 % of the peak, where 15 to 35 % are assumed.
    assert sft.low == pytest.approx(assumed["sft"].low * high / 0.30)
    assert sft.high == pytest.approx(assumed["sft"].high * low / 0.25)
    assert f"parts measured on {CARD}" in made.notes[0]


@pytest.mark.parametrize(
    ("changes", "overrides", "said"),
    [
        ({"attention": "sdpa"}, [], "not used: bfloat16 with sdpa"),
        ({}, ["model.attention=sdpa"], "not used: bfloat16 with flash_attention_2"),
        ({"shapes": "reproduce/shapes/qwen2_5_vl_72b.json"}, [], "not used: reproduce/shapes/qwen2_5_vl_72b.json"),
        ({"device": "NVIDIA H200"}, [], "parts measured on NVIDIA H200, not on H100 SXM, so not used"),
    ],
)
def test_a_share_of_something_else_is_not_used_and_the_plan_says_so(
    changes: dict[str, Any], overrides: list[str], said: str, tmp_path: Path
) -> None:
    made = plan(tmp_path, write_part(tmp_path / "results", **changes), *overrides)
    assert said in made.notes[0] and set(list_bases(made).values()) == {"assumed"}


def test_more_than_the_whole_peak_is_a_fault_of_the_peak(tmp_path: Path) -> None:
    figure = Figure(what="too good", seconds=(1.0,), flops=1.2 * PEAK, bound="prefill")
    with pytest.raises(UserError, match=r"gpus\.yaml: prefill was measured at 1\.20 of the peak"):
        plan(tmp_path, write_part(tmp_path / "results", figures={"reading": figure}))


def test_a_folder_of_parts_verifies_and_a_changed_figure_is_found(tmp_path: Path) -> None:
    results = write_part(tmp_path / "results")
    write_tree(results)
    assert verify(results).differences == [] and verify(results / "rehearsal").differences == []
    write_json(results / "rehearsal" / MEASUREMENTS, {"cards": {}})
    differences = verify(results).differences
    assert any("report.md: is not what measurements.json gives" in sentence for sentence in differences)
    assert any("measurements.json: changed" in sentence for sentence in differences)


def test_a_processors_figures_speak_for_no_gpu(tmp_path: Path) -> None:
    part = Part(conditions=CONDITIONS, revision=None, dirty=None, complete=True, figures=FIGURES)
    write_cards(tmp_path / "results/rehearsal", {CARD: Card(memory_gb=0, parts={"everything": part})})
    assert "no figure here speaks for a GPU" in (tmp_path / "results/rehearsal/report.md").read_text()
    assert set(list_bases(plan(tmp_path, tmp_path / "results")).values()) == {"assumed"}
