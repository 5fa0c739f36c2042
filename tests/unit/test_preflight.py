"""What a stage needs of the machine is asked before it starts, and once for a whole run."""

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
    base_alone = load_recipe(RECIPES / "paper.yaml", ["source.training=null"])
    assert list_packages("fetch", base_alone, whole=True).keys() == {"flash_attn"}
    assert list_packages("fetch", load_recipe(RECIPES / "tiny.yaml"), whole=True) == {}


def test_a_missing_package_is_an_error_that_says_how_to_get_it() -> None:
    recipe = load_recipe(RECIPES / "test.yaml", ["grpo.engine=vllm"])
    with pytest.raises(UserError, match="stage grpo: grpo.engine=vllm needs the package vllm.*make setup-gpu"):
        refuse_without_packages("grpo", recipe, whole=False)
    refuse_without_packages("sft", recipe, whole=False)
