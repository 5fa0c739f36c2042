"""Folders that others made: only plain files are taken, each within a bound; links, devices and pipes are refused.

A link may lead anywhere, also to a file that was never meant to be read or to one without an end, so none is followed.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from migrl.errors import UserError

BLOCK = 8 << 20
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def list_plain_files(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by relative POSIX name.

    Raises:
        UserError: anything in it that is neither a plain file nor a folder.
    """
    sizes: dict[str, int] = {}
    waiting = [folder]
    while waiting:
        for entry in scan_folder(waiting.pop()):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            else:
                refuse_special(path)
                sizes[path.relative_to(folder).as_posix()] = entry.stat(follow_symlinks=False).st_size
    return sizes


def scan_folder(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies directly in a folder, by name."""
    with os.scandir(folder) as entries:
        yield from sorted(entries, key=lambda entry: entry.name)


def refuse_special(path: Path) -> None:
    """Stop at what is no plain file.

    Raises:
        UserError: naming it, its kind and the remedy.
    """
    kind = stat.S_IFMT(path.lstat().st_mode)
    if kind != stat.S_IFREG:
        what = _KINDS.get(kind, "no file")
        remedy = "put the file itself in its place" if kind == stat.S_IFLNK else "take it out of the folder"
        raise UserError(f"{path}: is {what}, and only plain files are taken; {remedy}")


def refuse_large(path: Path, size: int, limit: int) -> None:
    """Stop at a file above a bound; both are in bytes.

    Raises:
        UserError: naming it, its size and the bound.
    """
    if size > limit:
        raise UserError(
            f"{path}: has {size / 1e6:,.0f} MB, and such a file may have {limit / 1e6:,.0f} MB; put the right one there"
        )


def copy_plain(source: Path, target: Path, size: int) -> None:
    """Copy a plain file that was found with `size` bytes; folders are made for it.

    Raises:
        UserError: it is none any more, or it has another size now.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Neither a link nor the wait for a pipe's other end, should one have come in its place.
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file, target.open("wb") as copy:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            refuse_special(source)
        left = size
        while block := file.read(min(BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            copy.write(block)
    if left:
        raise UserError(f"{source}: changed while it was copied; start again when nothing writes to it")
