"""A recipe that has not been run says so in every cell, by a file that its command writes."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from migrl.claims.claims import load_claims, select_claims
from migrl.cli import app
from migrl.cli.pipeline import publish_report
from migrl.evidence.seal import hash_files, list_files, make_file_hashes, seal
from migrl.evidence.verify import is_not_run, verify_results
from migrl.files import write_json
from migrl.peers import leave_out, load_peers, write_page
from migrl.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "results" / "paper"
RECIPE = ROOT / "reproduce" / "recipes" / "paper.yaml"
CLAIMS = select_claims(load_claims(), "paper")

pytestmark = pytest.mark.skipif(not is_not_run(PAPER), reason="the paper recipe was run: its evidence is checked")


def test_the_committed_folder_is_what_the_command_writes(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["not-run", "--recipe", str(RECIPE), "--results", str(tmp_path)])
    assert result.exit_code == 0 and result.output.count("not run") == len(CLAIMS)
    names = {path.name for path in PAPER.iterdir()}
    assert (
        names == {path.name for path in (tmp_path / "paper").iterdir()} == {"README.md", "claims.json", "levels.json"}
    )
    for name in names:
        assert (tmp_path / "paper" / name).read_text() == (PAPER / name).read_text(), f"run `migrl not-run`: {name}"


def test_every_claim_of_the_paper_is_stated_and_no_number_is_measured() -> None:
    entries = json.loads((PAPER / "claims.json").read_text())
    assert [entry["id"] for entry in entries] == [claim.id for claim in CLAIMS]
    for entry in entries:
        assert (entry["verdict"], entry["n"], entry["delta"], entry["low"]) == ("not run", 0, None, None)


@pytest.mark.parametrize(("name", "count"), [("paper", 4), ("paper_3b", 3)])
def test_every_measured_cell_of_the_page_says_not_run(name: str, count: int) -> None:
    measured = {"ours", "95 % interval", "n", "verdict", *load_recipe(RECIPE.parent / f"{name}.yaml").evaluate.arms}
    tables = re.findall(r"(?:^\|.*\n)+", (PAPER.parent / name / "README.md").read_text(), re.MULTILINE)
    assert len(tables) == count
    for table in tables:
        header, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        assert rows and measured & {*header}
        for row in rows:
            cells = dict(zip(header, row, strict=True))
            assert {cells[name] for name in measured & cells.keys()} == {"not run"}, row


def test_no_number_of_the_paper_stands_in_the_folder_of_another_model() -> None:
    folder = PAPER.parent / "paper_3b"
    entries = json.loads((folder / "claims.json").read_text())
    assert entries and all(
        entry["expected"] is None and "At 3B, which the paper does not" in entry["statement"] for entry in entries
    )
    assert json.loads((folder / "levels.json").read_text()) == []
    assert "the paper states no number of this recipe's model" in (folder / "README.md").read_text()


def test_the_committed_page_of_published_checkpoints_is_what_the_command_writes_without_a_gpu(tmp_path: Path) -> None:
    folder = PAPER.parent / "peers"
    stored = json.loads((folder / "peers.json").read_text())
    if any(one["verdict"] != "not run" for one in stored):
        pytest.skip("the published checkpoints were run: their page is theirs")
    write_page([leave_out(peer, "no GPU here") for peer in load_peers()], tmp_path)
    for name in ("README.md", "peers.json"):
        assert (tmp_path / name).read_text() == (folder / name).read_text(), f"run `make peers`: {name}"
    assert all((one["measured"], one["low"], one["n"]) == (None, None, 0) for one in stored)


def test_stating_it_again_changes_nothing(tmp_path: Path) -> None:
    results = shutil.copytree(PAPER.parent, tmp_path / "results")
    before = hash_files(list_files(results))
    for _ in range(2):
        assert CliRunner().invoke(app, ["not-run", "--recipe", str(RECIPE), "--results", str(results)]).exit_code == 0
        assert hash_files(list_files(results)) == before


def test_the_check_and_the_table_of_a_recipe_that_was_not_run_say_so() -> None:
    checked = CliRunner().invoke(app, ["verify", str(PAPER)])
    assert checked.exit_code == 0 and "not run" in checked.output
    shown = CliRunner().invoke(app, ["claims", str(PAPER)])
    assert shown.exit_code == 0 and shown.output.count("not run") == len(CLAIMS)


def test_a_number_without_evidence_is_noticed(tmp_path: Path) -> None:
    entries = json.loads((PAPER / "claims.json").read_text())
    shutil.copytree(PAPER, tmp_path, dirs_exist_ok=True)
    write_json(tmp_path / "claims.json", entries[1:])
    assert verify_results(tmp_path)[0] == f"claims.json: {len(CLAIMS) - 1} entries stored, {len(CLAIMS)} recomputed"
    entries[0] |= {"verdict": "reproduced", "delta": 9.1}
    write_json(tmp_path / "claims.json", entries)
    assert sorted(verify_results(tmp_path)) == [
        "claims.json[0].delta: 9.1 stored, null recomputed",
        'claims.json[0].verdict: "reproduced" stored, "not run" recomputed',
    ]


def test_a_run_replaces_the_folder_and_cannot_be_declared_undone(tmp_path: Path) -> None:
    results, report = tmp_path / "results", tmp_path / "report"
    state = ["not-run", "--recipe", str(RECIPE), "--results", str(results)]
    assert CliRunner().invoke(app, state).exit_code == 0
    report.mkdir()
    for name in ("claims.json", "scores.json"):
        write_json(report / name, {})
    write_json(report / "evidence.json", seal({"files": make_file_hashes(report)}))
    publish_report(report, results / "paper")
    names = {"claims.json", "scores.json", "manifest.json"}
    assert {path.name for path in (results / "paper").iterdir()} == names
    refused = CliRunner().invoke(app, state)
    assert refused.exit_code == 1 and "holds the evidence of a run (manifest.json)" in str(refused.exception)
    assert {path.name for path in (results / "paper").iterdir()} == names
