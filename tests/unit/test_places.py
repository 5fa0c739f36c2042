"""What a command writes takes nobody's place: results, task folders, pages, details."""

import multiprocessing
import shutil
from pathlib import Path

import pytest
from compare_runs import write_run
from run_files import make_sample
from typer.testing import CliRunner

from migrl.cli import app
from migrl.cli.pipeline import publish_report
from migrl.errors import UserError
from migrl.evidence.publication import lock_results, replace_results
from migrl.evidence.seal import check_results, make_file_hashes, seal
from migrl.files import hash_file, write_json, write_jsonl

RECIPES = Path(__file__).resolve().parents[2] / "reproduce" / "recipes"


def call(*arguments: object) -> str:
    """What a command printed, or the words it was refused with."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.output if result.exit_code == 0 else f"refused: {result.exception}"


def hash_tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def write_report(folder: Path, text: str) -> Path:
    """What a report stage leaves."""
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "delta.png").write_text(text)
    write_json(folder / "scores.json", text)
    write_json(folder / "evidence.json", seal({"files": make_file_hashes(folder)}))
    return folder


@pytest.mark.parametrize("name", ["chapters/one.tex", "notes.txt", "scores.json", "manifest.json", ".hidden"])
def test_a_folder_that_somebody_made_is_refused_before_anything_runs_and_stays(tmp_path: Path, name: str) -> None:
    for place in ("test", "thesis"):
        results = tmp_path / place / "work"
        path = results / place / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        before = hash_tree(results)
        told = call("reproduce", "--recipe", "test", "--results", results, "--runs", tmp_path / "runs")
        assert told.startswith("refused: ") and place in told and "was not made by migrl" in told
        stated = call("not-run", "--recipe", "paper", "--results", results)
        assert ("was not made by migrl" in stated) and hash_tree(results) == before
    assert not (tmp_path / "runs").exists()


def test_a_file_that_somebody_added_to_the_evidence_is_refused_and_stays(tmp_path: Path) -> None:
    results = tmp_path / "results"
    publish_report(write_report(tmp_path / "first", "1"), results / "tiny")
    publish_report(write_report(tmp_path / "second", "2"), results / "tiny")
    (results / "tiny" / "figures" / "mine.txt").write_text("a week of work")
    before = hash_tree(results)
    with pytest.raises(UserError, match=r"figures/mine\.txt: was not made by migrl, which replaces the folder"):
        publish_report(tmp_path / "first", results / "tiny")
    assert hash_tree(results) == before


def test_hidden_files_of_somebodys_stay_whatever_they_are_called(tmp_path: Path) -> None:
    results = tmp_path / "results"
    publish_report(write_report(tmp_path / "report", "1"), results / "tiny")
    theirs = [results / name for name in (".thesis.new/one.tex", ".old.rest/a", ".lock", ".bashrc.new", ".q.tmp")]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    publish_report(tmp_path / "report", results / "tiny")
    assert [path.read_text() for path in theirs] == ["mine"] * len(theirs)


@pytest.mark.parametrize("name", ["reference_runs", "calibration"])
def test_a_recipe_cannot_take_the_place_of_what_no_recipe_writes(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="holds what no recipe writes; give it another `name`"):
        publish_report(write_report(tmp_path / "report", "1"), tmp_path / "results" / name)


def test_a_report_that_changed_meanwhile_is_not_published(tmp_path: Path) -> None:
    report, results = write_report(tmp_path / "report", "1"), tmp_path / "results"
    publish_report(report, results / "tiny")
    before = hash_tree(results)
    (report / "scores.json").write_text("2")
    with pytest.raises(UserError, match=r"scores\.json: changed.*while it was published; start again"):
        publish_report(report, results / "tiny")
    assert hash_tree(results) == before


def test_a_kill_where_two_names_cannot_be_exchanged_loses_neither_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system without RENAME_EXCHANGE: killed when the old folder has gone and the new one not come."""
    results = tmp_path / "results"
    publish_report(write_report(tmp_path / "first", "1"), results / "tiny")

    def die(made: Path, place: Path) -> None:
        shutil.rmtree(place)
        raise KeyboardInterrupt

    monkeypatch.setattr("migrl.evidence.publication.put_folder", die)
    with pytest.raises(KeyboardInterrupt):
        publish_report(write_report(tmp_path / "second", "2"), results / "tiny")
    assert not (results / "tiny").exists()
    with lock_results(results):
        assert check_results(results) == []
        assert (results / "tiny/figures/delta.png").read_text() == "2"


def publish_often(report: Path, target: Path) -> None:
    for _ in range(6):
        publish_report(report, target)


def test_two_recipes_at_once_keep_both_entries_and_a_reader_sees_whole_folders_only(tmp_path: Path) -> None:
    results = tmp_path / "results"
    names = ("tiny", "test")
    for name in names:
        publish_report(write_report(tmp_path / name, name), results / name)
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=publish_often, args=(tmp_path / name, results / name)) for name in names]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        with lock_results(results):
            assert check_results(results) == []
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert check_results(results) == []


def test_what_fails_while_it_is_prepared_leaves_the_old_evidence(tmp_path: Path) -> None:
    results = tmp_path / "results"
    publish_report(write_report(tmp_path / "report", "1"), results / "tiny")
    before = hash_tree(results)
    with pytest.raises(RuntimeError), replace_results(results / "tiny") as made:
        write_json(made / "scores.json", "half")
        raise RuntimeError("killed")
    assert hash_tree(results) == before and check_results(results) == []


def test_tasks_take_the_place_of_tasks_and_of_nothing_else(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "tasks"
    data.mkdir()
    write_jsonl(data / "mig_bench.jsonl", [make_sample(1)])
    write = ("lmms-eval", "--data", data, "--frame", "unit", "--out")
    for _ in range(2):
        assert not call(*write, out).startswith("refused")
    (out / "mine.yaml").write_text("task: mine\n")
    assert not call(*write, out).startswith("refused") and (out / "mine.yaml").exists()
    for name in ("utils.py", "notes.txt", "migrl_mig_bench.yaml"):
        theirs = tmp_path / name.partition(".")[0]
        theirs.mkdir()
        (theirs / name).write_text("mine = True\n")
        assert "was not made by this command" in call(*write, theirs)
        assert hash_tree(theirs) == {name: hash_file(theirs / name)}, name


def test_a_page_replaces_a_page_and_nothing_else(tmp_path: Path) -> None:
    runs = write_run(tmp_path / "a", "0" * 8), write_run(tmp_path / "b", "1" * 8)
    page, notes = tmp_path / "page.html", tmp_path / "notes.html"
    notes.write_text("<html><title>Comparison: samples won and lost</title>")
    for _ in range(2):
        assert "page" in call("compare", *runs, "--html", page)
    told = call("compare", *runs, "--html", notes)
    assert "exists and was not made by this command" in told and notes.read_text().startswith("<html><title>")
    shutil.copy(page, tmp_path / "same.html")
    assert "page" in call("compare", *runs, "--html", tmp_path / "same.html")
