"""Open a zip, split or not, as one ordinary archive.

Split archives (`name.z01`, `name.z02`, ..., `name.zip`) are the volumes in a row. zipfile reads no archive that says it
has several, and takes a member's place for one in the whole where it is one in its volume; so the end of the archive is
replaced by one that knows of no volumes, and the members' places are counted anew.
"""

import io
import os
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from migrl.data.download.progress import CHUNK_BYTES
from migrl.errors import UserError

_DIRECTORY_BYTES_PER_FILE = 1024  # room for one member's name, extra fields and comment
_MAX_VOLUMES = 500
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "the number stands in a zip64 record"
_MEMBER = "filename orig_filename compress_type compress_size file_size CRC flag_bits extra external_attr".split()


class Archive(NamedTuple):
    """An open zip, its members as its directory lists them, and its bytes in all volumes."""

    file: zipfile.ZipFile
    members: list[zipfile.ZipInfo]
    size: int


class _End(NamedTuple):
    """The end of a central directory: the volume it is on, and where the directory starts and how long it is."""

    disk: int
    directory_disk: int
    entries: int
    size: int
    offset: int


def open_zip(path: Path, max_files: int, stack: ExitStack) -> Archive:
    """The archive as one ordinary zip, whether it is split or not; `stack` closes its files.

    Raises:
        UserError: no archive, a volume that is missing, or a directory of more members than `max_files` may need.
        zipfile.BadZipFile, struct.error, ValueError: a broken one.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such archive; download it again")
    file: BinaryIO = stack.enter_context(path.open("rb"))
    end = _read_end(file, path)
    disks = end.disk
    before = [stack.enter_context(volume.open("rb")) for volume in _find_volumes(path, disks)]
    parts = [(part, part.seek(0, os.SEEK_END)) for part in (*before, file)]
    if disks:
        end = _read_end(_join(parts), path)  # parts of it may be on the volume before
    if end.entries > max_files or end.size > max_files * _DIRECTORY_BYTES_PER_FILE:
        raise UserError(
            f"{path}: a directory of {end.entries} members in {end.size} bytes, the limit is {max_files} "
            "members; find out why, then raise it"
        )
    size = sum(size for _, size in parts)
    if not disks:
        source = zipfile.ZipFile(file)
        return Archive(source, source.infolist(), size)
    starts = list(accumulate((size for _, size in parts), initial=0))[:-1]
    directory = _find_start(starts, end.directory_disk) + end.offset
    stop = directory + end.size
    kept = [(part, max(0, min(size, stop - start))) for (part, size), start in zip(parts, starts, strict=True)]
    source = zipfile.ZipFile(_join([*kept, _make_end(end, directory)]))
    members = [_place(info, _find_start(starts, info.volume)) for info in source.infolist()]
    if len(members) != end.entries:
        raise zipfile.BadZipFile(f"{len(members)} members in the central directory, its end says {end.entries}")
    return Archive(source, members, size)


def _find_volumes(path: Path, count: int) -> list[Path]:
    """The volumes that come before the last one, which is `path` itself, in order."""
    if count > _MAX_VOLUMES:
        raise UserError(f"{path}: says it has {count} volumes before it; it is damaged, get it again")
    volumes = [path.with_suffix(f".z{number:02d}") for number in range(1, count + 1)]
    if missing := [volume.name for volume in volumes if not volume.is_file()]:
        raise UserError(
            f"{path}: a split archive of {count + 1} volumes, not beside it: {', '.join(missing)}; get them again"
        )
    return volumes


def _read_end(file: BinaryIO, path: Path) -> _End:
    """The end record at the end of a file, completed from the zip64 record before it."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END.size - _FULL16)  # a comment of up to 65535 bytes may follow the record
    file.seek(start)
    data = file.read()
    at = data.rfind(b"PK\x05\x06", 0, len(data) - _END.size + 4)
    if at < 0:
        raise UserError(f"{path}: no end of a zip archive in it; it is not one or not whole, get it again")
    _, disk, directory_disk, _, entries, length, offset, _ = _END.unpack_from(data, at)
    record = start + at - _LOCATOR64.size - _END64.size
    if record >= 0:
        file.seek(record)
        end64 = file.read(_END64.size)
        if end64.startswith(b"PK\x06\x06") and file.read(4) == b"PK\x06\x07":
            _, _, _, _, disk, directory_disk, _, entries, length, offset = _END64.unpack(end64)
    return _End(disk, directory_disk, entries, length, offset)


def _find_start(starts: list[int], volume: int) -> int:
    if volume >= len(starts):
        raise zipfile.BadZipFile(f"refers to volume {volume + 1} of {len(starts)}")
    return starts[volume]


def _make_end(end: _End, directory: int) -> tuple[BinaryIO, int]:
    """The records after a central directory that starts at byte `directory` of an archive in one piece."""
    count, stop = end.entries, directory + end.size
    data = _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, end.size, directory)
    data += _LOCATOR64.pack(b"PK\x06\x07", 0, stop, 1)
    data += _END.pack(b"PK\x05\x06", 0, 0, _FULL16, _FULL16, _FULL32, _FULL32, 0)
    return io.BytesIO(data), len(data)


def _place(info: zipfile.ZipInfo, start: int) -> zipfile.ZipInfo:
    """A member whose offset counted from `start`; without what newer zipfiles conclude from such offsets."""
    placed = zipfile.ZipInfo()
    for name in _MEMBER:
        setattr(placed, name, getattr(info, name))
    placed.header_offset = start + info.header_offset
    return placed


def _join(parts: Sequence[tuple[BinaryIO, int]]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(JoinedFile(parts), CHUNK_BYTES))


class JoinedFile(io.RawIOBase):
    """The first so many bytes of each of some files, read as one file; it closes none of them."""

    def __init__(self, parts: Sequence[tuple[BinaryIO, int]]) -> None:
        self.parts = parts
        *self.starts, self.end = accumulate((size for _, size in parts), initial=0)
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.end}[whence]
        if position < 0:
            raise OSError(f"seek to {position}, before the start")
        self.position = position
        return position

    def readinto(self, buffer: Any) -> int:
        if self.position >= self.end:
            return 0
        number = bisect_right(self.starts, self.position) - 1
        (file, size), at = self.parts[number], self.position - self.starts[number]
        file.seek(at)
        data = file.read(min(len(buffer), size - at))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
