"""What does not belong, what is missing and what was edited by hand: a named difference each, never a traceback."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_rows import EVALUATIONS, FACTS, LEVELS, make_claims, make_rows, make_scores, write
from rows import make_row
from run_files import ROOT, make_results, read_recipe
from typer.testing import CliRunner

from migrl.claims.calibration.write import render_table
from migrl.cli import app
from migrl.errors import UserError
from migrl.evidence.recompute import compare_coverage, render_page
from migrl.evidence.seal import write_tree
from migrl.evidence.verify import verify, verify_results
from migrl.files import write_json
from migrl.recipe import SEEDED_SECTIONS

HUGE = 10**400
DEEP = "[" * 100_000


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = make_results(tmp_path_factory.mktemp("place"))
    (results / "calibration").mkdir()
    shutil.copyfile(ROOT / "results" / "calibration" / "table.json", results / "calibration" / "table.json")
    table = json.loads((results / "calibration" / "table.json").read_text())
    (results / "calibration" / "table.md").write_text(render_table(table))
    write_tree(results)
    return results


@pytest.fixture
def results(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "results"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ["claims.json", "manifest.json", "samples.jsonl.gz"])
def test_what_lies_astray_beside_the_folders_switches_no_check_off(results: Path, name: str) -> None:
    source = results / ("paper" if name == "claims.json" else "tiny") / name
    shutil.copyfile(source, results / name)
    (results / "tiny" / "report.html").write_text("<html>better</html>")
    differences = verify(results).differences
    assert f"{name}: belongs to no recipe's folder" in differences
    assert "tiny/report.html: changed, its sha256 is not that of tree.json" in differences
    (results / "tree.json").unlink()
    assert verify(results).differences != []


def test_results_without_a_manifest_are_a_difference(results: Path) -> None:
    (results / "other").mkdir()
    for name in ("claims.json", "scores.json"):
        shutil.copyfile(results / "tiny" / name, results / "other" / name)
    write_tree(results)
    said = "other: manifest.json: missing, so nothing says what its results were made from"
    assert verify(results).differences == [said]


def test_a_folder_of_a_tree_has_its_recipes_name(results: Path) -> None:
    (results / "tiny").rename(results / "large")
    write_tree(results)
    said = "manifest.json: key 'settings.name' is 'tiny', the folder's name 'large'"
    assert said in verify_results(results / "large")


def test_rows_of_several_seeds_are_all_there_or_named() -> None:
    recipe = read_recipe("tiny", *(f"{section}.seed=3" for section in SEEDED_SECTIONS), "seeds=[7]")
    answered = {"facts": {"samples": 2}}
    manifest = {"stages": {"evaluate": answered, "seed_7/evaluate": answered}}
    rows = [make_row("mini:0", "base")] * 2
    rows += [make_row("mini:0", arm, seed=seed) for arm in ("sft", "rl") for seed in (3, 7)] * 2
    assert list(compare_coverage(rows, manifest, recipe)) == []
    said = "samples.jsonl.gz, arm 'rl', seed 7: 1 rows, stage seed_7/evaluate of the manifest answered 2 samples"
    assert list(compare_coverage(rows[:-1], manifest, recipe)) == [said]
    assert len(list(compare_coverage(rows, {"stages": []}, recipe))) == 5


def test_pages_that_people_read_are_written_again(results: Path) -> None:
    for name in ("paper/README.md", "calibration/table.md"):
        (results / name).write_text((results / name).read_text().replace("not", "well", 1))
    (results / "paper" / "levels.json").unlink()
    (results / "paper" / "report.html").write_text("9.04")
    write_tree(results)
    levels, *others = verify(results).differences[1:]
    assert verify(results).differences[0] == "calibration: table.md: is not what table.json gives"
    assert levels.startswith("paper: ") and "levels.json: no such file" in levels
    assert others == [
        "paper: report.html: belongs to no folder of a recipe that was not run",
        "paper: README.md: is not what `migrl not-run --recipe paper` writes",
    ]


def test_the_page_written_again_is_the_one_that_the_report_wrote(tmp_path: Path) -> None:
    write(tmp_path, make_rows(tmp_path / "images"))
    page = render_page(make_scores(), make_claims(), LEVELS, EVALUATIONS, FACTS | {"files": {}, "root": "a" * 64})
    assert (tmp_path / "out" / "report.md").read_bytes() == page.encode()


def test_an_empty_folder_and_one_with_a_seal_alone_hold_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds neither tree\.json nor"):
        verify(tmp_path)
    write_json(tmp_path / "tree.json", {"files": {}})
    with pytest.raises(UserError, match=r"holds nothing beside tree\.json"):
        verify(tmp_path)


def edit_rows(**changes: Any) -> Callable[[Path], None]:
    def edit(results: Path) -> None:
        path = results / "tiny" / "samples.jsonl.gz"
        first, *others = gzip.decompress(path.read_bytes()).decode().splitlines()
        lines = [json.dumps(json.loads(first) | changes), *others]
        path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))

    return edit


def edit_json(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(results: Path) -> None:
        data = read(results / name)
        replaced = change(data)
        write_json(results / name, data if replaced is None else replaced)

    return edit


def make_folder(name: str) -> Callable[[Path], None]:
    def edit(results: Path) -> None:
        (results / name).unlink()
        (results / name).mkdir()
        (results / name / "inside.txt").write_text("a folder")

    return edit


SEED = "reference_runs/tiny/seed_8"
EDITS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a target beyond any float": (
        edit_rows(target={"image": 2, "box_unit": [0, 0, HUGE, 1]}),
        "line 1: key 'target': a box has four finite numbers",
    ),
    "a size beyond any float": (edit_rows(sizes=[[HUGE, 56], [60, 60]]), "0, 56] is no size in px"),
    "tokens beyond any float": (edit_rows(tokens=HUGE), "line 1: key 'tokens': Input should be less than"),
    "a limit beyond any float": (
        edit_json("tiny/evaluations.json", lambda entries: [entry | {"min_pixels": HUGE} for entry in entries]),
        "entry 1: key 'min_pixels': Input should be less than",
    ),
    "a stored reference beyond any float": (
        edit_json("tiny/references.json", lambda data: data["deltas"].update(mig_bench=[HUGE])),
        "references.json: key 'deltas.mig_bench.0': Input should be",
    ),
    "a reference beyond any float": (
        edit_json(f"{SEED}/claims.json", lambda claims: [claim | {"delta": HUGE} for claim in claims]),
        "is no difference of percentages",
    ),
    "accuracies that are no numbers": (
        edit_json(
            f"{SEED}/scores.json",
            lambda scores: (
                [task.update(accuracy=float("nan")) for task in scores["rl"]["mini_mig"]["tasks"].values()] and scores
            ),
        ),
        f"{SEED}: claims.json[0].delta: ",
    ),
    "reference claims that nest without end": (
        lambda results: (results / SEED / "claims.json").write_text(DEEP) and None,
        "torn or not JSON",
    ),
    "settings that nest without end": (
        lambda results: (results / "reference_runs/tiny/recipe.json").write_text(DEEP) and None,
        "recipe.json: not a recipe's settings",
    ),
    "a section that is none": (
        edit_json("reference_runs/tiny/recipe.json", lambda data: data.update(model=None)),
        "recipe.json: not a recipe's settings",
    ),
    "stages that are none": (
        edit_json("tiny/manifest.json", lambda data: data.update(stages=[])),
        "evaluations.json, arm 'rl': weights: ",
    ),
    "resamples beyond any memory": (
        edit_json("tiny/manifest.json", lambda data: data["settings"].update(resamples=10**9)),
        "manifest.json: key 'settings.resamples': Input should be less than or equal to 1000000",
    ),
    "claims that are none": (edit_json("tiny/claims.json", lambda _: [1, None]), "claims.json[0]: 1 stored, "),
    "a calibration that is none": (
        edit_json("calibration/table.json", lambda table: table.update(effort={})),
        "its files are not of the form this version writes",
    ),
    **{
        f"a folder in place of {name}": (make_folder(name), Path(name).name)
        for name in (
            "tiny/samples.jsonl.gz",
            "tiny/evaluations.json",
            "tiny/manifest.json",
            "tiny/report.md",
            f"{SEED}/claims.json",
            "reference_runs/tiny/recipe.json",
            "paper/levels.json",
            "tree.json",
        )
    },
}


@pytest.mark.parametrize("name", EDITS)
def test_what_was_edited_by_hand_is_a_difference_and_no_traceback(results: Path, name: str) -> None:
    edit, said = EDITS[name]
    edit(results)
    differences = verify(results).differences
    assert any(said in difference for difference in differences), differences


@pytest.mark.parametrize("content", ["{}", "7", "[1]", '[{"id": "c"}]', '[{"id": "c", "delta": "x"}]', DEEP])
def test_the_verdict_table_of_junk_is_refused_with_the_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "claims.json").write_text(content)
    refused = CliRunner().invoke(app, ["claims", str(tmp_path)])
    assert refused.exit_code == 1 and isinstance(refused.exception, UserError)
    assert "claims.json: not" in str(refused.exception)
