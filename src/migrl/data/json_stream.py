"""A JSON list of records, read in pieces: MGrounding-630k.json has 1.4 GB."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from migrl.benchmarks.fields import REMEDY
from migrl.errors import UserError

_CHUNK_CHARS = 1 << 20
_MAX_RECORD_CHARS = 1 << 24  # no record comes near it; a file without a closing bracket must not fill the memory
_SPACE = " \t\r\n"


def stream_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, record) of a JSON list of objects; at most a record and a MB of the file are in memory.

    Raises:
        UserError: no such file, not UTF-8, not a list of objects, or torn; the index of the record is named.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _scan_list(path, file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run `migrl fetch`") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); {REMEDY}") from error


def _scan_list(path: Path, file: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder = json.JSONDecoder()
    text, at, index, more = "", 0, 0, True

    def look(skipped: str = _SPACE) -> str:
        """The next character that is none of the skipped ones, reading on as needed; empty at the end."""
        nonlocal text, at, more
        while True:
            while at < len(text) and text[at] in skipped:
                at += 1
            if at < len(text) or not more:
                return text[at : at + 1]
            piece = file.read(_CHUNK_CHARS)
            text, at, more = piece, 0, bool(piece)

    def fail(reason: str) -> UserError:
        return UserError(f"{path}, record {index}: {reason}; {REMEDY}")

    if look(_SPACE + "\ufeff") != "[":
        raise UserError(f"{path}: must be a JSON list of records; {REMEDY}")
    at += 1
    sign = look()
    while index or sign != "]":
        if sign != "{":
            raise fail(f"must be an object, not {text[at : at + 20]!r}..." if sign else "the file is torn here")
        while True:
            try:
                record, end = decoder.raw_decode(text, at)
                break
            except (ValueError, RecursionError) as error:
                # The record may go on beyond this piece; what comes before it is not needed any more.
                piece = file.read(_CHUNK_CHARS) if more and len(text) - at < _MAX_RECORD_CHARS else ""
                if not piece:
                    raise fail(f"torn or not JSON ({error})") from error
                text, at = text[at:] + piece, 0
        yield index, record
        index, at = index + 1, end
        sign = look()
        if sign == "]":
            break
        if sign not in ("", ","):
            raise fail("no comma before it")
        at += 1
        sign = look()
    at += 1
    if look():
        raise fail("something follows the end of the list")
