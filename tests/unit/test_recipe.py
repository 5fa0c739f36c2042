"""Recipes: the same keys everywhere, nothing unknown, arithmetic checked before anything loads."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from migrl.errors import UserError
from migrl.recipe import Recipe, list_keys, load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "reproduce" / "recipes"
TINY = RECIPES / "tiny.yaml"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_named_after_its_file(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
def test_an_unknown_key_is_refused_with_a_legal_one(name: str) -> None:
    legal = list_keys(Recipe)
    if f"grpo.{name}" in legal:
        return
    with pytest.raises(UserError, match="unknown; did you mean") as caught:
        load_recipe(TINY, [f"grpo.{name}=1"])
    assert str(caught.value).split("did you mean '")[1].split("'")[0] in legal


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.group=3", "legal values: 1, 2, 3, 4, 6, 9, 12, 18, 36"),
        ("sft.micro_batch=5", "legal values: 1, 2, 4, 8, 16"),
        ("grpo.save_only_model=true", "cannot resume"),
        ("evaluate.arms=[base, base]", "at most once"),
        ("grpo.temperature=hot", "grpo.temperature"),
        ("evaluate.max_pixels=500", "evaluate.max_pixels=500 is less than a cell of 28 x 28; use 784 or more"),
        ("model.min_pixels=10000", "sft.max_pixels=9600 is below model.min_pixels=10000"),
        ("grpo", "write it as key=value"),
        ("grpo.steps.more=1", "holds a value"),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(TINY, [override])
    assert message in str(caught.value)


def test_a_missing_recipe_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="paper, rehearsal, test, tiny"):
        load_recipe(RECIPES / "huge.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not YAML"):
        load_recipe(tmp_path / "broken.yaml")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data = yaml.safe_load(TINY.read_text())
    del data["grpo"]["steps"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match="key 'grpo.steps' is missing"):
        load_recipe(tmp_path / "tiny.yaml")


def test_a_teachers_weights_are_fetched_only_where_something_is_trained() -> None:
    paper = load_recipe(RECIPES / "paper.yaml")
    assert paper.local_teacher is not None and paper.local_teacher.model == "Qwen/Qwen2.5-VL-72B-Instruct"
    assert load_recipe(RECIPES / "paper.yaml", ["source.training=null"]).local_teacher is None
    assert load_recipe(RECIPES / "tiny.yaml").local_teacher is None
