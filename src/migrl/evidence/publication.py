"""Results folders change in one step, and only where migrl made what lies there.

`results/` holds a folder for each recipe, and `tree.json`, which all of it hangs on. A command that changes one of them

1. holds `results/.lock`, so that another waits, and `verify` too;
2. refuses a folder with a file that no manifest or tree names: it is somebody's;
3. prepares the new folder as `.<recipe>.new`, and the tree that names its files as `.tree.json.new`;
4. lets the two folders change names, renames the tree, and deletes what was replaced.

A reader finds the old folder or the new one, each whole. After a kill between the steps of 4 the evidence is that of
one of the two trees, which `verify` knows; the next command that takes the lock puts the right one in place.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from migrl.errors import UserError
from migrl.evidence.seal import NEXT_TREE, TREE, check_place, find_tree, list_files, read_files, write_next_tree
from migrl.files import clear_rests, put_folder, remove_folder
from migrl.running.stage import MANIFEST

LOCK = ".lock"
LOOSE_FOLDERS = ("reference_runs", "calibration")
"""Folders beside the recipes' that have no manifest of their own."""
LOOSE_NAMES = {"claims.json": {"levels.json", "README.md"}, "measurements.json": {"report.md"}}
"""What a recipe's folder without a manifest holds, and may hold beside it: it was not run, or only `make gpu` was."""


@contextmanager
def lock_results(results: Path) -> Iterator[None]:
    """Hold a results folder against other commands that change it, after those that do.

    Raises:
        UserError: the file system has no locks.
    """
    results.mkdir(parents=True, exist_ok=True)
    with (results / LOCK).open("w") as lock:
        _take(lock.fileno(), fcntl.LOCK_EX, results)
        _settle(results)
        yield


@contextmanager
def read_results(results: Path) -> Iterator[None]:
    """Hold a results folder as it is, if anybody ever locked it; also where nothing may be written."""
    try:
        lock = (results / LOCK).open("rb")
    except OSError:
        yield
        return
    with lock:
        _take(lock.fileno(), fcntl.LOCK_SH, results)
        yield


def _take(descriptor: int, how: int, results: Path) -> None:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"{results}: another command is writing there; waiting for it", file=sys.stderr)
        fcntl.flock(descriptor, how)
    except OSError as error:
        raise UserError(f"{results}: cannot be locked ({error}); use --results DIR on another disk") from error


def _settle(results: Path) -> None:
    """Finish what a killed command had begun."""
    if find_tree(results).name == NEXT_TREE:
        (results / NEXT_TREE).replace(results / TREE)
    (results / NEXT_TREE).unlink(missing_ok=True)
    clear_rests(results)
    for rest in results.glob(".*.new"):
        remove_folder(rest)


@contextmanager
def replace_results(target: Path, *, keep: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the place of a recipe's folder in the results when the block ends well.

    It is empty, or with `keep` a copy of what is there.

    Raises:
        UserError: there is something that migrl did not make, or the tree of the results is torn.
    """
    results = target.parent
    check_target(target)  # before a lock is left in a folder of somebody's
    with lock_results(results):
        check_target(target)
        made = results / f".{target.name}.new"
        if keep and target.exists():
            shutil.copytree(target, made)
        else:
            made.mkdir()
        try:
            yield made
        except BaseException:
            remove_folder(made)
            raise
        write_next_tree(results, target.name, made)
        put_folder(made, target)
        (results / NEXT_TREE).replace(results / TREE)


def check_target(target: Path) -> None:
    """Refuse a folder that could not be replaced; asked before hours of work, and again before it is done.

    Raises:
        UserError: naming what migrl did not make.
    """
    results = target.parent
    check_place(results)
    for folder in (results, target):
        if folder.is_symlink() and folder is target or (folder.exists() and not folder.is_dir()):
            raise UserError(f"{folder}: is no folder; move it away or use --results DIR")
    there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}: may not be written; make it writable or use --results DIR")
    if not (results / TREE).exists():
        for path in sorted(results.iterdir()) if results.exists() else ():
            if path.name != "README.md" and path.name[0] != "." and path != target and not is_ours(path):
                raise UserError(f"{path}: was not made by migrl; name an empty folder or a new one: --results DIR")
    foreign = find_foreign(target) if target.exists() else None
    if foreign is not None:
        raise UserError(f"{foreign}: was not made by migrl, which replaces the folder; move it or use --results DIR")


def is_ours(path: Path) -> bool:
    """Whether something beside a recipe's folder may lie in the results."""
    return path.is_dir() and (path.name in LOOSE_FOLDERS or find_foreign(path) is None)


def find_foreign(folder: Path) -> Path | None:
    """The first file of a recipe's folder that neither its manifest nor the tree beside it names."""
    files = list_files(folder)
    named, _ = read_files(folder / MANIFEST)
    tree, _ = read_files(folder.parent / TREE)
    known = {MANIFEST, *named} if named is not None else set()
    known |= {name.removeprefix(f"{folder.name}/") for name in tree or {} if name.startswith(f"{folder.name}/")}
    for name, beside in LOOSE_NAMES.items() if named is None else ():
        if name in files and files.keys() <= {name, *beside}:
            known |= files.keys()
    return next((path for name, path in files.items() if name not in known), None)
