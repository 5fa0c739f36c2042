"""Reference runs keep their completions: what was scored by an older rule is found, and read again by today's."""

import shutil
from pathlib import Path

import pytest
from rows import pack_lines, read_lines
from run_files import make_results
from typer.testing import CliRunner

from migrl.cli import app
from migrl.errors import UserError
from migrl.evidence.seal import write_tree
from migrl.evidence.verify import verify

SEED = Path("reference_runs/tiny/seed_8")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results whose first reference run keeps its completions, some of them scored by another rule."""
    results = make_results(tmp_path_factory.mktemp("references"))
    path = results / SEED / "samples.jsonl.gz"
    rows = read_lines(results / "tiny/samples.jsonl.gz")
    for row in rows[:3]:
        row.update(status="none", boxes=None, iou=0.0, hit=False)
    pack_lines(rows, path)
    write_tree(results)
    return results


def test_what_an_older_rule_made_of_kept_completions_is_found_and_read_again(results: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(results, tmp_path / "results"))
    differences = verify(copy).differences
    assert any("seed_8: samples.jsonl.gz, arm 'base', sample 'mini_mig:0': status" in text for text in differences)
    done = CliRunner().invoke(app, ["rescore", str(copy / "reference_runs/tiny")])
    assert done.exit_code == 0, done.exception
    first, second = done.output.splitlines()
    assert first.endswith("seed_8: 3 of 48 answers are read otherwise")
    assert second.endswith("seed_9: no completions are kept; run `make seeds SEEDS=9`")
    write_tree(copy)
    found = verify(copy)
    assert found.differences == []
    assert "48 completions scored again, 2 deltas follow" in next(c.done for c in found.checks if c.place == str(SEED))


def test_a_folder_without_reference_runs_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["rescore", str(tmp_path)])
    assert isinstance(done.exception, UserError) and "no reference runs there" in str(done.exception)
