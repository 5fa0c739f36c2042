"""A JSON list of records, read in pieces: MGrounding-630k.json has 1.4 GB."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

from migrl.benchmarks.fields import REMEDY
from migrl.errors import UserError

CHUNK_CHARS = 1 << 20
_MAX_RECORD_CHARS = 1 << 24  # no record comes near it; a file without a closing bracket must not fill the memory
_SPACE = " \t\r\n"
_Converted = TypeVar("_Converted")


@dataclass
class Tally:
    """Records read from a file, and those left out because they are not of the known form: at most `share` of them."""

    share: float = 0.0
    records: int = 0
    broken: int = 0
    first: list[int] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        return {"records": self.records, "broken_records": {"count": self.broken, "first": self.first}}


def convert_records(
    path: Path, convert: Callable[[Path, int, dict[str, Any]], _Converted], tally: Tally
) -> Iterator[_Converted]:
    """What `convert` makes of each record; what it refuses is counted, up to the tally's share.

    Raises:
        UserError: a torn file, or too many broken records, naming the first.
    """
    reason = ""
    for index, data in stream_records(path):
        tally.records += 1
        try:
            converted = convert(path, index, data)
        except UserError as error:
            tally.broken += 1
            tally.first += [index] if len(tally.first) < 10 else []
            reason = reason or str(error)
            continue
        yield converted
    if tally.broken > tally.share * tally.records:
        raise UserError(
            f"{path}: {tally.broken} of {tally.records} records are not of the known form; the first: {reason}; "
            "source.training.broken_share is the part that may be left out"
        )


def stream_records(path: Path, chunk_chars: int = CHUNK_CHARS) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, record) of a JSON list of objects; at most a record and one chunk of the file are in memory.

    Raises:
        UserError: no such file, not UTF-8, not a list of objects, or torn; the index of the record is named.
    """
    try:
        with path.open(encoding="utf-8") as file:
            yield from _scan_list(path, file, chunk_chars)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run `migrl fetch`") from error
    except OSError as error:
        raise UserError(f"{path}: not readable ({error}); {REMEDY}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error}); {REMEDY}") from error


def _scan_list(path: Path, file: TextIO, chunk_chars: int) -> Iterator[tuple[int, dict[str, Any]]]:
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
            piece = file.read(chunk_chars)
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
                piece = file.read(chunk_chars) if more and len(text) - at < _MAX_RECORD_CHARS else ""
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
