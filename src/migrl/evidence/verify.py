"""The check of committed evidence: every byte by its seal, every number by doing it again.

`results` holds a folder for each recipe, beside reference runs and the calibration's tables. All of it is checked, or
one folder. Works offline, without a model or a GPU. A difference is a sentence that begins with the file it is in.

`report.html`, the figures, the logs of the training stages, the pass rates and the calibration's table.json are covered
by their hashes alone: they show that the file is the one that was sealed, not that it is right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from migrl.claims.claims import CLAIMS_FILE
from migrl.errors import UserError
from migrl.evidence.diff import read_object
from migrl.evidence.measurements import MEASUREMENTS
from migrl.evidence.publication import CALIBRATION, ENGINES, REFERENCES, read_results
from migrl.evidence.recompute import (
    recompute_answers,
    recompute_calibration,
    recompute_not_run,
    recompute_parts,
    recompute_reference,
    recompute_run,
)
from migrl.evidence.seal import (
    STATING_FILES,
    TREE,
    check_folder,
    check_results,
    find_sealed,
    find_tree,
    list_files,
)
from migrl.running.stage import MANIFEST

JUNK = (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError)
"""What JSON of another form than any version wrote ends in."""


@dataclass(frozen=True)
class Check:
    """What was checked in one place, in words, and the differences found there."""

    place: str
    done: str
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verification:
    """The checks of a results folder or of one folder in it, and the root that all of its bytes hang on."""

    checks: tuple[Check, ...]
    root: str | None

    @property
    def differences(self) -> list[str]:
        """Every difference, below the whole results each with its place before it."""
        return [
            difference if check.place == "." else f"{check.place}: {difference}"
            for check in self.checks
            for difference in check.differences
        ]


def verify(path: Path, *, claims_file: Path = CLAIMS_FILE) -> Verification:
    """Check a whole results folder, or one folder of it.

    Raises:
        UserError: there is no such folder, or nothing in it that could be checked.
    """
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; name a results folder, such as results or results/tiny")
    whole = (path / TREE).exists()
    with read_results(path if whole or not (path.resolve().parent / TREE).exists() else path.resolve().parent):
        # What lies astray in the whole results must not make them one recipe's folder.
        if not whole and any((path / name).exists() for name in (MANIFEST, *STATING_FILES)):
            return verify_folder(path, claims_file)
        if whole or find_sealed(path):
            return verify_tree(path, claims_file)
    raise UserError(
        f"{path}: holds neither {TREE} nor {MANIFEST} nor claims, so there is nothing to check it by; "
        "name the results folder around it"
    )


def verify_tree(results: Path, claims_file: Path = CLAIMS_FILE) -> Verification:
    """Check everything below a results folder.

    Raises:
        UserError: nothing lies in it that could be checked.
    """
    files, sealed = list_files(results), find_sealed(results)
    if not files.keys() - {TREE}:
        raise UserError(f"{results}: holds nothing beside {TREE}; name a results folder, such as results")
    stray = [f"{name}: belongs to no recipe's folder" for name in (MANIFEST, *STATING_FILES) if name in files]
    checks = [_run(".", hash_again, results, check_results), Check(".", "", tuple(stray))]
    if any(f"{CALIBRATION}/{name}" in files for name in ("table.json", "table.md")):
        checks.append(_run(CALIBRATION, recompute_calibration, results / CALIBRATION))
    stating = {str(PurePosixPath(name).parent) for name in files if PurePosixPath(name).name in STATING_FILES} - {"."}
    loose = sorted(place for place in stating if place.split("/")[0] not in sealed)
    for place in (*sealed, *loose):
        checks.append(_recompute_folder(place, results / place, results / REFERENCES, claims_file))
    return Verification(tuple(checks), _read_root(find_tree(results)))


def verify_folder(folder: Path, claims_file: Path = CLAIMS_FILE) -> Verification:
    """Check one recipe's folder by its manifest, and by the tree beside it if there is one."""
    hashes = _run(".", hash_again, folder, check_folder)
    numbers = _recompute_folder(".", folder, folder.resolve().parent / REFERENCES, claims_file)
    return Verification((hashes, numbers), _read_root(folder / MANIFEST))


def verify_results(folder: Path, *, claims_file: Path = CLAIMS_FILE) -> list[str]:
    """Every difference of one recipe's folder; empty if every byte and every number is as it must be."""
    return verify_folder(folder, claims_file).differences


def is_not_run(folder: Path) -> bool:
    """Whether a folder states claims and holds no evidence at all: the recipe has not been run."""
    evidence = {MANIFEST, *STATING_FILES} - {"claims.json"}
    return (folder / "claims.json").is_file() and not any((folder / name).exists() for name in evidence)


def has_parts_only(folder: Path) -> bool:
    """Whether a folder holds what `make gpu` measured, and nothing that a recipe's stages made."""
    others = {MANIFEST, *STATING_FILES} - {MEASUREMENTS}
    return (folder / MEASUREMENTS).is_file() and not any((folder / name).exists() for name in others)


def _recompute_folder(place: str, folder: Path, references: Path, claims_file: Path) -> Check:
    """Do the numbers of a folder that states some again."""
    if place.startswith(f"{REFERENCES}/"):
        return _run(place, recompute_reference, folder)
    if place.startswith(f"{ENGINES}/"):
        return _run(place, recompute_answers, folder)
    if (folder / MANIFEST).exists():
        return _run(place, recompute_run, folder, references, claims_file)
    if is_not_run(folder):
        return _run(place, recompute_not_run, folder, claims_file)
    if has_parts_only(folder):
        return _run(place, recompute_parts, folder)
    return Check(place, "", (f"{MANIFEST}: missing, so nothing says what its results were made from",))


def hash_again(folder: Path, check: Callable[[Path], list[str]]) -> tuple[str, list[str]]:
    """What was hashed, in words, and every difference."""
    return f"{len(list_files(folder))} files by their hashes", check(folder)


def _run(place: str, check: Callable[..., tuple[str, list[str]]], folder: Path, *arguments: Any) -> Check:
    """Check one place; what cannot be read is a difference, and the other places are still checked."""
    try:
        done, differences = check(folder, *arguments)
    except UserError as error:
        return Check(place, "", (str(error),))
    except JUNK as error:  # the hashes name the file if it was changed since
        return Check(place, "", (f"{folder}: its files are not of the form this version writes ({error!r})",))
    return Check(place, done, tuple(differences))


def _read_root(path: Path) -> str | None:
    """The root of a manifest or tree; None of a broken one, which the checks name."""
    try:
        root = read_object(path, dict).get("root")
    except UserError:
        return None
    return root if isinstance(root, str) else None
