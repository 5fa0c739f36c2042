"""Reference runs: whose runs they are, and where a new run must lie."""

import json
from pathlib import Path
from typing import Any

import pytest
from claim_rows import judge, make_claim, make_rows

from migrl.claims.references import check_deltas, compare_with_reference, load_references, read_reference_deltas
from migrl.errors import UserError
from migrl.recipe import SEEDED_SECTIONS, load_recipe

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
    entry = judge([make_claim()], rows, deltas)[0]
    assert entry["reference"]["deltas"] == [2.0, 3.0]
    assert entry["verdict"] == judge([make_claim()], rows)[0]["verdict"] == "reproduced"
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
    other = load_references(tmp_path, load_recipe(TINY, ["grpo.max_steps=5"]))
    assert other == {"deltas": {}, "note": "the reference runs had another grpo.max_steps"}
    assert load_references(tmp_path / "none", recipe)["deltas"] == {}
    for broken in ("[]", '{"model": null}', "[" * 100_000):
        (tmp_path / "recipe.json").write_text(broken)
        with pytest.raises(UserError, match=r"recipe\.json: not a recipe"):
            load_references(tmp_path, recipe)


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    for seed in (8, 9):
        (tmp_path / f"seed_{seed}").mkdir()
        (tmp_path / f"seed_{seed}" / "claims.json").write_text(json.dumps([{"id": "c", "delta": float(seed)}]))
    (tmp_path / "recipe.json").write_text(json.dumps(load_recipe(TINY).model_dump(mode="json")))
    seeds = [f"{section}.seed=8" for section in SEEDED_SECTIONS]
    found = load_references(tmp_path, load_recipe(TINY, seeds))
    assert found == {"deltas": {"c": [9.0]}, "note": "runs of the same recipe with other seeds: seed_9"}
    # Another world, or another training: another run.
    for other in (seeds[1:], seeds[:-1]):
        assert load_references(tmp_path, load_recipe(TINY, other))["deltas"] == {"c": [8.0, 9.0]}


@pytest.mark.parametrize("delta", [10**400, float("nan"), -100.5, "9", [1]])
def test_a_delta_that_is_none_is_refused_with_its_file(tmp_path: Path, delta: Any) -> None:
    (tmp_path / "seed_8").mkdir()
    path = tmp_path / "seed_8" / "claims.json"
    path.write_text(json.dumps([{"id": "c", "delta": delta}]))
    with pytest.raises(UserError, match=r"seed_8/claims\.json: not a list of judged claims"):
        read_reference_deltas(tmp_path)
    with pytest.raises(UserError, match=r"references\.json: key 'deltas\.c\.0': Input should be"):
        check_deltas({"c": [delta]}, "references.json")
