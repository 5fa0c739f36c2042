"""`fetched.json`: what was fetched, and the check of every file against it and against sources.yaml."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from migrl.data.download.catalog import Commit, SourceFile
from migrl.data.download.progress import hash_with_progress
from migrl.errors import UserError
from migrl.files import Strict, explain_fault, read_json, write_json

RECORD = "fetched.json"


class FileRecord(Strict):
    """A checked file. `where` is relative to the folder; no size, time stamp or place changed: the hash holds."""

    sha256: str
    bytes: int
    mtime_ns: int
    where: str
    revision: str | None


class _Content(Strict):
    """`fetched.json`. Patterns are named `<owner>/<name>@<commit>/<pattern>`."""

    format: Literal[1] = 1
    revisions: dict[str, Commit] = {}
    patterns: dict[str, list[str]] = {}
    files: dict[str, FileRecord] = {}


class FetchRecord:
    """The record of one folder, saved with every file that is checked; `checked` are those of this call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checked: dict[str, FileRecord] = {}
        path = folder / RECORD
        try:
            self.known = _Content.model_validate(read_json(path) if path.exists() else {})
        except ValidationError as error:
            raise UserError(f"{path}: {explain_fault(error)}; delete it; all is then checked anew") from error

    def save(self) -> None:
        write_json(self.folder / RECORD, self.known.model_dump())

    def has(self, key: str, path: Path, revision: str) -> bool:
        """Whether the file is there, and was checked at this revision."""
        entry = self.known.files.get(key)
        return entry is not None and path.is_file() and entry.revision == revision

    def forget(self, keys: Iterable[str]) -> None:
        """Drop what was recorded of files that turned out to be no good, so that better ones are not refused."""
        for key in keys:
            self.known.files.pop(key, None)
        self.save()

    def check(
        self,
        key: str,
        path: Path,
        file: SourceFile | None = None,
        revision: str | None = None,
        hub_sha256: str | None = None,
    ) -> None:
        """Compare a file with what is stated, else with the first fetch, else with what the Hub states; record it."""
        now = path.stat()
        check_size(str(path), now.st_size, file.bytes if file else None)
        known = self.known.files.get(key)
        where = os.path.relpath(path, self.folder)
        if known and (known.bytes, known.mtime_ns, known.where) == (now.st_size, now.st_mtime_ns, where):
            sha256 = known.sha256
        else:
            sha256 = hash_with_progress(path)
        holds = known and (known.revision == revision or None in (known.revision, revision))
        origins = {
            "sources.yaml says": file.sha256 if file else None,
            f"at the first fetch it was (see {self.folder / RECORD})": known.sha256 if known and holds else None,
            "the Hub says": hub_sha256,
        }
        origin, expected = next(((text, value) for text, value in origins.items() if value), ("", sha256))
        if sha256 != expected:
            raise UserError(
                f"{path}: sha256 is {sha256}, {origin} {expected}; delete the file and get it again, or, if it was "
                "replaced on purpose, state its new hash in sources.yaml"
            )
        entry = FileRecord(sha256=sha256, bytes=now.st_size, mtime_ns=now.st_mtime_ns, where=where, revision=revision)
        self.checked[key] = entry
        if entry != known:
            self.known.files[key] = entry
            self.save()


def check_size(what: str, found: int | None, stated: int | None) -> None:
    if None not in (found, stated) and found != stated:
        raise UserError(
            f"{what}: {found} bytes, sources.yaml says {stated}; delete the file and get the stated version again"
        )
