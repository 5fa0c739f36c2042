"""Parquet files as published on the Hub: rows without their pictures, and the pictures as files.

A picture column holds structs `{bytes, path}`. Loading reads the paths only, so that a gigabyte of
pictures is not decoded to score letters; extracting writes each picture's bytes as they are.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from migrl.benchmarks.fields import REMEDY
from migrl.errors import UserError

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_BATCH_ROWS = 64


def list_parquet(path: Path, split: str) -> list[Path]:
    """The files of a split: `path` itself, or every `<split>-*.parquet` below the folder `path`, sorted.

    Raises:
        UserError: there is none.
    """
    files = [path] if path.is_file() else sorted(path.rglob(f"{split}-*.parquet"))
    if not files:
        raise UserError(f"{path}: no such file, or no {split}-*.parquet below it; run `migrl fetch`")
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
        for batch in file.iter_batches(columns=leaves):
            yield from batch.to_pylist()


def find_columns(path: Path) -> set[str]:
    """Names of a file's columns."""
    with _open_parquet(path) as file:
        return set(file.schema_arrow.names)


def read_pictures(path: Path, columns: list[str], key: str) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(key's value, column, pictures) of every row; a single picture and a null count as a list."""
    with _open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[key, *columns]):
            for row in batch.to_pylist():
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


def _open_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run `migrl fetch`, or name the file you have") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: not readable as parquet ({error}); {REMEDY}") from error
