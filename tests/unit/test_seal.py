"""The seals: no bit below the results changes, no file comes or goes, without being named."""

import gzip
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from migrl.cli import app
from migrl.cli.pipeline import publish_report
from migrl.errors import UserError
from migrl.evidence.seal import check_folder, check_manifest, check_results, make_file_hashes, seal, write_tree
from migrl.files import write_json

LEAVES = {
    "tiny/samples.jsonl.gz": gzip.compress(b'{"uid": 1}\n', mtime=0),
    "tiny/figures/a.png": b"\x89PNG\r\n",
    "tiny/claims.json": '[\n {"statement": "Größer"}\n]\n'.encode(),
    "paper/claims.json": b"[]\n",
    "reference_runs/tiny/seed_8/scores.json": b"{}\n",
}


def write_manifest(folder: Path, **facts: Any) -> None:
    write_json(folder / "manifest.json", seal({**facts, "files": make_file_hashes(folder)}))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    for name, content in LEAVES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    write_manifest(folder / "tiny", seconds=1.5, note='tab "\t" ß', dirty=None)
    write_tree(folder)
    return folder


def flip_bits(path: Path) -> Iterator[tuple[int, int]]:
    """Change a bit of every byte, one at a time; the caller looks in between. Ends with the file as it was.

    The bits go round, with bit 5 between them: it is what tells `a` from `A` and a space from a null.
    """
    original = path.read_bytes()
    for place in range(len(original)):
        bit = 5 if place % 2 else place // 2 % 8
        changed = bytearray(original)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        yield place, bit
    path.write_bytes(original)


def test_an_untouched_tree_has_no_differences_and_is_written_the_same_again(results: Path) -> None:
    before = (results / "tree.json").read_bytes()
    assert check_results(results) == [] and write_tree(results) == []
    assert (results / "tree.json").read_bytes() == before
    assert set(json.loads(before)["files"]) == {*LEAVES, "tiny/manifest.json"}


@pytest.mark.parametrize("name", LEAVES)
def test_every_byte_of_every_file_counts(results: Path, name: str) -> None:
    for where in flip_bits(results / name):
        (difference,) = check_results(results)
        assert Path(name).name in difference and "changed" in difference, where
    assert check_results(results) == []


def test_every_byte_of_a_manifest_counts_even_without_the_tree(results: Path) -> None:
    for where in flip_bits(results / "tiny" / "manifest.json"):
        assert check_manifest(results / "tiny")[0].startswith("manifest.json: "), where
    assert check_results(results) == []


def test_every_byte_of_the_tree_counts(results: Path) -> None:
    for where in flip_bits(results / "tree.json"):
        assert check_results(results)[0].startswith("tree.json: "), where
    assert check_results(results) == []


def test_files_that_come_and_go_are_named(results: Path) -> None:
    (results / "tiny" / "figures" / "a.png").rename(results / "tiny" / "figures" / "b.png")
    (results / "reference_runs" / "tiny" / "seed_8" / "scores.json").unlink()
    (results / ".notes").write_text("mine")
    assert check_results(results) == [
        ".notes: extra, tree.json does not name it",
        "reference_runs/tiny/seed_8/scores.json: missing",
        "tiny/figures/a.png: missing",
        "tiny/figures/b.png: extra, tree.json does not name it",
    ]


def test_a_missing_seal_is_one_difference_and_not_one_for_each_file_under_it(results: Path) -> None:
    (results / "tiny" / "manifest.json").unlink()
    assert check_results(results) == ["tiny/manifest.json: missing"]
    (results / "tree.json").unlink()
    assert check_results(results) == ["tree.json: missing"]


def test_a_link_is_no_evidence(results: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.json"
    (results / "paper" / "claims.json").rename(target)
    (results / "paper" / "claims.json").symlink_to(target)
    with pytest.raises(UserError, match=r"paper/claims\.json: a link or no plain file; put the file itself there"):
        check_results(results)


def test_a_folder_stands_alone_and_within_its_tree(results: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(results / "tiny", tmp_path / "alone" / "tiny"))
    assert check_folder(alone) == []
    (alone / "claims.json").write_text("[]\n")
    assert check_folder(alone) == ["claims.json: changed, its sha256 is not that of the manifest"]
    # Sealed anew, the folder alone is sound. The tree that it belongs to knows better.
    for folder in (alone, results / "tiny"):
        write_manifest(folder, note="another run")
    assert check_manifest(results / "tiny") == [] and check_folder(alone) == []
    assert check_folder(results / "tiny") == ["manifest.json: changed, its sha256 is not that of tree.json"]
    (results / "paper" / "claims.json").write_text("[1]\n")
    assert check_folder(results / "paper") == ["claims.json: changed, its sha256 is not that of tree.json"]


def test_a_manifest_that_names_other_files_than_the_tree_is_noticed(results: Path) -> None:
    (results / "tiny" / "claims.json").write_text("[]\n")
    write_tree(results)
    said = "claims.json: changed, its sha256 is not that of the manifest"
    assert check_results(results) == [f"tiny: {said}"] and check_folder(results / "tiny") == [said]


def test_a_manifest_of_older_code_has_no_root_and_is_named(results: Path) -> None:
    write_json(results / "tiny" / "manifest.json", {"files": make_file_hashes(results / "tiny")})
    (difference,) = check_manifest(results / "tiny")
    assert difference.startswith("manifest.json: key 'root' is missing")


def test_sealing_says_what_changed_and_refuses_a_broken_folder(results: Path) -> None:
    before = json.loads((results / "tree.json").read_text())["root"]
    (results / "paper" / "README.md").write_text("not run\n")
    (results / "paper" / "claims.json").write_text("[1]\n")
    (results / "reference_runs" / "tiny" / "seed_8" / "scores.json").unlink()
    done = CliRunner().invoke(app, ["seal", str(results)])
    *changes, last = done.output.splitlines()
    assert changes == [
        "paper/README.md: new",
        "paper/claims.json: other content",
        "reference_runs/tiny/seed_8/scores.json: gone",
    ]
    root = json.loads((results / "tree.json").read_text())["root"]
    assert last.endswith(f"root {root}") and root != before and check_results(results) == []
    (results / "tiny" / "claims.json").write_text("[]\n")
    refused = CliRunner().invoke(app, ["seal", str(results)])
    assert refused.exit_code == 1 and "tiny: claims.json: changed" in str(refused.exception)


@pytest.mark.parametrize("name", ["tiny", "paper"])
def test_sealing_refuses_what_is_no_results_folder(results: Path, name: str) -> None:
    (results / "nothing" / "deeper").mkdir(parents=True)
    refusals = {
        results / name: "holds (manifest|claims).json, as a recipe's folder does; name the results folder around it",
        results / "reference_runs": r"lies in a folder that tree\.json seals",
        results / "nothing" / "deeper": "there is nothing in it to seal",
        results / "nowhere": "no such folder",
    }
    before = sorted(results.rglob("*"))
    for folder, said in refusals.items():
        refused = CliRunner().invoke(app, ["seal", str(folder)])
        assert refused.exit_code == 1 and re.search(said, str(refused.exception)), refused.exception
    assert sorted(results.rglob("*")) == before and check_results(results) == []


@pytest.fixture
def report(results: Path, tmp_path: Path) -> Path:
    """What a report stage leaves: the folder tiny with another verdict."""
    folder = Path(shutil.copytree(results / "tiny", tmp_path / "report"))
    (folder / "manifest.json").rename(folder / "evidence.json")
    (folder / "claims.json").write_text("[2]\n")
    hashes = {name: value for name, value in make_file_hashes(folder).items() if name != "evidence.json"}
    write_json(folder / "evidence.json", seal({"files": hashes}))
    return folder


def test_publishing_a_report_seals_its_folder(results: Path, report: Path) -> None:
    publish_report(report, results / "tiny")
    assert (results / "tiny" / "claims.json").read_text() == "[2]\n" and check_results(results) == []
    (results / "tree.json").unlink()
    publish_report(report, results / "tiny")
    assert check_results(results) == []
    root = json.loads((results / "tree.json").read_text())["root"]
    assert write_tree(results) == [] and json.loads((results / "tree.json").read_text())["root"] == root


def test_neither_a_run_nor_not_run_takes_what_changed_in_other_folders(results: Path, report: Path) -> None:
    (results / "reference_runs" / "tiny" / "seed_8" / "scores.json").write_text("{} \n")
    (results / "notes.txt").write_text("mine")
    damage = [
        "notes.txt: extra, tree.json does not name it",
        "reference_runs/tiny/seed_8/scores.json: changed, its sha256 is not that of tree.json",
    ]
    publish_report(report, results / "tiny")
    assert check_results(results) == damage
    done = CliRunner().invoke(app, ["not-run", "--results", str(results)])
    assert done.exit_code == 0, done.exception
    assert check_results(results) == damage
    assert "paper/levels.json" in json.loads((results / "tree.json").read_text())["files"]


def test_a_tree_that_was_changed_is_not_written_over(results: Path, report: Path) -> None:
    tree = results / "tree.json"
    for content in (tree.read_text().replace("scores", "stores"), "[" * 100_000):
        tree.write_text(content)
        with pytest.raises(UserError, match=r"tree\.json: .*; restore it, or seal all of it anew: `migrl seal "):
            publish_report(report, results / "tiny")
        assert tree.read_text() == content


def test_a_folder_that_holds_more_than_results_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for results in (tmp_path, tmp_path / "repository"):
        (tmp_path / "repository" / ".git").mkdir(parents=True, exist_ok=True)
        places = ["--results", str(results), "--runs", str(tmp_path / "runs")]
        refused = CliRunner().invoke(app, ["reproduce", "--recipe", "test", *places])
        assert refused.exit_code == 1 and "name a folder of its own, such as results" in str(refused.exception)
    assert not (tmp_path / "runs").exists()
    refused = CliRunner().invoke(app, ["not-run", "--results", str(tmp_path / "repository")])
    assert refused.exit_code == 1 and "name a folder of its own" in str(refused.exception)
    assert [path.name for path in (tmp_path / "repository").iterdir()] == [".git"]
