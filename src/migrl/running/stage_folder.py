"""A stage's folder: whole under the stage's name, or at work under `<stage>.partial`.

What comes on the disk, in this order, and why a kill or a power cut after any of it loses nothing that was finished:

1. `.partial/.key`, written once: whose work this is. Without it nothing was begun; with another key all of it goes.
2. At every start, before any work, all goes that is no working state: what an earlier attempt left is no output.
3. Working state (hidden files, `WORKING_FOLDERS`) and outputs. The next attempt goes on from the first and makes the
   second again.
4. `manifest.json`, when every output is safe on the disk. From here on the folder is whole: a start that finds it puts
   it in its place and works no more.
5. The folder of an older result gets a hidden name, `.partial` gets the stage's. Between the two, `.partial` is whole.
6. Checkpoints, downloads and the older result are deleted. A start that finds rests of them deletes them first.

Temporary files have hidden names, which are never outputs. A folder is renamed before it is deleted, so nothing half
deleted is met under a name that counts.
"""

import os
import time
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.files import (
    clear_rests,
    delete,
    hash_file,
    hash_json,
    name_aside,
    read_json,
    remove_folder,
    sync_folder,
    sync_tree,
    write_bytes,
    write_json,
)
from migrl.recipe import Recipe
from migrl.running.stage import (
    DOWNLOAD,
    MANIFEST,
    PROGRESS,
    RUN_FORMAT,
    TENSORBOARD,
    StageContext,
    StageWork,
    describe_machine,
    measure_peak_memory_mb,
    read_manifest,
)

PARTIAL = ".partial"
KEY = ".key"
FORCED = ".forced"  # beside the key: the work replaces a finished result, which does not make it needless
ATTEMPTS = ".attempts.json"
PASSING_FOLDERS = ("checkpoints", DOWNLOAD)
"""What only a resume needs; deleted when the stage is finished."""
WORKING_FOLDERS = (*PASSING_FOLDERS, TENSORBOARD, PROGRESS)
"""State and time stamps, no result; kept between attempts."""


def run_stage(work: StageWork, recipe: Recipe, folder: Path, *, force: bool = False) -> bool:
    """Run one stage unless its result is there; return whether it ran.

    With `force` it is run from its beginning. If that is cut short, a start without goes on with it.

    Raises:
        UserError: bad input, or a folder written by another format version.
    """
    key = work.key
    partial = folder.with_name(folder.name + PARTIAL)
    clear_rests(folder.parent)
    if not force:
        if is_whole(partial, key):
            put_in_place(partial, folder)
        if not _is_claimed(partial, key, FORCED) and is_finished(folder, key):
            drop_passing(folder)
            return False
    claim_partial(partial, key, fresh=force)
    attempts = note_attempt(partial)
    clear_outputs(partial)
    start = time.monotonic()
    facts = work.run(StageContext(work.name, recipe, work.inputs, partial))
    seconds = time.monotonic() - start
    sync_tree(partial, leave=PASSING_FOLDERS)
    outputs = hash_outputs(partial)
    manifest = {
        "run_format": RUN_FORMAT,
        "stage": work.name,
        "stage_format": work.format,
        "key": key,
        "digest": hash_json([key, {name: output["sha256"] for name, output in outputs.items()}]),
        "inputs": {name: read_manifest(path)["digest"] for name, path in work.inputs.items()},
        "recipe": work.sections,
        "facts": facts,
        "outputs": outputs,
        "seconds": round(sum(attempts) + seconds, 2),
        "attempts": len(attempts) + 1,
        "peak_memory_mb": measure_peak_memory_mb(),
        "machine": describe_machine(),
    }
    write_json(partial / MANIFEST, manifest)
    put_in_place(partial, folder)
    drop_passing(folder)
    return True


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the finished result for `key`, with every output at its recorded size.

    Raises:
        UserError: it does, but for an output.
    """
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_manifest(folder)
    if manifest["key"] != key:
        return False
    lost = _find_lost(folder, manifest)
    if lost is not None:
        raise UserError(f"{lost}: missing or changed since its stage finished; run the stage again with --force")
    return True


def is_whole(partial: Path, key: str) -> bool:
    """Whether a stage for `key` was finished but for the last renames."""
    if not _is_claimed(partial, key, KEY) or not (partial / MANIFEST).exists():
        return False
    manifest = read_manifest(partial)
    return bool(manifest["key"] == key) and _find_lost(partial, manifest) is None


def _find_lost(folder: Path, manifest: dict[str, Any]) -> Path | None:
    for name, output in manifest["outputs"].items():
        path: Path = folder / name
        if not path.is_file() or path.stat().st_size != output["size"]:
            return path
    return None


def _is_claimed(partial: Path, key: str, marker: str) -> bool:
    """Whether a partial folder is the work for `key`; with the marker FORCED, only if that was asked for again."""
    return (partial / marker).is_file() and (partial / KEY).is_file() and (partial / KEY).read_text() == key


def put_in_place(partial: Path, folder: Path) -> None:
    """Give a whole partial folder its stage's name."""
    if os.path.lexists(folder):
        folder.rename(name_aside(folder, "rest"))
    partial.rename(folder)
    sync_folder(folder.parent)
    clear_rests(folder.parent)


def drop_passing(folder: Path) -> None:
    """Delete from a finished folder what only a resume would have needed."""
    clear_rests(folder)
    for name in PASSING_FOLDERS:
        remove_folder(folder / name)


def claim_partial(partial: Path, key: str, *, fresh: bool) -> None:
    """Open the partial folder for `key`; with `fresh`, or where it was made for another key, empty."""
    if fresh or not _is_claimed(partial, key, KEY):
        remove_folder(partial)
        partial.mkdir(parents=True)
        if fresh:
            (partial / FORCED).touch()
        write_bytes(partial / KEY, key.encode())


def clear_outputs(partial: Path) -> None:
    """Delete all but working state: what an earlier attempt left is made again."""
    for path in list(partial.iterdir()):
        if not is_working(path.relative_to(partial)):
            delete(path)


def is_working(name: Path) -> bool:
    """Whether a file's name within a stage's folder says that it is no output."""
    return name.parts[0] in WORKING_FOLDERS or any(part.startswith(".") for part in name.parts)


def note_attempt(partial: Path) -> list[float]:
    """Note that work begins in a partial folder; return the seconds of the attempts before, which were cut short.

    An attempt that was killed could not say when. It lasted at least until the last file it wrote: what it did after
    that is lost, and not counted.
    """
    path = partial / ATTEMPTS
    noted = read_json(path) if path.exists() else {"seconds": [], "started": None}
    ended: list[float] = noted["seconds"]
    if noted["started"] is not None:
        written = [file.lstat().st_mtime for file in partial.rglob("*") if file.is_file() and file.name[0] != "."]
        ended = [*ended, round(max([0.0, *(moment - noted["started"] for moment in written)]), 2)]
    write_json(path, {"seconds": ended, "started": time.time()})
    return ended


def hash_outputs(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every output in a stage's folder."""
    outputs = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.name != MANIFEST and not is_working(name):
            outputs[name.as_posix()] = {"size": path.stat().st_size, "sha256": hash_file(path)}
    return outputs
