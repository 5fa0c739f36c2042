"""Open a zip, split or not, as one ordinary archive.

Split archives (`name.z01`, `name.z02`, ..., `name.zip`) are read as one file: the volumes in a row, then a
central directory whose offsets count from the start of the first volume. zipfile and all checks see
one ordinary zip64 archive.
"""

import io
import os
import struct
import zipfile
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from migrl.data.download.progress import CHUNK_BYTES
from migrl.errors import UserError

_DIRECTORY_BYTES_PER_FILE = 1024  # room for one member's name, extra fields and comment
_MAX_VOLUMES = 500
_CENTRAL = struct.Struct("<4s6H3I5H2I")  # one member of the central directory
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF  # "the number stands in a zip64 record"


@dataclass(frozen=True)
class _End:
    """The end of a central directory: the volume it is on, and where the directory starts and how long it is."""

    disk: int
    directory_disk: int
    entries: int
    size: int
    offset: int


def open_zip(archive: Path, max_files: int, stack: ExitStack) -> zipfile.ZipFile:
    """The archive as one ordinary zip, whether it is split or not; `stack` closes its files."""
    if not archive.is_file():
        raise UserError(f"{archive}: no such archive; download it again")
    file: BinaryIO = stack.enter_context(archive.open("rb"))
    last = _read_end(file, archive)
    if last.disk:
        joined = stack.enter_context(JoinedFile(_find_volumes(archive, last.disk)))
        end = _read_end(cast(BinaryIO, joined), archive)
    else:
        end = last
    if end.entries > max_files or end.size > max_files * _DIRECTORY_BYTES_PER_FILE:
        raise UserError(
            f"{archive}: a directory of {end.entries} members in {end.size} bytes, the limit is {max_files} "
            "members; find out why, then raise it"
        )
    if last.disk:
        _mend_directory(joined, end)
        file = cast(BinaryIO, stack.enter_context(io.BufferedReader(joined, CHUNK_BYTES)))
    return zipfile.ZipFile(file)


def _find_volumes(archive: Path, count: int) -> list[Path]:
    """All volumes in order; `count` come before the last one, which is `archive` itself."""
    if count > _MAX_VOLUMES:
        raise UserError(f"{archive}: says it has {count} volumes before it; it is damaged, get it again")
    volumes = [archive.with_suffix(f".z{number:02d}") for number in range(1, count + 1)]
    if missing := [volume.name for volume in volumes if not volume.is_file()]:
        raise UserError(
            f"{archive}: a split archive of {count + 1} volumes, not beside it: {', '.join(missing)}; get them again"
        )
    return [*volumes, archive]


class JoinedFile(io.RawIOBase):
    """Volumes read as one file, of which everything from some position on can be replaced by bytes."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.starts = [0]
        self._files: list[BinaryIO] = []
        self._tail: bytes | None = None
        self._position = 0
        for path in paths:
            self._files.append(path.open("rb"))
            self.starts.append(self.starts[-1] + path.stat().st_size)
        self._end = self.starts.pop()
        self._limit = self._end

    def replace_end(self, position: int, tail: bytes) -> None:
        """Let `tail` follow the first `position` bytes."""
        self._limit, self._tail, self._end = position, tail, position + len(tail)

    def locate(self, volume: int, offset: int) -> int:
        """Position of a place that a zip record gives as a volume, counted from 0, and an offset in it."""
        if volume >= len(self.starts):
            raise zipfile.BadZipFile(f"refers to volume {volume + 1} of {len(self.starts)}")
        return self.starts[volume] + offset

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        if position < 0:
            raise OSError(f"seek to {position}, before the start")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        wanted, at = len(buffer), self._position
        if at >= self._limit:
            data = (self._tail or b"")[at - self._limit : at - self._limit + wanted]
        else:
            volume = bisect_right(self.starts, at) - 1
            stop = min([self._limit, *self.starts[volume + 1 : volume + 2]])
            data = os.pread(self._files[volume].fileno(), min(wanted, stop - at), at - self.starts[volume])
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _read_end(file: BinaryIO, archive: Path) -> _End:
    """The end record at the end of a file, completed from the zip64 record before it."""
    size = file.seek(0, os.SEEK_END)
    start = max(0, size - _END.size - _FULL16)  # a comment of up to 65535 bytes may follow the record
    file.seek(start)
    data = file.read()
    at = data.rfind(b"PK\x05\x06", 0, len(data) - _END.size + 4)
    if at < 0:
        raise UserError(f"{archive}: no end of a zip archive in it; it is not one or not whole, get it again")
    _, disk, directory_disk, _, entries, length, offset, _ = _END.unpack_from(data, at)
    record = start + at - _LOCATOR64.size - _END64.size
    if record >= 0:
        file.seek(record)
        end64 = file.read(_END64.size)
        if end64.startswith(b"PK\x06\x06") and file.read(4) == b"PK\x06\x07":
            _, _, _, _, disk, directory_disk, _, entries, length, offset = _END64.unpack(end64)
    return _End(disk, directory_disk, entries, length, offset)


def _mend_directory(joined: JoinedFile, end: _End) -> None:
    """Give a split archive a central directory that counts offsets from the start of the first volume.

    Raises:
        zipfile.BadZipFile: an offset outside of the volumes, or a directory that is cut or has other counts.
    """
    start = joined.locate(end.directory_disk, end.offset)
    joined.seek(start)
    data = b"".join(iter(lambda: joined.read(min(CHUNK_BYTES, start + end.size - joined.tell())), b""))
    directory, at, entries = bytearray(), 0, 0
    while at < len(data):
        fields = list(_CENTRAL.unpack_from(data, at))
        name_size, extra_size, comment_size = fields[10:13]
        at += _CENTRAL.size
        stop = at + name_size + extra_size + comment_size
        if fields[0] != b"PK\x01\x02" or stop > len(data):
            raise zipfile.BadZipFile("broken central directory")
        extra, disk, offset = _replace_zip64(data[at + name_size : at + name_size + extra_size], fields, joined)
        if joined.locate(disk, offset) >= start:
            raise zipfile.BadZipFile("a member starts behind the central directory")
        directory += _CENTRAL.pack(*fields[:11], len(extra), comment_size, 0, *fields[14:16], _FULL32)
        directory += data[at : at + name_size] + extra + data[at + name_size + extra_size : stop]
        at, entries = stop, entries + 1
    if (len(data), entries) != (end.size, end.entries):
        raise zipfile.BadZipFile(f"{entries} members in the central directory, its end says {end.entries}")
    end64 = _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, entries, entries, len(directory), start)
    locator = _LOCATOR64.pack(b"PK\x06\x07", 0, start + len(directory), 1)
    last = _END.pack(b"PK\x05\x06", 0, 0, _FULL16, _FULL16, _FULL32, _FULL32, 0)
    joined.replace_end(start, bytes(directory) + end64 + locator + last)


def _replace_zip64(extra: bytes, fields: list[Any], joined: JoinedFile) -> tuple[bytes, int, int]:
    """A member's extra fields with the global offset as zip64, and the volume and offset they held."""
    packed, unpacked, disk, offset = fields[8], fields[9], fields[13], fields[16]
    others, sizes, at = b"", b"", 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        value = extra[at + 4 : at + 4 + size]
        if tag == 1:
            count = 8 * ((unpacked == _FULL32) + (packed == _FULL32))
            sizes, value = value[:count], value[count:]
            if offset == _FULL32:
                offset, value = struct.unpack_from("<Q", value)[0], value[8:]
            if disk == _FULL16:
                disk = struct.unpack_from("<I", value)[0]
        else:
            others += extra[at : at + 4 + size]
        at += 4 + size
    zip64 = sizes + struct.pack("<Q", joined.locate(disk, offset))
    return struct.pack("<2H", 1, len(zip64)) + zip64 + others, disk, offset
