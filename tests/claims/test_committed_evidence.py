"""The committed evidence: it verifies, its verdicts are the ones the README shows, new runs agree."""

import json
import shutil
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import pytest
from PIL import Image
from scipy.special import stdtrit

from migrl.claims.references import compare_with_reference
from migrl.evidence.measurements import render_measurements
from migrl.evidence.readme_tables import render_engines, render_readings, render_short, render_verdicts
from migrl.evidence.seal import TREE, check_results, list_files
from migrl.evidence.verify import verify
from migrl.files import hash_json
from migrl.pipeline import plan_stages, prepare_stage
from migrl.recipe import AlarmSettings, load_recipe
from migrl.running.watch.alarms import find_alarm
from migrl.world.picture import draw_world

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
TINY = RESULTS / "tiny"
REFERENCE = ROOT / "results" / "reference_runs" / "tiny"
GROUNDING = ("mig_bench", "out_of_domain")


def read_claims(folder: Path) -> dict[str, dict]:
    return {claim["id"]: claim for claim in json.loads((folder / "claims.json").read_text())}


def read_references() -> list[dict[str, dict]]:
    return [read_claims(folder) for folder in sorted(REFERENCE.glob("seed_*"))]


def test_every_committed_byte_is_sealed_and_every_number_follows_from_the_samples() -> None:
    found = verify(RESULTS)
    assert found.differences == []
    assert found.root == json.loads((RESULTS / TREE).read_text())["root"]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = Path(shutil.copytree(RESULTS, tmp_path_factory.mktemp("copy") / "results"))
    assert check_results(copy) == []
    return copy


@pytest.mark.parametrize("name", list_files(RESULTS))
def test_a_flipped_bit_in_any_committed_file_is_named(copied: Path, name: str) -> None:
    path = copied / name
    original = path.read_bytes()
    rng = Random(name)
    places = {0, len(original) - 1, *(rng.randrange(len(original)) for _ in range(6))}
    for place in sorted(places):
        changed = bytearray(original)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        differences = check_results(copied)
        folder, _, inner = name.partition("/")
        assert any(d.startswith((f"{name}: ", f"{folder}: {inner}: ")) for d in differences), (place, differences)
    path.write_bytes(original)


@pytest.mark.parametrize("name", ["mig_bench", "cold_start"])
def test_rl_beats_the_cold_start_and_the_cold_start_beats_the_base(name: str) -> None:
    claim = read_claims(TINY)[name]
    assert claim["low"] > 0 and claim["verdict"] == "reproduced", claim


@pytest.mark.parametrize("name", GROUNDING)
def test_over_all_kept_runs_rl_beats_the_cold_start(name: str) -> None:
    """A single run is one draw: what a training run gains varies by five points, from seed to seed and by rounding."""
    deltas = [claims[name]["delta"] for claims in [read_claims(TINY), *read_references()]]
    bound = fmean(deltas) - stdtrit(len(deltas) - 1, 0.95) * stdev(deltas) / len(deltas) ** 0.5
    assert bound > 0, deltas


@pytest.mark.parametrize("name", GROUNDING)
def test_the_effect_holds_in_every_reference_seed(name: str) -> None:
    references = read_references()
    assert len(references) == 5 and all(claims[name]["low"] > 0 for claims in references)


@pytest.mark.parametrize("name", GROUNDING)
def test_the_committed_run_lies_within_the_prediction_interval_of_the_reference_runs(name: str) -> None:
    deltas = [claims[name]["delta"] for claims in read_references()]
    found = compare_with_reference(read_claims(TINY)[name]["delta"], deltas)
    assert found["inside"] in (True, None), found


def test_the_readme_shows_the_committed_verdicts() -> None:
    results = ROOT / "results"
    assert render_short(results) in (ROOT / "README.md").read_text()
    shown = (results / "README.md").read_text()
    assert all(render(results) in shown for render in (render_verdicts, render_readings, render_engines))


def test_no_default_alarm_would_have_stopped_the_committed_training_at_any_step() -> None:
    rows = [json.loads(line) for line in (TINY / "grpo_log.jsonl").read_text().splitlines()]
    strict = AlarmSettings(kl=0.5, collapse=0.5, truncation=0.25, zero_variance=0.45)  # twice as strict as the defaults
    assert {"kl", "hit_reward", "truncation", "zero_variance"} <= rows[0].keys()
    for settings in (AlarmSettings(), strict):
        assert not any(find_alarm(rows[:end], settings) for end in range(1, len(rows) + 1))


def test_the_stages_of_the_committed_evidence_keep_their_keys() -> None:
    stages = json.loads((TINY / "manifest.json").read_text())["stages"]
    checked, recipe = [], load_recipe(ROOT / "reproduce/recipes/tiny.yaml")
    for stage in plan_stages(recipe):
        work = prepare_stage(stage, recipe, Path("runs"))
        if stage.name in stages and work.inputs.keys() <= stages.keys():  # merge's digest is not in the evidence
            inputs = {name: stages[name]["digest"] for name in work.inputs}
            assert hash_json([work.name, work.format, work.sections, inputs]) == stages[stage.name]["key"], stage.name
            checked.append(stage.name)
    assert {"fetch", "synthesize", "sft"} <= set(checked)


def test_the_picture_of_the_world_is_the_committed_one(tmp_path: Path) -> None:
    draw_world(tmp_path / "world.png")
    fresh = Image.open(tmp_path / "world.png")
    assert fresh.width == 1200 and (tmp_path / "world.png").stat().st_size < 300_000
    assert fresh.tobytes() == Image.open(TINY / "figures/world.png").tobytes()


def test_the_committed_table_says_not_run_until_there_is_a_measurement() -> None:
    folder = RESULTS / "rehearsal"
    measurements = folder / "measurements.json"
    data = json.loads(measurements.read_text()) if measurements.exists() else None
    assert (folder / "report.md").read_text() == render_measurements(data)
    lines = (folder / "report.md").read_text().splitlines()
    cells = [line for line in lines if line.startswith("| ") and not line.startswith(("| part |", "| stage |"))]
    if data is None:
        assert len(cells) == 5 + 8 and all("not run" in line for line in cells)
    else:
        assert not data.get("not_run") and all(card["memory_gb"] for card in data.get("cards", {}).values())
