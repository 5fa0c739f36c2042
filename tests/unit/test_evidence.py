"""The stage contract: skipped, resumed or run again, and never half there."""

import json
from pathlib import Path
from typing import Any

import pytest

from migrl.errors import UserError
from migrl.recipe import Recipe, load_recipe
from migrl.running.stage import StageContext, StageWork, check_disk
from migrl.running.stage_folder import run_stage

RECIPE: Recipe = load_recipe(Path(__file__).resolve().parents[2] / "reproduce" / "recipes" / "tiny.yaml")


def make_work(sections: dict[str, Any], calls: list[Path], *, fail: bool = False, format: int = 1) -> StageWork:
    def run(context: StageContext) -> dict[str, Any]:
        calls.append(context.folder)
        progress = context.folder / "progress"
        progress.mkdir(exist_ok=True)
        with (progress / "log").open("a") as file:
            file.write("x")
        if fail:
            (context.folder / "leftover.txt").write_text("of an attempt that was cut short")
            raise RuntimeError("killed")
        (context.folder / "checkpoints").mkdir(exist_ok=True)
        (context.folder / "out.txt").write_text((progress / "log").read_text())
        return {"n": 1}

    return StageWork("demo", format, sections, {}, run)


def test_a_finished_stage_is_skipped_until_its_key_changes(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder = tmp_path / "demo"
    assert run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    assert not run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    assert run_stage(make_work({"a": 2}, calls), RECIPE, folder)
    assert run_stage(make_work({"a": 2}, calls, format=2), RECIPE, folder)
    assert run_stage(make_work({"a": 2}, calls, format=2), RECIPE, folder, force=True)
    assert len(calls) == 4 and not (tmp_path / "demo.partial").exists()


def test_an_interrupted_stage_resumes_in_its_partial_folder_and_keeps_the_old_result(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder = tmp_path / "demo"
    run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    with pytest.raises(RuntimeError):
        run_stage(make_work({"a": 2}, calls, fail=True), RECIPE, folder)
    assert json.loads((folder / "manifest.json").read_text())["recipe"] == {"a": 1}
    run_stage(make_work({"a": 2}, calls), RECIPE, folder)
    assert (folder / "out.txt").read_text() == "xx"
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {"manifest.json", "out.txt", "progress"}
    assert list(json.loads((folder / "manifest.json").read_text())["outputs"]) == ["out.txt"]


def test_a_whole_partial_folder_is_put_in_place_and_not_run_again(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder, partial = tmp_path / "demo", tmp_path / "demo.partial"
    run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    folder.rename(partial)
    assert not run_stage(make_work({"a": 1}, calls), RECIPE, folder) and folder.exists() and not partial.exists()
    folder.rename(partial)
    (partial / "out.txt").unlink()
    assert run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    assert (folder / "out.txt").read_text() == "xx" and len(calls) == 2


def test_a_forced_run_that_was_cut_short_goes_on_without_force(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder = tmp_path / "demo"
    run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    with pytest.raises(RuntimeError):
        run_stage(make_work({"a": 1}, calls, fail=True), RECIPE, folder, force=True)
    assert run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    assert (folder / "out.txt").read_text() == "xx"
    assert not run_stage(make_work({"a": 1}, calls), RECIPE, folder)


def test_a_lost_output_is_made_again_by_force_also_if_that_is_cut_short(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder = tmp_path / "demo"
    run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    (folder / "out.txt").unlink()
    with pytest.raises(RuntimeError):
        run_stage(make_work({"a": 1}, calls, fail=True), RECIPE, folder, force=True)
    assert run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    assert (folder / "out.txt").read_text() == "xx"


def test_checkpoints_and_stages_on_another_disk_are_unlinked_and_not_followed(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder, scratch = tmp_path / "demo", tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "large").write_text("somebody's")
    with pytest.raises(RuntimeError):
        run_stage(make_work({"a": 1}, calls, fail=True), RECIPE, folder)
    (tmp_path / "demo.partial" / "checkpoints").symlink_to(scratch)
    assert run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    assert not run_stage(make_work({"a": 1}, calls), RECIPE, folder)
    assert run_stage(make_work({"a": 1}, calls), RECIPE, folder, force=True)
    assert not folder.is_symlink() and (tmp_path / "moved" / "out.txt").exists() and (scratch / "large").exists()


def test_work_left_for_another_key_is_thrown_away(tmp_path: Path) -> None:
    calls: list[Path] = []
    folder = tmp_path / "demo"
    with pytest.raises(RuntimeError):
        run_stage(make_work({"a": 1}, calls, fail=True), RECIPE, folder)
    run_stage(make_work({"a": 2}, calls), RECIPE, folder)
    assert (folder / "out.txt").read_text() == "x"


def test_an_output_that_changed_since_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    run_stage(make_work({}, []), RECIPE, folder)
    (folder / "out.txt").write_text("longer")
    with pytest.raises(UserError, match=r"out\.txt: missing or changed.*--force"):
        run_stage(make_work({}, []), RECIPE, folder)


def test_a_folder_of_another_format_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    run_stage(make_work({}, []), RECIPE, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "run_format": 99}))
    with pytest.raises(UserError, match="run format 99, this version reads 1"):
        run_stage(make_work({}, []), RECIPE, folder)


def test_too_little_disk_is_refused_before_the_work_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="GB free, 1,000,000,000.0 GB needed"):
        check_disk(tmp_path, 10**18)
