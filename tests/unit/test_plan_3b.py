"""The paper's recipe at 3B: what its header says of one GPU of 80, 48 and 24 GB is what `migrl plan` computes."""

import re
from pathlib import Path
from typing import Any

import pytest

from migrl.plan.build import Plan, build_plan
from migrl.plan.machine import GpuOptions
from migrl.recipe import load_recipe
from migrl.recipe.section import dump_whole

RECIPES = Path(__file__).resolve().parents[2] / "reproduce" / "recipes"
PATH = RECIPES / "paper_3b.yaml"
HEADER = re.split(r"^name:", PATH.read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
SMALL = re.findall(r"[a-z_.]+=\S+", HEADER)
"""What the header changes for 24 GB."""


def plan(tmp_path: Path, gpu: str, overrides: list[str], memory: float | None = None) -> Plan:
    options = GpuOptions(gpus=1, memory_gb=memory, name=gpu)
    return build_plan(load_recipe(PATH, overrides), tmp_path / "runs", tmp_path / "results", options)


@pytest.mark.parametrize(("gpu", "days"), [("H100", 1), ("A100 40GB", 3), ("L40S", 3.1)])
def test_it_fits_one_gpu_of_80_or_48_or_40_gb_as_it_stands(gpu: str, days: float, tmp_path: Path) -> None:
    made = plan(tmp_path, gpu, [])
    assert made.refusals == () and made.totals.gpu_hours[1] < 24 * days


def test_for_24_gb_plan_names_the_keys_and_with_the_headers_it_fits(tmp_path: Path) -> None:
    refusals = plan(tmp_path, "RTX 4090", []).refusals
    assert [text.partition(":")[0] for text in refusals] == ["synthesize", "grpo"]
    assert "grpo.per_device_train_batch_size" in refusals[1] and "grpo.max_pixels" in refusals[1]
    made = plan(tmp_path, "RTX 4090", SMALL)
    assert made.refusals == () and made.totals.gpu_hours[1] < 24 * 5
    for left_out in SMALL[:2]:  # none of the two that a training step needs is there for nothing
        assert plan(tmp_path, "RTX 4090", [key for key in SMALL if key != left_out]).refusals, left_out


def test_it_is_the_papers_recipe_but_for_model_teacher_and_machine() -> None:
    def flatten(data: Any, before: str = "") -> dict[str, Any]:
        if not isinstance(data, dict):
            return {before: data}
        return {key: value for name, own in data.items() for key, value in flatten(own, f"{before}.{name}").items()}

    small, paper = (flatten(dump_whole(load_recipe(RECIPES / f"{name}.yaml"))) for name in ("paper_3b", "paper"))
    changed = {key.lstrip(".") for key in small.keys() | paper.keys() if small.get(key) != paper.get(key)}
    teacher = {f"synthesize.teacher.{key}" for key in ("model", "revision", "tensor_parallel")}
    assert changed == {"name", "claims", "model.path", "model.revision", *teacher, "launch.processes"}
