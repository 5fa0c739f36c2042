"""Evidence checked by doing it again: texts to scores, scores to tables, tables to verdicts.

Needs no model and no GPU. A difference is a sentence; an empty list means that every number in the
folder follows from the raw completions, and that every file is the one its manifest names.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from migrl.claims import CLAIMS_FILE, Claim, judge_claims, load_claims, read_reference_deltas
from migrl.errors import UserError
from migrl.scores import compute_scores, load_rows, rescore_row

MANIFEST = "manifest.json"
_SCORED_KEYS = ("status", "image", "boxes", "letter", "iou", "hit")
_REMEDY = "restore the folder or run the report stage again"


def verify_results(folder: Path, *, claims_file: Path = CLAIMS_FILE, reference_folder: Path | None = None) -> list[str]:
    """Every difference between a results folder and what its raw completions give; empty if identical.

    Args:
        folder: holds manifest.json, samples.jsonl.gz, scores.json and claims.json; or, not run, claims.json alone.
        claims_file: the claims that were judged.
        reference_folder: the raw reference runs; `folder/reference_runs` unless given.

    Raises:
        UserError: one of the four files is missing, torn or no evidence at all.
    """
    if is_not_run(folder):
        return _verify_not_run(folder, claims_file)
    files = _read_json(folder / MANIFEST, dict).get("files")
    if not isinstance(files, dict):
        raise UserError(f"{folder / MANIFEST}: key 'files': must map names to sha256; {_REMEDY}")
    rows = load_rows(folder / "samples.jsonl.gz")
    scores = _read_json(folder / "scores.json", dict)
    judged = _read_json(folder / "claims.json", list)

    differences = _compare_hashes(files, make_file_hashes(folder))
    rescored = [rescore_row(row) for row in rows]
    for row, again in zip(rows, rescored, strict=True):
        for key in _SCORED_KEYS:
            differences += _compare(row[key], again[key], f"samples.jsonl.gz, {row['arm']} {row['uid']}: {key}")
    differences += _compare(scores, compute_scores(rescored), "scores.json")
    references = read_reference_deltas(reference_folder or folder / "reference_runs")
    due = _find_due_claims(judged, claims_file)
    if not due:
        return [*differences, f"claims.json: holds no claim of {claims_file.name}"]
    return differences + list(_compare(judged, judge_claims(due, rescored, references), "claims.json"))


def is_not_run(folder: Path) -> bool:
    """Whether a results folder states claims and holds no evidence at all: the recipe has not been run."""
    evidence = (MANIFEST, "samples.jsonl.gz", "scores.json")
    return (folder / "claims.json").is_file() and not any((folder / name).exists() for name in evidence)


def _verify_not_run(folder: Path, claims_file: Path) -> list[str]:
    """Differences from the claims of the folder's recipe with nothing measured: no number may stand there."""
    judged = _read_json(folder / "claims.json", list)
    due = _find_due_claims(judged, claims_file)
    if not due:
        return [f"claims.json: holds no claim of {claims_file.name}"]
    return list(_compare(judged, judge_claims(due, []), "claims.json"))


def _find_due_claims(judged: list[Any], claims_file: Path) -> list[Claim]:
    """Every claim of the recipe whose claims a folder holds: a claim left out is a difference."""
    claims = load_claims(claims_file)
    ids = {entry.get("id") for entry in judged if isinstance(entry, dict)}
    recipes = {claim.recipe for claim in claims if claim.id in ids}
    return [claim for claim in claims if claim.recipe in recipes]


def make_file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but its own manifest, by relative name, in sorted order."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(paths[name].read_bytes()).hexdigest() for name in sorted(paths) if name != MANIFEST}


def _compare_hashes(stored: dict[str, Any], found: dict[str, str]) -> list[str]:
    differences = []
    for name in sorted(stored.keys() | found.keys()):
        if name not in found:
            differences.append(f"{name}: missing")
        elif name not in stored:
            differences.append(f"{name}: extra, the manifest does not name it")
        elif stored[name] != found[name]:
            differences.append(f"{name}: changed, its sha256 is not the manifest's")
    return differences


def _compare(stored: Any, again: Any, where: str) -> Iterator[str]:
    """One sentence for each place where two JSON values differ; true is not 1 here."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in sorted(stored.keys() | again.keys()):
            if key not in again:
                yield f"{where}.{key}: stored, but does not follow from the samples"
            elif key not in stored:
                yield f"{where}.{key}: missing"
            else:
                yield from _compare(stored[key], again[key], f"{where}.{key}")
    elif isinstance(stored, list) and isinstance(again, list):
        if len(stored) != len(again):
            yield f"{where}: {len(stored)} entries stored, {len(again)} recomputed"
        for number, (old, new) in enumerate(zip(stored, again, strict=False)):
            yield from _compare(old, new, f"{where}[{number}]")
    elif stored != again or isinstance(stored, bool) != isinstance(again, bool):
        yield f"{where}: {json.dumps(stored)} stored, {json.dumps(again)} recomputed"


def _read_json(path: Path, kind: type) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {_REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: torn or not JSON ({error}); {_REMEDY}") from error
    if not isinstance(data, kind):
        raise UserError(f"{path}: must be a JSON {kind.__name__}, not {type(data).__name__}; {_REMEDY}")
    return data
