"""Reference runs: whose runs they are, and where a new run must lie."""

import json
from pathlib import Path

import pytest
from claim_rows import make_claim, make_rows

from migrl.errors import UserError
from migrl.recipe import load_recipe
from migrl.references import compare_with_reference, load_references, read_reference_deltas
from migrl.verdicts import judge_claims

TINY = Path(__file__).resolve().parents[2] / "reproduce" / "recipes" / "tiny.yaml"


def test_a_new_run_is_compared_with_the_prediction_interval_of_the_reference_runs() -> None:
    inside = compare_with_reference(11.0, [10.0, 12.0])
    # mean 11, sd sqrt(2), t(1) = 12.7062: 11 +- 12.7062 * sqrt(2) * sqrt(1.5)
    assert (inside["prediction_low"], inside["prediction_high"]) == pytest.approx((-11.0078, 33.0078), abs=1e-3)
    assert inside["inside"] is True
    assert compare_with_reference(50.0, [10.0, 12.0])["inside"] is False
    assert compare_with_reference(11.0, [10.0])["inside"] is None


def test_reference_deltas_are_read_by_seed_and_stand_beside_the_verdict(tmp_path: Path) -> None:
    for seed, delta in ((10, 3.0), (9, 2.0), (11, None)):
        (tmp_path / f"seed_{seed}").mkdir()
        (tmp_path / f"seed_{seed}" / "claims.json").write_text(json.dumps([{"id": "c", "delta": delta}]))
    deltas = read_reference_deltas(tmp_path)
    assert deltas == {"c": [2.0, 3.0]}
    rows = make_rows("rl", {"one/a": [True] * 9 + [False]}) + make_rows("sft", {"one/a": [False] * 9 + [True]})
    entry = judge_claims([make_claim()], rows, deltas)[0]
    assert entry["reference"]["deltas"] == [2.0, 3.0]
    assert entry["verdict"] == judge_claims([make_claim()], rows)[0]["verdict"] == "reproduced"
    (tmp_path / "seed_12").mkdir()
    with pytest.raises(UserError, match=r"seed_12.*no such file"):
        read_reference_deltas(tmp_path)


def test_runs_of_another_recipe_are_no_reference(tmp_path: Path) -> None:
    (tmp_path / "seed_8").mkdir()
    (tmp_path / "seed_8" / "claims.json").write_text(json.dumps([{"id": "c", "delta": 2.0}]))
    recipe = load_recipe(TINY)
    with pytest.raises(UserError, match=r"recipe\.json.*no such file"):
        load_references(tmp_path, recipe)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe.model_dump(mode="json")))
    for seeds in (["grpo.seed=3", "source.seed=3"], ["evaluate.batch=64"]):
        assert load_references(tmp_path, load_recipe(TINY, seeds))["deltas"] == {"c": [2.0]}
    other = load_references(tmp_path, load_recipe(TINY, ["grpo.steps=5"]))
    assert other == {"deltas": {}, "note": "the reference runs had another grpo.steps"}
    assert load_references(tmp_path / "none", recipe)["deltas"] == {}
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(UserError, match="not a recipe"):
        load_references(tmp_path, recipe)
