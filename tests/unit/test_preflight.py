"""What a stage needs of the machine is asked before it starts, and once for a whole run."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from migrl.errors import UserError
from migrl.recipe import load_recipe
from migrl.running.preflight import list_packages, refuse_without_packages

RECIPES = Path(__file__).resolve().parents[2] / "reproduce" / "recipes"


def test_a_whole_run_is_asked_for_every_package_and_a_stage_for_its_own() -> None:
    paper = load_recipe(RECIPES / "paper.yaml", ["grpo.engine=vllm"])
    assert list_packages("fetch", paper, whole=True).keys() == {"flash_attn", "vllm"}
    assert list_packages("fetch", paper, whole=False) == {}
    assert list_packages("synthesize", paper, whole=False).keys() == {"vllm"}
    assert list_packages("sft", paper, whole=False).keys() == {"flash_attn"}
    assert list_packages("grpo_no_selection", paper, whole=False).keys() == {"flash_attn", "vllm"}
    trained_alone = ["source.training=null", "evaluate.engine=transformers", "grpo.engine=vllm"]
    base_alone = load_recipe(RECIPES / "paper.yaml", trained_alone)
    assert list_packages("fetch", base_alone, whole=True) == {"flash_attn": "model.attention=flash_attention_2"}
    assert list_packages("fetch", load_recipe(RECIPES / "tiny.yaml"), whole=True) == {}


@pytest.mark.parametrize("stage", ["select", "pass_rates", "grpo", "evaluate"])
def test_a_missing_package_or_another_release_is_an_error_that_says_how_to_get_it(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ["pass_rates={samples: 2}", f"{'select' if stage == 'pass_rates' else stage}.engine=vllm"]
    recipe = load_recipe(RECIPES / "test.yaml", keys)
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match=f"stage {stage}: .*engine=vllm needs the package vllm.*make setup-gpu"):
            refuse_without_packages(stage, recipe, whole=False)
    for release in ("0.30.2", "0.31.4"):
        package = tmp_path / release
        (package / "vllm").mkdir(parents=True)
        (package / "vllm" / "__init__.py").touch()
        metadata = package / f"vllm-{release}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n")
    monkeypatch.syspath_prepend(tmp_path / "0.30.2")
    with pytest.raises(
        UserError, match=rf"stage {stage}: .*engine=vllm needs vllm 0\.31\.\*, and 0\.30\.2 is here; `make"
    ):
        refuse_without_packages(stage, recipe, whole=False)
    monkeypatch.syspath_prepend(tmp_path / "0.31.4")
    refuse_without_packages(stage, recipe, whole=False)
    refuse_without_packages("sft", recipe, whole=False)
