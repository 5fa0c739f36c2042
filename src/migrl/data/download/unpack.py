"""Unpack zip archives that nobody has looked at: refuse what could do harm, stream, leave all or nothing.

Every member is judged from the central directory before the first byte is written, and again while it
is written, because a header can lie. The content goes to `<target>.partial`, which is renamed when all
is there. A record in the target says what belongs there, so a second call is quick and sees a loss.
"""

import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from pydantic import Field

from migrl.data.download.member import METHODS, OTHER_METHODS, decode_name, read_pieces
from migrl.data.download.progress import track_bytes
from migrl.data.download.split_zip import open_zip
from migrl.errors import UserError
from migrl.files import Strict, delete, read_json, write_json
from migrl.running.stage import check_disk

RECORD = ".unpacked.json"
_RATIO_FREE_BYTES = 10_000_000  # a small file may compress as well as it likes
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, OverflowError)


class UnpackLimits(Strict):
    """What an archive may hold: files, bytes when unpacked, bytes unpacked for one byte packed."""

    max_files: Annotated[int, Field(ge=1)]
    max_bytes: Annotated[int, Field(ge=1)]
    max_ratio: Annotated[float, Field(ge=1)] = 200


def unpack_zip(archive: Path, target: Path, limits: UnpackLimits, *, holds: Sequence[str] = ()) -> bool:
    """Unpack into the folder `target` unless its record says that all is there; return whether it was done.

    With `holds`, the highest folder of the archive that has all these sub-folders becomes the target;
    what lies outside of it is left out, and counted in the record. A target that lost a file, or was
    filled from another archive, is unpacked again as a whole.

    Raises:
        UserError: no archive or volume, a damaged or hostile archive, a limit passed, too little disk,
            or a target that this function did not write.
    """
    with ExitStack() as stack:
        try:
            source, members, size = open_zip(archive, limits.max_files, stack)
            files, folders = _plan(archive, members)
            _check_amounts(archive, members, size, limits)
        except (*_ZIP_ERRORS, OSError) as error:
            raise UserError(f"{archive}: not a readable zip archive ({error}); get it again") from error
        root = _find_root(folders, holds, archive)
        kept = {name.removeprefix(root): info for name, info in files.items() if name.startswith(root)}
        content = {name: f"{info.file_size} {info.CRC:08x}" for name, info in kept.items()}
        if _is_unpacked(target, content):
            return False
        total = sum(info.file_size for info in kept.values())
        partial = target.with_name(target.name + ".partial")
        delete(partial)
        partial.mkdir(parents=True)
        try:
            check_disk(partial, total)
            with track_bytes(f"unpacking {archive.name}", total) as advance:
                for name, info in kept.items():
                    _extract(archive, source, info, partial / name, advance)
            left_out = len(files) - len(kept)
            write_json(partial / RECORD, {"archive": archive.name, "root": root, "dropped": left_out, "files": content})
        except BaseException:
            delete(partial)
            raise
    delete(target)
    partial.rename(target)
    return True


def _find_root(folders: Collection[str], holds: Sequence[str], archive: Path) -> str:
    """Prefix, empty or ending in a slash, of the highest folder that has all of `holds` as sub-folders.

    Raises:
        UserError: no folder has them, or two at the same depth do.
    """
    if not holds:
        return ""
    tops = ("", *(f"{folder}/" for folder in folders))
    roots = [root for root in tops if all(f"{root}{name}" in folders for name in holds)]
    roots.sort(key=lambda root: root.count("/"))
    if not roots or (len(roots) > 1 and roots[0].count("/") == roots[1].count("/")):
        found = "two folders" if roots else "no folder"
        top = ", ".join(sorted(folder for folder in folders if "/" not in folder)[:10])
        raise UserError(
            f"{archive}: {found} in it with the sub-folders {', '.join(holds)}; at its top are: {top}; "
            "correct `holds` of this file in sources.yaml"
        )
    return roots[0]


def _is_unpacked(target: Path, content: dict[str, str]) -> bool:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    if not (target / RECORD).is_file():
        raise UserError(f"{target}: is there, but was not unpacked by this program; move it away and start again")
    return read_json(target / RECORD).get("files") == content and not find_losses(target)


def find_losses(target: Path) -> list[str]:
    """Files of an unpacked archive that are gone or have another size than they came with."""
    if not (target / RECORD).is_file():
        return [RECORD]
    return [
        name
        for name, line in read_json(target / RECORD).get("files", {}).items()
        if not (target / name).is_file() or (target / name).stat().st_size != int(line.split()[0])
    ]


def _plan(archive: Path, members: list[zipfile.ZipInfo]) -> tuple[dict[str, zipfile.ZipInfo], set[str]]:
    """The files by their clean names, and the names of all folders around them, from the central directory alone."""
    files: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in members:
        name = _clean_name(archive, info)
        parts = name.split("/")
        folders.update("/".join(parts[:n]) for n in range(1, len(parts)))
        if not parts[-1]:
            continue
        if name in files:
            raise _refuse(archive, info, "is there twice")
        files[name] = info
    for name in files.keys() & folders:
        raise _refuse(archive, files[name], "is a file and a folder")
    return files, folders - {""}


def _check_amounts(archive: Path, members: list[zipfile.ZipInfo], size: int, limits: UnpackLimits) -> None:
    """Refuse an archive of `size` bytes that says it becomes more than it may."""
    unpacked, packed = sum(info.file_size for info in members), sum(info.compress_size for info in members)
    if len(members) > limits.max_files:
        raise UserError(
            f"{archive}: {len(members)} members, the limit is {limits.max_files}; see its source, then raise it"
        )
    if unpacked > limits.max_bytes:
        raise UserError(
            f"{archive}: {unpacked} bytes unpacked, the limit is {limits.max_bytes}; see its source, then raise it"
        )
    for info in members:
        if not 0 <= info.header_offset < size:
            raise _refuse(archive, info, f"starts at byte {info.header_offset} of {size}")
    if packed > size:
        raise UserError(f"{archive}: its members overlap: {packed} packed bytes in {size}; do not use this archive")
    if unpacked > max(_RATIO_FREE_BYTES, limits.max_ratio * size):
        raise UserError(f"{archive}: {size} bytes become {unpacked}, more than {limits.max_ratio} times; it is a bomb")


def _clean_name(archive: Path, info: zipfile.ZipInfo) -> str:
    """Name of a member without `.` parts; refuses whatever could leave the target or is not a plain file."""
    name = decode_name(info)
    mode = stat.S_IFMT(info.external_attr >> 16)
    is_folder = name.endswith("/")
    parts = name.removesuffix("/").split("/")
    faults = {
        "has a control character in its name": bool(re.search(r"[\x00-\x1f\x7f]", name)),
        "has an absolute name": name.startswith("/") or bool(re.match(r"[A-Za-z]:", name)),
        "has an empty or `..` part in its name": "" in parts or ".." in parts,
        "has a name too long for a file": any(len(part.encode()) > 255 for part in parts) or len(name) > 2000,
        "would overwrite the record": _fold(parts[-1]) == RECORD,
        "is encrypted": bool(info.flag_bits & 0x2041),
        "is a link, a device or another special file": mode not in (0, stat.S_IFREG, stat.S_IFDIR),
        "is a folder by its mode and a file by its name": mode == stat.S_IFDIR and not is_folder,
        "is a folder with content": is_folder and info.file_size > 0,
        "unpacks to too much for its packed size": info.file_size > max(_RATIO_FREE_BYTES, 1100 * info.compress_size),
    }
    for fault, found in faults.items():
        if found:
            raise _refuse(archive, info, fault)
    if info.compress_type not in METHODS:
        method = OTHER_METHODS.get(info.compress_type, f"method {info.compress_type}")
        raise UserError(
            f"{archive}: member {info.orig_filename!r} is packed with {method}, which Python does not read; unpack the "
            "archive with 7-Zip and pack the files again with deflate, under the same name"
        )
    return "/".join(part for part in parts if part != ".") + ("/" if is_folder else "")


def _refuse(archive: Path, info: zipfile.ZipInfo, fault: str) -> UserError:
    return UserError(f"{archive}: member {info.orig_filename!r} {fault}; do not use this archive, get it again")


def _fold(name: str) -> str:
    """What a file system that ignores case and Unicode form makes of a name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _extract(
    archive: Path, source: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, advance: Callable[[int], None]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    try:
        with path.open("xb") as file:
            for piece in read_pieces(source, info):
                written += len(piece)
                if written > info.file_size:
                    break
                file.write(piece)
                advance(len(piece))
    except FileExistsError as error:  # names that differ in case only are two files, where the file system can
        raise _refuse(archive, info, "has the name of another one on this file system") from error
    except _ZIP_ERRORS as error:
        raise _refuse(archive, info, f"is damaged ({error})") from error
    if written != info.file_size:
        raise _refuse(archive, info, f"is not of the {info.file_size} bytes that its header says")
