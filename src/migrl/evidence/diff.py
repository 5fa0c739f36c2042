"""Diff stored JSON and pages against recomputed ones; one sentence per difference."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from migrl.errors import UserError

REMEDY = "restore the folder or run the report stage again"


def collect(differences: list[str], check: Callable[[], Any]) -> Any:
    """What a check gives; its refusal becomes a difference."""
    try:
        return check()
    except UserError as error:
        differences.append(str(error))
        return None


def compare_text(path: Path, again: str, source: str) -> Iterator[str]:
    """A sentence if a page is not what it is written from."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        yield f"{path.name}: missing"
    except OSError as error:
        yield f"{path.name}: cannot be read ({error})"
    else:
        if stored != again.encode("utf-8"):
            yield f"{path.name}: is not what {source}"


def compare(stored: Any, again: Any, where: str) -> Iterator[str]:
    """One sentence for each place where two JSON values differ; true is not 1 here."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in sorted(stored.keys() | again.keys()):
            if key not in again:
                yield f"{where}.{key}: stored, but does not follow from the samples"
            elif key not in stored:
                yield f"{where}.{key}: missing"
            else:
                yield from compare(stored[key], again[key], f"{where}.{key}")
    elif isinstance(stored, list | tuple) and isinstance(again, list | tuple):
        if len(stored) != len(again):
            yield f"{where}: {len(stored)} entries stored, {len(again)} recomputed"
        for number, (old, new) in enumerate(zip(stored, again, strict=False)):
            yield from compare(old, new, f"{where}[{number}]")
    elif stored != again or isinstance(stored, bool) != isinstance(again, bool):
        yield f"{where}: {json.dumps(stored)} stored, {json.dumps(again)} recomputed"


def read_object(path: Path, kind: type) -> Any:
    """Decoded JSON of the given type.

    Raises:
        UserError: the file is missing, cannot be read, is torn, or holds another type.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {REMEDY}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: torn or not JSON ({error}); {REMEDY}") from error
    if not isinstance(data, kind):
        raise UserError(f"{path}: must be a JSON {kind.__name__}, not {type(data).__name__}; {REMEDY}")
    return data
