"""Claims as data: the file in the repository, its form, and the verdict rule."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from claim_rows import make_claim
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from migrl.claims.claims import CLAIMS_FILE, Scope, decide_verdict, load_claims, load_levels, select_claims
from migrl.data.download import load_sources
from migrl.errors import UserError
from migrl.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "reproduce" / "recipes"


def test_the_repository_claims_every_number_that_the_paper_claims() -> None:
    paper = select_claims(load_claims(), "paper")
    numbers = {(claim.subtrahend, claim.expected, *sorted(claim.attested)) for claim in paper if claim.expected}
    assert numbers == {
        ("sft", 9.04, "v1", "v2", "v3"),
        ("sft", 4.98, "v1", "v2"),
        ("base", 3.1, "v1", "v2"),
        ("base", 2.4, "v1", "v2"),
        ("sft", 6.37, "v2"),
        ("sft", 4.41, "v3"),
    }
    assert all(claim.minuend == "rl" for claim in paper)
    # Figure 1 calls the reasoning model the best of three on all benchmarks: with the numbers, both others everywhere.
    # MC-Bench, whose data the user has to bring, aside.
    ordered = {(c.benchmarks, c.subtrahend) for c in paper if not c.gap and c.id != "paper_mc_bench"}
    assert len(ordered) == 8 and {sub for _, sub in ordered} == {"base", "sft"}
    assert [level.stated for level in load_levels()] == [51.52, 59.44, 61.18, 74.67, 49.93, 49.16, 58.49, 54.15]


def test_claims_of_another_world_or_model_are_directions(tmp_path: Path) -> None:
    tiny, small = (select_claims(load_claims(), name) for name in ("tiny", "paper_3b"))
    assert [claim.id for claim in tiny] == ["mig_bench", "out_of_domain", "blink", "mmiu", "cold_start"]
    assert all(claim.expected is None for claim in (*tiny, *small))
    assert [claim.id for claim in small] == [
        f"same_direction_at_3b_{name}" for name in ("mig_bench", "out_of_domain", "blink", "mmiu")
    ]
    path = tmp_path / "claims.yaml"
    path.write_text(
        CLAIMS_FILE.read_text().replace("    recipe: paper_3b\n", "    recipe: paper_3b\n    expected: 9.04\n", 1)
    )
    with pytest.raises(UserError, match="expected 9.04 in a claim of recipe paper_3b: .* leave it out"):
        load_claims(path)


@pytest.mark.parametrize("name", ["tiny", "paper", "paper_3b"])
def test_every_reading_can_be_scored_by_its_recipe_unless_the_claim_says_why_not(name: str) -> None:
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    source: Any = recipe.source
    benchmarks = set(source.eval_per_task if name == "tiny" else source.benchmarks)
    if name == "paper":  # what the user has to bring can be added to them
        benchmarks |= {key for key, entry in load_sources().items() if entry.manual}
    for claim in select_claims(load_claims(), name):
        for scope in (*([] if claim.gap else [claim.scope]), *map(claim.read, claim.readings)):
            assert {scope.minuend, scope.subtrahend} <= set(recipe.evaluate.arms), claim.id
            assert set(scope.benchmarks) <= benchmarks, claim.id
        assert bool(claim.gap) == (not set(claim.benchmarks) <= benchmarks)


def test_what_the_paper_leaves_open_is_said_beside_its_numbers() -> None:
    for claim in select_claims(load_claims(), "paper"):
        assert claim.expected is None or (claim.unknown and (claim.readings or claim.gap)), claim.id


def test_every_claim_over_the_base_model_is_also_read_without_tags_and_over_readable_pairs() -> None:
    for claim in load_claims():
        scopes = [claim.scope, *map(claim.read, claim.readings)]
        # A claim over another arm may have a reading over the base; its other readings are then of the same sets.
        taken = claim.scope if claim.subtrahend == "base" else next((s for s in scopes if s.subtrahend == "base"), None)
        if taken is None:
            continue
        assert replace(taken, rule="untagged") in scopes and replace(taken, pairs="readable") in scopes, claim.id
        assert any("base model" in text and "without tags" in text for text in claim.unknown), claim.id


def test_a_reading_over_readable_pairs_says_that_they_are_a_chosen_subset() -> None:
    readings = [reading for claim in load_claims() for reading in claim.readings if reading.pairs == "readable"]
    assert readings and all("chosen" in reading.differs for reading in readings)
    whole = [reading.differs for reading in readings if reading.averaging is None]
    assert all("harder questions" in text and "no better estimate" in text for text in whole)


def test_a_reading_changes_what_it_names_and_nothing_else() -> None:
    claim = make_claim(
        readings=[{"id": "official", "differs": "read otherwise", "rule": "official"},
                  {"id": "part", "differs": "one task", "tasks": ["a"], "averaging": "micro", "subtrahend": "base"}]
    )  # fmt: skip
    assert claim.scope == Scope(("one",), None, "macro", "strict", "all", "rl", "sft")
    assert claim.read(claim.readings[0]) == Scope(("one",), None, "macro", "official", "all", "rl", "sft")
    assert claim.read(claim.readings[1]) == Scope(("one",), ("a",), "micro", "strict", "all", "rl", "base")


@pytest.mark.parametrize(
    ("readings", "reason"),
    [
        ([{"id": "same", "differs": "not at all"}], "changes nothing"),
        ([{"id": "self", "differs": "itself", "subtrahend": "rl"}], "compares two arms"),
        ([{"id": "a", "differs": "x", "averaging": "micro"}] * 2, "comes twice"),
        ([{"id": "a", "differs": "x", "averages": "micro"}], "averages"),
    ],
)
def test_a_reading_that_cannot_be_meant_is_refused(readings: list[dict[str, str]], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        make_claim(readings=readings)


@pytest.mark.parametrize(
    ("low", "high", "expected", "verdict"),
    [
        (1.0, 5.0, None, "reproduced"),
        (-1.0, 5.0, None, "inconclusive"),
        (0.0, 5.0, None, "inconclusive"),
        (-5.0, 0.0, None, "not reproduced"),
        (0.0, 0.0, None, "not reproduced"),
        (1.0, 5.0, 3.0, "reproduced"),
        (4.0, 5.0, 3.0, "reproduced"),
        (1.0, 3.0, 3.0, "reproduced"),
        (1.0, 2.0, 3.0, "direction only"),
        (-1.0, 2.0, 3.0, "not reproduced"),
        (-3.0, -1.0, 3.0, "not reproduced"),
        (-1.0, 4.0, 3.0, "inconclusive"),
    ],
)
def test_the_verdict_follows_from_the_interval(low: float, high: float, expected: float | None, verdict: str) -> None:
    assert decide_verdict(low, high, expected)[0] == verdict


@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0.1, 100))
def test_a_claim_with_a_number_is_never_easier_than_its_direction(a: float, b: float, expected: float) -> None:
    low, high = sorted((a, b))
    number, direction = decide_verdict(low, high, expected)[0], decide_verdict(low, high, None)[0]
    assert number != "reproduced" or direction == "reproduced"
    assert (direction == "reproduced") == (number in ("reproduced", "direction only"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("claims: [", "not YAML"),
        ("claims: [{id: a}]", "claims.0.recipe"),
        ("claims: []\nmore: 1", "more"),
        ("claims: [{id: a, expected: 9.04, expected: 1.0}]", "'expected' comes twice"),
    ],
)
def test_a_broken_claims_file_is_named_with_its_key(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"claims\.yaml.*{reason}"):
        load_claims(path)


def test_a_claim_compares_two_arms_and_has_its_own_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="compares two arms"):
        make_claim(minuend="sft")
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps({"claims": [make_claim().model_dump(), make_claim().model_dump()]}))
    with pytest.raises(UserError, match="'c' comes twice"):
        load_claims(path)
