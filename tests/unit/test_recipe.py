"""Recipes: the same keys everywhere, nothing unknown, arithmetic checked before anything loads."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from migrl.errors import UserError
from migrl.recipe import Recipe, dump_whole, list_keys, load_recipe
from migrl.recipe.sources import WorldSet
from migrl.world.tasks import SETS

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
    ("name", "override", "message"),
    [
        ("paper", "source.training.revison=x", "did you mean 'model.revision'?"),
        ("paper", "source.training.task=[]", "did you mean 'source.training.tasks'?"),
        ("paper", "source.training.mgrounding=1", "key 'source.training.mgrounding' is unknown"),
        ("paper", "synthesize.teacher.tensor_paralel=2", "did you mean 'synthesize.teacher.tensor_parallel'?"),
        ("tiny", "select.temperature=0", "did you mean 'sampling.temperature'?"),
        ("tiny", "gpro.steps=5", "key 'gpro' is unknown; did you mean 'grpo'?"),
        ("tiny", "source.world=1", "key 'source.world' is unknown"),
        ("tiny", "source.benchmarks=[]", "for source.kind=hub, and this recipe has source.kind=world"),
        ("tiny", "source.training={kind: univg}", "'source.training' is for source.kind=hub"),
        ("paper", "source.training.single_image=true", "is for source.training.kind=univg, and this recipe has"),
        ("paper", "synthesize.teacher.base_url=x", "is for synthesize.teacher.engine=server, and this"),
        ("tiny", "synthesize.teacher.model=x", "is for synthesize.teacher.engine=transformers or vllm or"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_told_its_neighbour_or_the_kind_that_has_it(name: str, override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(RECIPES / f"{name}.yaml", [override])
    assert message in str(caught.value)
    key = override.split("=")[0]
    assert f"did you mean {key!r}" not in str(caught.value)


def list_numbers(data: Any, prefix: str = "") -> list[str]:
    """The dotted keys of a recipe's data that hold a number."""
    if isinstance(data, dict):
        return [key for name, value in data.items() for key in list_numbers(value, f"{prefix}.{name}".lstrip("."))]
    return [prefix] if isinstance(data, int | float) and not isinstance(data, bool) else []


@pytest.mark.parametrize("name", ["tiny", "paper"])
def test_what_is_no_number_is_taken_for_none_of_a_recipe(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    keys = list_numbers(dump_whole(load_recipe(path)))
    assert {"grpo.learning_rate", "grpo.alarms.kl", "sft.lora.rank", "launch.port", "resamples"} <= set(keys)
    for key in keys:
        for value in (".nan", "nan", "-.inf", "1e400", "true", "-1", "many"):
            with pytest.raises(UserError, match=f"key '{key}'"):
                load_recipe(path, [f"{key}={value}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.temperature=0", "0 is greedy, so that all rollouts of a sample would be one text"),
        ("sampling.temperature=2.1", "less than or equal to 2"),
        ("sft.learning_rate=0", "greater than 0"),
        ("grpo.learning_rate=3", "less than or equal to 1"),
        ("grpo.epsilon=0", "greater than 0"),
        ("grpo.epsilon=1", "less than 1"),
        ("grpo.max_grad_norm=0", "greater than 0"),
        ("sft.lora.dropout=1", "less than 1"),
        ("grpo.warmup_ratio=1.1", "less than or equal to 1"),
        ("grpo.alarms.collapse=0", "greater than 0"),
        ("watch.load_minutes=0", "greater than 0"),
        ("source.seed=4294967296", "less than 4294967296"),
        ("source.eval_per_task={mini_mig: true}", "key 'source.eval_per_task.mini_mig'"),
        ("source.eval_per_task={mini_mog: 3}", "key 'source.eval_per_task.mini_mog'"),
        ("evaluate.arms=[]", "at least 1"),
        ("synthesize.teacher.leaked_truth=.nan", "teacher.leaked_truth': Input should be a finite number"),
        ("synthesize.teacher={engine: server, model: m, reply_seconds: .inf}", "key 'synthesize.teacher.reply_"),
        ("synthesize.teacher={engine: server, model: m, price_per_million_input: -1}", "key 'synthesize.teacher.pri"),
        ("synthesize.teacher={engine: vllm, model: m, memory: 0}", "key 'synthesize.teacher.memory'"),
    ],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_with_its_range(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(TINY, [override])
    assert message in str(caught.value)


def test_a_recipe_that_rewards_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="nothing is rewarded"):
        load_recipe(TINY, ["grpo.rewards=[{name: hit, weight: 0}]"])
    with pytest.raises(UserError, match="every reward at most once"):
        load_recipe(TINY, ["grpo.rewards=[{name: hit, weight: 1}, {name: hit, weight: 2}]"])
    third = "grpo.rewards=[{name: accuracy, weight: 1}, {name: format, weight: 0}, {name: truncation, weight: 0.5}]"
    assert len(load_recipe(TINY, [third]).grpo.rewards) == 3


def test_every_process_of_grpo_has_a_seed_that_numpy_takes() -> None:
    load_recipe(TINY, ["grpo.seed=4294967295"])
    for key in ("grpo.seed=4294967295", "seeds=[4294967295]"):
        with pytest.raises(UserError, match="seed 4294967295: .* use 4294967294 or less"):
            load_recipe(TINY, [key, "launch.processes=2"])


def test_the_worlds_sets_have_the_names_that_a_recipe_may_use() -> None:
    assert set(get_args(WorldSet)) == set(SETS)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.num_generations=3", "legal values: 1, 2, 3, 4, 6, 8, 12, 16, 24, 48"),
        ("sft.per_device_train_batch_size=5", "legal values: 1, 2, 4, 8, 16"),
        ("grpo.save_only_model=true", "cannot resume"),
        ("evaluate.arms=[base, base]", "at most once"),
        ("sampling.temperature=hot", "sampling.temperature"),
        ("evaluate.max_pixels=500", "evaluate.max_pixels=500 is less than a cell of 28 x 28; use 784 or more"),
        ("model.min_pixels=10000", "sft.max_pixels=9600 is below model.min_pixels=10000"),
        ("grpo", "write it as key=value"),
        ("grpo.max_steps.more=1", "holds a value"),
    ],
)
def test_impossible_settings_are_refused_with_a_remedy(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(TINY, [override])
    assert message in str(caught.value)


def test_a_missing_recipe_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="paper, paper_3b, rehearsal, test, tiny"):
        load_recipe(RECIPES / "huge.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not YAML"):
        load_recipe(tmp_path / "broken.yaml")


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data = yaml.safe_load(TINY.read_text())
    del data["grpo"]["max_steps"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(UserError, match="key 'grpo.max_steps' is missing"):
        load_recipe(tmp_path / "tiny.yaml")


def test_a_teachers_weights_are_fetched_only_where_something_is_trained() -> None:
    paper = load_recipe(RECIPES / "paper.yaml")
    assert paper.local_teacher is not None and paper.local_teacher.model == "Qwen/Qwen2.5-VL-72B-Instruct"
    assert load_recipe(RECIPES / "paper.yaml", ["source.training=null"]).local_teacher is None
    assert load_recipe(RECIPES / "tiny.yaml").local_teacher is None
