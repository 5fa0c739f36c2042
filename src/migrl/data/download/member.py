"""A member of a zip: its honest name, and its content in pieces of bounded size.

zipfile bounds what a deflated piece becomes, but unpacks a piece of bzip2 or LZMA whole, and a few kilobytes of it can
become gigabytes. Those are decoded here.
"""

import bz2
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from copy import copy
from typing import IO

from migrl.data.download.progress import CHUNK_BYTES

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
OTHER_METHODS = {9: "deflate64", 93: "zstandard", 95: "xz", 98: "PPMd"}
"""Of those that packers write and Python does not read, the names."""

_UTF8_FLAG = 0x800
_UNICODE_NAME = 0x7075  # an extra field with the name in UTF-8, by the CRC of the name it replaces


def decode_name(info: zipfile.ZipInfo) -> str:
    """A member's name with plain slashes.

    Without the flag for UTF-8 a name is in some code page that the zip does not tell. Bytes that are UTF-8 are taken
    for it, as hardly any other text is; what else there is stays cp437, as the format says. Windows archives have
    backslashes; a doubled slash is one.
    """
    name = info.orig_filename  # zipfile's `filename` is cut at a null byte
    if not info.flag_bits & _UTF8_FLAG:
        raw = name.encode("cp437")
        stated = _find_unicode_name(info.extra, raw)
        try:
            name = (raw if stated is None else stated).decode("utf-8")
        except UnicodeDecodeError:
            pass
    first, *others = name.replace("\\", "/").split("/")
    folder = "/" * bool(others and not others[-1])
    return "/".join([first, *filter(None, others)]) + folder


def _find_unicode_name(extra: bytes, raw: bytes) -> bytes | None:
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        field = extra[at + 4 : at + 4 + size]
        if tag == _UNICODE_NAME and len(field) > 5 and field[:5] == struct.pack("<BL", 1, zlib.crc32(raw)):
            return field[5:]
        at += 4 + size
    return None


def read_pieces(source: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The content of a member, a piece at a time; its checksum is compared at the end.

    Raises:
        zipfile.BadZipFile, zlib.error, EOFError: a damaged member.
    """
    if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with source.open(info) as member:
            while piece := member.read(CHUNK_BYTES):
                yield piece
        return
    packed = copy(info)  # as if it were stored, which gives the packed bytes
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, info.compress_size
    del packed.CRC
    checksum = 0
    with source.open(packed) as member:
        for piece in _decode(member, info):
            checksum = zlib.crc32(piece, checksum)
            yield piece
    if checksum != info.CRC:
        raise zipfile.BadZipFile("bad CRC-32")


def _decode(member: IO[bytes], info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Pieces of a bzip2 or LZMA member until its stream or its bytes end."""
    try:
        decoder = bz2.BZ2Decompressor() if info.compress_type == zipfile.ZIP_BZIP2 else _open_lzma(member, info)
        while not decoder.eof:
            data = member.read(CHUNK_BYTES) if decoder.needs_input else b""
            if decoder.needs_input and not data:
                return
            yield decoder.decompress(data, CHUNK_BYTES)
    except (OSError, lzma.LZMAError) as error:
        raise zipfile.BadZipFile(str(error)) from error


def _open_lzma(member: IO[bytes], info: zipfile.ZipInfo) -> lzma.LZMADecompressor:
    """A decoder by the properties that stand before the packed bytes."""
    head = member.read(9)
    if len(head) < 9 or head[2:4] != b"\5\0" or head[4] >= 225:
        raise zipfile.BadZipFile("no properties of LZMA")
    packed, dictionary = struct.unpack("<BL", head[4:])
    bits, literal = divmod(packed // 9, 5)
    # A dictionary is taken from memory at once, and nobody needs one that is larger than the content.
    size = max(4096, min(dictionary, info.file_size, 1 << 28))
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": size, "lc": packed % 9, "lp": literal, "pb": bits}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)
