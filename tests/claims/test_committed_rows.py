"""The committed rows: parsed and written again they are the bytes that lie there, and scored again the same rows."""

from pathlib import Path

import pytest

from migrl.scoring.rows import load_rows, pack_rows, rescore_row

RESULTS = Path(__file__).resolve().parents[2] / "results"
FILES = sorted(RESULTS.rglob("samples.jsonl.gz"))


@pytest.mark.parametrize("path", FILES, ids=[path.parent.name for path in FILES])
def test_rows_are_rewritten_byte_for_byte_and_rescored_alike(path: Path, tmp_path: Path) -> None:
    rows = load_rows(path)
    pack_rows(rows, tmp_path / path.name)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert [rescore_row(row) for row in rows] == rows
