"""The committed evidence: it verifies, its verdicts are the ones the README shows, new runs agree."""

import json
from pathlib import Path

import pytest

from migrl.claims import compare_with_reference
from migrl.readme import render_verdicts
from migrl.verify import verify_results

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "results" / "tiny"
REFERENCE = ROOT / "results" / "reference_runs" / "tiny"
GROUNDING = ("mig_bench", "out_of_domain")


def read_claims(folder: Path) -> dict[str, dict]:
    return {claim["id"]: claim for claim in json.loads((folder / "claims.json").read_text())}


def read_references() -> list[dict[str, dict]]:
    return [read_claims(folder) for folder in sorted(REFERENCE.glob("seed_*"))]


def test_committed_scores_and_verdicts_follow_from_the_committed_samples() -> None:
    assert verify_results(TINY) == []


@pytest.mark.parametrize("name", [*GROUNDING, "cold_start"])
def test_rl_beats_the_cold_start_and_the_cold_start_beats_the_base(name: str) -> None:
    claim = read_claims(TINY)[name]
    assert claim["low"] > 0 and claim["verdict"] == "reproduced", claim


@pytest.mark.parametrize("name", GROUNDING)
def test_the_effect_holds_in_all_but_one_of_the_reference_seeds(name: str) -> None:
    references = read_references()
    assert len(references) == 5
    assert sum(claims[name]["low"] > 0 for claims in references) >= len(references) - 1


@pytest.mark.parametrize("name", GROUNDING)
def test_the_committed_run_lies_within_the_prediction_interval_of_the_reference_runs(name: str) -> None:
    deltas = [claims[name]["delta"] for claims in read_references()]
    found = compare_with_reference(read_claims(TINY)[name]["delta"], deltas)
    assert found["inside"] in (True, None), found


def test_the_readme_shows_the_committed_verdicts() -> None:
    readme = (ROOT / "README.md").read_text()
    assert render_verdicts(ROOT / "results") in readme
