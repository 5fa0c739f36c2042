"""Parquet files as published on the Hub: rows without their pictures, and the pictures as files.

A picture column holds structs `{bytes, path}`. Loading reads the paths only, so that a gigabyte of
pictures is not decoded to score letters; extracting writes each picture's bytes as they are.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from migrl.benchmarks.fields import REMEDY
from migrl.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_BATCH_ROWS = 64


def list_parquet(path: Path, pattern: str) -> list[Path]:
    """`path` itself, or every file of this pattern below the folder `path`, sorted.

    Raises:
        UserError: there is none.
    """
    files = [path] if path.is_file() else sorted(path.rglob(pattern))
    if not files:
        raise UserError(f"{path}: no such file, or no {pattern} below it; run `migrl fetch`")
    return files


def read_rows(path: Path, columns: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """Rows of one file, `columns` only. A column is named with the leaf to read of it, or None for all of it.

    Raises:
        UserError: no parquet file, or a column is missing.
    """
    with _open_parquet(path) as file:
        present = set(file.schema_arrow.names)
        for name in columns:
            if name not in present:
                raise UserError(f"{path}: column {name!r} is missing; {REMEDY}")
        leaves = [f"{name}.{leaf}" if leaf else name for name, leaf in columns.items()]
        for rows in _read_batches(path, file, leaves):
            yield from rows


def read_pictures(path: Path, columns: list[str], key: str) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(key's value, column, pictures) of every row; a single picture and a null count as a list."""
    with _open_parquet(path) as file:
        for rows in _read_batches(path, file, [key, *columns]):
            for row in rows:
                for column in columns:
                    value = row[column]
                    yield str(row[key]), column, value if isinstance(value, list) else [value] if value else []


def write_picture(folder: Path, name: str, picture: dict[str, Any] | None, where: str) -> None:
    """Write a picture's bytes to `folder/name`, whole or not at all.

    Raises:
        UserError: the row holds no bytes.
    """
    data = (picture or {}).get("bytes")
    if not data:
        raise UserError(f"{where}: holds no picture; {REMEDY}")
    target = folder / name
    if target.is_file() and target.stat().st_size == len(data):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    partial.write_bytes(data)
    partial.replace(target)


def pick_suffix(picture: dict[str, Any] | None) -> str:
    """The suffix of the path that a picture was published under, if it is one of a picture, else `.jpg`."""
    suffix = PurePosixPath(str((picture or {}).get("path") or "")).suffix.lower()
    return suffix if suffix in _SUFFIXES else ".jpg"


def _open_parquet(path: Path) -> "pq.ParquetFile":
    import pyarrow.parquet as pq  # a tenth of a second, which scoring a JSON file need not wait

    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run `migrl fetch`, or name the file you have") from error
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise UserError(f"{path}: not readable as parquet ({error}); {REMEDY}") from error


def _read_batches(path: Path, file: "pq.ParquetFile", columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows in batches small enough for pictures; a damaged page is an error that names the file."""
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            yield batch.to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: damaged parquet ({error}); {REMEDY}") from error
