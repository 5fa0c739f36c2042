"""Fill a folder with one source: find or download its files, check them, unpack them, lay them out."""

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from migrl.data.download.catalog import DOWNLOADS, Source, SourceFile
from migrl.data.download.progress import hash_with_progress
from migrl.data.download.record import FetchRecord, check_size
from migrl.data.download.unpack import find_losses, unpack_zip
from migrl.errors import UserError
from migrl.files import take_lock
from migrl.running.stage import check_disk

if TYPE_CHECKING:
    from migrl.data.download.hub import Hub

_Found = list[tuple[SourceFile, str, Path]]
"""Files that were got: the entry in sources.yaml, the path in its repository, and where the file is."""


@dataclass(frozen=True)
class FetchedFile:
    """What a file of a source is: SHA-256 and size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Obtained:
    """A source that is ready: where to read it, and what it was made from.

    `files` are named `<owner>/<name>/<path>`. A revision is None where files came from the user's own folder.
    """

    source: str
    annotations: Path
    images: Path
    files: dict[str, FetchedFile]
    revisions: dict[str, str | None]


def obtain(source: Source, folder: Path, *, offline: Path | None = None, endpoint: str | None = None) -> Obtained:
    """Download a source into `folder`, or take it from the folder `offline`; check it, unpack it, lay it out.

    A second call does only what is missing, and touches no network when nothing is. `offline` holds
    `<owner>/<name>/<path>` or `<path>` for each file; its files are linked or copied, never changed.
    `endpoint` replaces the Hub's address.

    Raises:
        UserError: no access, no network, a missing file, a wrong size or hash, an archive that is refused,
            too little disk, or another process at work in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with take_lock(folder / ".lock", f"{folder}: another process fetches into this folder; wait until it has ended"):
        record = FetchRecord(folder)
        base = folder / source.folder
        found: _Found = []
        revisions: dict[str, str | None] = dict.fromkeys(source.repos)
        if source.manual:
            base = _find_by_hand(source, folder, offline, record)
        elif offline:
            found = _find_offline(source, offline, record)
        else:
            from migrl.data.download.hub import Hub  # imports huggingface_hub, which takes a while

            hub = Hub(source.repos, endpoint)
            commits = _pin_commits(source, hub, record)
            found = _download(source, folder, commits, hub, record)
            revisions.update(commits)
        for file, name, path in found:
            try:
                lay_out(file, name, path, base)
            except UserError:
                record.forget(f"{file.repo}/{other}" for entry, other, _ in found if entry == file)  # every volume
                raise
        if source.files and not any(file.unpack for file in source.files):
            (base / source.images).mkdir(parents=True, exist_ok=True)  # pictures inside parquet: the loader fills it
        for part in (source.annotations, source.images):
            if not (base / part).exists():
                raise UserError(
                    f"{base / part}: not there after all files of source {source.name!r} were laid out; "
                    "correct `annotations`, `images` or `into` in sources.yaml"
                )
        files = {key: FetchedFile(entry.sha256, entry.bytes) for key, entry in record.checked.items()}
        return Obtained(source.name, base / source.annotations, base / source.images, files, revisions)


def find_changes(source: Source, folder: Path) -> list[str]:
    """Files of a fetched source that are not what they were: hashes of plain files, sizes of unpacked ones."""
    record, base = FetchRecord(folder), folder / source.folder
    changes = []
    for file in source.files:
        if file.unpack:
            changes += [f"{file.into}/{name}" for name in find_losses(base / file.into)]
            continue
        for key, entry in record.known.files.items():
            path = key.removeprefix(f"{file.repo}/")
            if path != key and file.matches(path):
                place = base / file.into / path
                if not place.is_file() or hash_with_progress(place) != entry.sha256:
                    changes.append(place.relative_to(base).as_posix())
    return changes


def _find_by_hand(source: Source, folder: Path, offline: Path | None, record: FetchRecord) -> Path:
    """Folder where the user put what cannot be downloaded: annotations are a file, or a folder of parquet files."""
    places = [folder / source.folder]
    if offline:
        places += [offline / source.folder, offline]
    for place in places:
        annotations = place / source.annotations
        files = [annotations] if annotations.is_file() else sorted(annotations.glob("*.parquet"))
        if files and (place / source.images).is_dir():
            for path in files:
                record.check(f"manual/{source.name}/{path.relative_to(place).as_posix()}", path)
            return place
    raise UserError(
        f"{places[0]}: source {source.name!r} has to be put there by hand: `{source.annotations}` and "
        f"`{source.images}`. {source.manual}"
    )


def refuse_missing(sources: Iterable[Source], offline: Path) -> None:
    """Look for every file of all sources in the user's own folder, before any of them is unpacked.

    Raises:
        UserError: naming all that are missing.
    """
    if not offline.is_dir():
        raise UserError(f"--offline {offline}: no such folder; name the one that has the files")
    missing = dict.fromkeys(
        f"{file.repo}/{file.path}" for source in sources for file in source.files if not _find_files(offline, file)
    )
    if missing:
        raise UserError(
            f"{offline}: {len(missing)} files are missing: {', '.join(missing)}; "
            "put them there under these names, or leave --offline away to download them"
        )


def _find_offline(source: Source, offline: Path, record: FetchRecord) -> _Found:
    """Every file in the user's own folder."""
    refuse_missing([source], offline)
    found = [(file, name, path) for file in source.files for name, path in _find_files(offline, file)]
    for file, name, path in found:
        record.check(f"{file.repo}/{name}", path, file)
    return found


def _find_files(offline: Path, file: SourceFile) -> list[tuple[str, Path]]:
    """A file, or all that a pattern means, below `<owner>/<name>` in the user's folder, else flat in it."""
    for root in (offline / file.repo, offline):
        paths = sorted(root.glob(file.path)) if file.is_pattern else [root / file.path]
        if found := [(path.relative_to(root).as_posix(), path) for path in paths if path.is_file()]:
            return found
    return []


def _pin_commits(source: Source, hub: "Hub", record: FetchRecord) -> dict[str, str]:
    """Commit of each repository: the pinned one, else the recorded one, else the newest, which is then recorded."""
    commits = {}
    for name, repo in source.repos.items():
        if not repo.revision and name not in record.known.revisions:
            record.known.revisions[name] = hub.find_commit(name)
            record.save()
        commits[name] = repo.revision or record.known.revisions[name]
    return commits


def _download(source: Source, folder: Path, commits: dict[str, str], hub: "Hub", record: FetchRecord) -> _Found:
    """Every file under `downloads/`; asks the Hub only for what is not there, checked, at its commit."""
    found = [
        (file, name, folder / DOWNLOADS / file.repo / name)
        for file in source.files
        for name in _list_paths(file, commits[file.repo], hub, record)
    ]
    wanted: dict[Path, tuple[int | None, str | None]] = {}
    for file, name, path in found:
        key, commit = f"{file.repo}/{name}", commits[file.repo]
        if not record.has(key, path, commit):
            wanted[path] = hub.find_size_and_hash(file.repo, name, commit)
            check_size(key, wanted[path][0], file.bytes)
    check_disk(folder, sum(size or 0 for path, (size, _) in wanted.items() if not path.is_file()))
    for file, name, path in found:
        commit = commits[file.repo]
        size, sha256 = wanted.get(path, (None, None))
        if path in wanted:
            hub.download(file.repo, name, commit, size, path)
        record.check(f"{file.repo}/{name}", path, file, commit, sha256)
    return found


def _list_paths(file: SourceFile, commit: str, hub: "Hub", record: FetchRecord) -> list[str]:
    """Paths that an entry stands for, asked from the Hub once for each commit."""
    if not file.is_pattern:
        return [file.path]
    key = f"{file.repo}@{commit}/{file.path}"
    if key not in record.known.patterns:
        found = sorted(name for name in hub.list_files(file.repo, commit) if file.matches(name))
        if not found:
            raise UserError(f"{file.repo}: nothing there matches {file.path!r}; correct the path in sources.yaml")
        record.known.patterns[key] = found
        record.save()
    return record.known.patterns[key]


def lay_out(file: SourceFile, name: str, path: Path, base: Path) -> None:
    """Unpack a zip into the source's folder, or link any other file there; a copy where links are impossible."""
    if file.unpack and file.limits:
        if not re.search(r"\.z\d+$", name):  # volumes are read together with their .zip
            unpack_zip(path, base / file.into, file.limits, holds=file.holds)
        return
    path, place = path.resolve(), base / file.into / name
    place.parent.mkdir(parents=True, exist_ok=True)
    have, want = place.stat() if place.exists() else None, path.stat()
    if have and (have.st_size, have.st_mtime_ns) == (want.st_size, want.st_mtime_ns):
        return
    temporary = place.with_name(place.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        check_disk(place.parent, want.st_size)
        shutil.copy2(path, temporary)
    temporary.replace(place)
