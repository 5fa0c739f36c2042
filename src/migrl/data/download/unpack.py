"""Unpack zip archives that nobody has looked at: refuse what could do harm, stream, leave all or nothing.

Every member is judged from the central directory before the first byte is written, and again while it
is written, because a header can lie. The content goes to `<target>.partial`, which is renamed when all
is there. A record in the target says what belongs there, so a second call is quick and sees a loss.
"""

import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO, cast

from pydantic import Field

from migrl.data.download.member import METHODS, OTHER_METHODS, decode_name, read_pieces
from migrl.data.download.progress import track_bytes
from migrl.data.download.split_zip import open_zip
from migrl.errors import UserError
from migrl.files import Strict, read_json, write_json
from migrl.running.stage import check_disk

RECORD = ".unpacked.json"
_RATIO_FREE_BYTES = 10_000_000  # a small file may compress as well as it likes
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)


class UnpackLimits(Strict):
    """What an archive may hold: files, bytes when unpacked, bytes unpacked for one byte packed."""

    max_files: Annotated[int, Field(ge=1)]
    max_bytes: Annotated[int, Field(ge=1)]
    max_ratio: Annotated[float, Field(ge=1)] = 200


def unpack_zip(
    archive: Path, target: Path, limits: UnpackLimits, *, holds: Sequence[str] = (), progress: bool = True
) -> bool:
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
            source = stack.enter_context(open_zip(archive, limits.max_files, stack))
            members = _plan(archive, source, limits)
        except (*_ZIP_ERRORS, OSError) as error:
            raise UserError(f"{archive}: not a readable zip archive ({error}); get it again") from error
        root = _find_root(members, holds, archive)
        files = {
            name.removeprefix(root): info
            for name, info in members.items()
            if not name.endswith("/") and name.startswith(root)
        }
        content = {name: f"{info.file_size} {info.CRC:08x}" for name, info in files.items()}
        if _is_unpacked(target, content):
            return False
        total = sum(info.file_size for info in files.values())
        partial = target.with_name(target.name + ".partial")
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        try:
            check_disk(partial, total)
            with track_bytes(f"unpacking {archive.name}", total, show=progress) as advance:
                for name, info in files.items():
                    _extract(archive, source, info, partial / name, advance)
            dropped = sum(not name.endswith("/") for name in members) - len(files)
            write_json(partial / RECORD, {"archive": archive.name, "root": root, "dropped": dropped, "files": content})
        except BaseException:
            shutil.rmtree(partial)
            raise
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    return True


def _find_root(members: Collection[str], holds: Sequence[str], archive: Path) -> str:
    """Prefix, empty or ending in a slash, of the highest folder that has all of `holds` as sub-folders.

    Raises:
        UserError: no folder has them, or two at the same depth do.
    """
    if not holds:
        return ""
    folders = {
        "/".join(parts[:n]) + "/" for name in members for parts in [name.split("/")] for n in range(1, len(parts))
    }
    roots = [root for root in {"", *folders} if all(f"{root}{name}/" in folders for name in holds)]
    roots.sort(key=lambda root: root.count("/"))
    if not roots or (len(roots) > 1 and roots[0].count("/") == roots[1].count("/")):
        found = "two folders" if roots else "no folder"
        top = ", ".join(sorted({name.split("/")[0] for name in members})[:10])
        raise UserError(
            f"{archive}: {found} in it with the sub-folders {', '.join(holds)}; at its top are: {top}; "
            "correct `holds` of this file in sources.yaml"
        )
    return roots[0]


def _is_unpacked(target: Path, content: dict[str, str]) -> bool:
    if not target.exists():
        return False
    if not (target / RECORD).is_file():
        if target.is_dir() and not any(target.iterdir()):
            return False
        raise UserError(f"{target}: is there, but was not unpacked by this program; move it away and start again")
    if read_json(target / RECORD).get("files") != content:
        return False
    return not _list_losses(target, content)


def find_losses(target: Path) -> list[str]:
    """Files of an unpacked archive that are gone or have another size than they came with."""
    if not (target / RECORD).is_file():
        return [RECORD]
    return _list_losses(target, read_json(target / RECORD).get("files", {}))


def _list_losses(target: Path, content: dict[str, str]) -> list[str]:
    return [
        name
        for name, line in content.items()
        if not (target / name).is_file() or (target / name).stat().st_size != int(line.split()[0])
    ]


def _plan(archive: Path, source: zipfile.ZipFile, limits: UnpackLimits) -> dict[str, zipfile.ZipInfo]:
    """Every member by its clean name (folders end in a slash), judged from the central directory alone."""
    members: dict[str, zipfile.ZipInfo] = {}
    taken: dict[str, str] = {}
    for info in source.infolist():
        name = _clean_name(archive, info)
        key = name.rstrip("/")
        is_folder = name.endswith("/")
        if not key or (is_folder and name in members):
            continue
        if key in taken and not (is_folder and taken[key].endswith("/")):
            raise _refuse(archive, info, f"collides with {taken[key]!r}")
        taken[key] = name
        members[name] = info
    for name, info in members.items():
        for n in range(1, len(parts := name.rstrip("/").split("/"))):
            if not taken.get("/".join(parts[:n]), "/").endswith("/"):
                raise _refuse(archive, info, "lies below a member that is a file")
    infos = source.infolist()
    unpacked, packed = sum(info.file_size for info in infos), sum(info.compress_size for info in infos)
    size = cast(BinaryIO, source.fp).seek(0, os.SEEK_END)
    if len(infos) > limits.max_files:
        raise UserError(
            f"{archive}: {len(infos)} members, the limit is {limits.max_files}; see its source, then raise it"
        )
    if unpacked > limits.max_bytes:
        raise UserError(
            f"{archive}: {unpacked} bytes unpacked, the limit is {limits.max_bytes}; see its source, then raise it"
        )
    for info in infos:
        if not 0 <= info.header_offset < size:
            raise _refuse(archive, info, f"starts at byte {info.header_offset} of {size}")
    if packed > size:
        raise UserError(f"{archive}: its members overlap: {packed} packed bytes in {size}; do not use this archive")
    if unpacked > max(_RATIO_FREE_BYTES, limits.max_ratio * size):
        raise UserError(f"{archive}: {size} bytes become {unpacked}, more than {limits.max_ratio} times; it is a bomb")
    return members


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
