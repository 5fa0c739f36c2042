"""Strict reading of downloaded annotation records: every error names file, index, key, reason and remedy."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.files import is_unicode

MAX_NUMBER = 1e9  # no coordinate comes near it
REMEDY = "fetch the file again, or correct it"


def read_json_list(path: Path) -> list[Any]:
    """The records of a JSON file.

    Raises:
        UserError: no such file, not UTF-8, not JSON, not a list, or an empty one.
    """
    data = read_json_file(path)
    if not isinstance(data, list) or not data:
        raise UserError(f"{path}: must be a non-empty JSON list of records, not {type(data).__name__}; {REMEDY}")
    return data


def read_json_file(path: Path) -> Any:
    """Decoded JSON of an untrusted file.

    Raises:
        UserError: no such file, not UTF-8, or not JSON.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_refuse_twins)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; run `migrl fetch`, or name the file you have") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {REMEDY}") from error


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twin = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"key {twin!r} comes twice in one object")
    return data


@dataclass(frozen=True)
class Record:
    """One record of an annotation file, with accessors that check. `index` counts from 0, as uids do."""

    path: Path
    index: int
    data: Mapping[str, Any]

    def fail(self, key: str, reason: str) -> UserError:
        return UserError(f"{self.path}, record {self.index}: key {key!r}: {reason}; {REMEDY}")

    def text(self, key: str, *, empty: bool = False) -> str:
        value = self.data[key]
        if not isinstance(value, str) or not (value.strip() or empty) or not is_unicode(value):
            raise self.fail(key, f"must be a {'' if empty else 'non-empty '}text, not {_show(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.data[key]
        if not is_list(value) or not value or not all(isinstance(v, str) and is_unicode(v) for v in value):
            raise self.fail(key, f"must be a list of texts, not {_show(value)}")
        return tuple(value)

    def flag(self, key: str) -> bool:
        value = self.data[key]
        if not isinstance(value, bool):
            raise self.fail(key, f"must be true or false, not {_show(value)}")
        return value

    def paths(self, key: str) -> tuple[str, ...]:
        """Relative paths inside the data folder, `./` removed."""
        names = self.texts(key)
        return tuple(self.path_inside(key, name) for name in names)

    def path_inside(self, key: str, name: str) -> str:
        parts = name.removeprefix("./").split("/")
        if "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
            raise self.fail(key, f"{_show(name)} is no path inside the data folder")
        return "/".join(parts)

    def numbers(self, key: str, value: Any, count: int = 4) -> tuple[int | float, ...]:
        """`count` finite, non-negative numbers."""
        if not is_list(value) or len(value) != count:
            raise self.fail(key, f"must be {count} numbers, not {_show(value)}")
        for number in value:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise self.fail(key, f"must be {count} numbers, not {_show(value)}")
            if not 0 <= number <= MAX_NUMBER:  # NaN compares false
                raise self.fail(key, f"numbers must be finite and not negative, not {_show(value)}")
        return tuple(value)


def open_record(path: Path, index: int, data: Any, keys: Iterable[str], optional: Iterable[str] | None = ()) -> Record:
    """A record that has its keys and no others than the optional ones; `optional=None` lets any other pass.

    Raises:
        UserError: no object, a missing key, or one that is unknown.
    """
    if not isinstance(data, dict):
        raise UserError(f"{path}, record {index}: must be an object, not {type(data).__name__}; {REMEDY}")
    record = Record(path, index, data)
    required = tuple(keys)
    for key in required:
        if key not in data:
            raise record.fail(key, "missing")
    if optional is not None and (unknown := data.keys() - {*required, *optional}):
        raise record.fail(min(map(str, unknown)), "unknown key")
    return record


def is_list(value: Any) -> bool:
    """Whether a value is a list of JSON or of a parquet row."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
