"""A log of finished samples, a JSON line each: it survives a kill, which may tear its last line."""

import json
import os
from pathlib import Path
from typing import Any, TextIO

from migrl.errors import UserError


def read_log(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of a log by uid; a torn last line is left out: its process was killed, or is writing it.

    Raises:
        UserError: another line is broken, or has no uid.
    """
    rows: dict[str, dict[str, Any]] = {}
    data = path.read_bytes()
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        try:
            row = json.loads(line)
            rows[row["uid"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: broken ({error}); delete it and run its stage again") from error
    return rows


class ProgressLog:
    """An append-only JSONL log of finished samples, keyed by uid, for stages that may be killed.

    Opening it reads it (`read_log`) and drops a torn last line, the only place a kill can tear. Each appended batch is
    flushed to disk before the call returns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = read_log(path) if path.exists() else {}
        if path.exists():
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file: TextIO = path.open("a", encoding="utf-8")

    def __contains__(self, uid: str) -> bool:
        return uid in self.rows

    def append(self, rows: list[dict[str, Any]]) -> None:
        """Add finished rows, each with its `uid`."""
        self._file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows.update((row["uid"], row) for row in rows)

    def close(self) -> None:
        self._file.close()
