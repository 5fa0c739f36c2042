"""Files as all of migrl writes them: whole or not there, also after a kill or a power cut.

A file is written beside its place under a hidden name, which nothing counts as a result, flushed to the disk, and
renamed. A folder that has to go is renamed to a hidden name first, so that nobody meets it half deleted.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, ValidationError

from migrl.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
"""The source tree, which holds reproduce/ and results/."""
ASIDE = ".migrl-"
"""How every name begins that only a command at work, or one that was killed, has: no one else's does."""
AT_FDCWD = -100  # from linux/fcntl.h: names are seen from the working folder
RENAME_EXCHANGE = 2  # from linux/fs.h
NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV)
"""What a file system says that cannot exchange two names."""


def hash_json(data: Any) -> str:
    """SHA-256 of canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def format_json(data: Any) -> str:
    """JSON as every file of the evidence is written."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write JSON; a reader sees the old file or the new one, never half."""
    write_text(path, format_json(data))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with `\\n` line ends; a reader sees the old file or the new one, never half."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file; a reader sees the old one or the new one, never half."""
    temporary = name_aside(path, "tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is told without one
        raise


def read_json(path: Path) -> Any:
    """Decoded JSON of a file that a stage wrote.

    Raises:
        UserError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the stage that writes it") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); put a plain file there that you may read") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); delete its folder and run the stage again") from error


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold half of a surrogate pair."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]] | list[dict[str, Any]], *, append: bool = False) -> int:
    """Write rows, one JSON object a line, or add them to those that are there; return their number."""
    count = 0
    with path.open("a" if append else "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path, *, remedy: str = "delete it and run its stage again") -> list[dict[str, Any]]:
    """Every row of a finished JSONL file.

    Raises:
        UserError: the file is missing, or a line is torn or no JSON object (its number is named).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run the stage that writes it") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); {remedy}") from error
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: torn or not JSON ({error}); {remedy}") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object; {remedy}")
        rows.append(row)
    return rows


class Strict(BaseModel):
    """Data that people or other programs write: no unknown key, and nothing changes once it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def explain_fault(error: ValidationError, *above: str) -> str:
    """The first thing that is wrong with data, and its dotted key; `above` are the keys that lead to the data."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(map(str, (*above, *fault["loc"])))
    return f"key {key!r}: {fault['msg']}" if key else fault["msg"]


def find_from_root(path: Path) -> Path:
    """A path that a recipe names, seen from here or else from the source tree."""
    return path if path.exists() else ROOT / path


def sync_file(path: Path) -> None:
    """Wait until the disk has a file's bytes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has a folder's names. A file is safe when both it and its name are."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot, such as one over the network
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, leave: Collection[str] = ()) -> None:
    """Wait until the disk has every file and every name below `folder`, but for the folders in it named in `leave`."""
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in leave]
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                sync_file(path)
        sync_folder(Path(parent))


def name_aside(path: Path, what: str) -> Path:
    """A hidden name beside a path that nobody else uses: `tmp` of a file, `new` or `rest` of a folder."""
    return path.with_name(f"{ASIDE}{path.name}.{what}")


def open_lock(path: Path) -> BinaryIO:
    """A file to lock, which holds nothing; made if it is not there, and never one that a link leads to."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+b")


def take_lock(path: Path, refusal: str) -> BinaryIO:
    """Hold a lock until the file is closed or this process ends, however it ends.

    Raises:
        UserError: with the words `refusal`, if another process holds it.
    """
    lock = open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(refusal) from error
    return lock


def delete(path: Path) -> None:
    """Delete whatever has a name; of a link the link, never what it leads to."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def remove_folder(folder: Path) -> None:
    """Delete a folder, if it is there. Its name is free at once; of a kill a hidden rest is left for `clear_rests`."""
    rest = name_aside(folder, "rest")
    delete(rest)
    if os.path.lexists(folder):
        folder.rename(rest)
        delete(rest)


def clear_rests(folder: Path) -> None:
    """Delete what killed commands left half deleted in `folder`."""
    for rest in folder.glob(f"{ASIDE}*.rest"):
        delete(rest)


def put_folder(made: Path, place: Path) -> None:
    """Put a folder, which the disk has (`sync_tree`), in the place of another; a reader finds one of the two, whole.

    On a file system that cannot exchange two names there is a moment with none. On one whose lower layer cannot be
    renamed, as in a container's image, the old one is deleted first.
    """
    rest = name_aside(place, "rest")
    delete(rest)
    if os.path.lexists(place) and _exchange(made, place):
        made.rename(rest)
    else:
        if os.path.lexists(place):
            try:
                place.rename(rest)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                delete(place)
        made.rename(place)
    sync_folder(place.parent)
    delete(rest)


def _exchange(a: Path, b: Path) -> bool:
    """Let two names change places in one step; False where the file system cannot.

    Raises:
        OSError: it can, but did not.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not library.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(b))
