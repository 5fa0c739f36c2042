"""Results folders change in one step, and only where migrl made what lies there.

`results/` holds a folder for each recipe, and `tree.json`, which names every file. A command that changes a folder

1. holds `results/.migrl-lock`, so that another waits, and `verify` too;
2. refuses a folder with a file that no manifest or tree names: it is somebody's;
3. prepares the new folder as `.migrl-<recipe>.new`, and then the tree that names its files as `.migrl-tree.json.new`;
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

from migrl.errors import UserError, find_existing
from migrl.evidence.seal import (
    NEXT_TREE,
    TREE,
    check_place,
    find_tree,
    is_litter,
    list_files,
    read_files,
    read_tree,
    write_next_tree,
)
from migrl.files import ASIDE, clear_rests, delete, name_aside, open_lock, put_folder, sync_tree
from migrl.running.stage import MANIFEST

LOCK = f"{ASIDE}lock"
REFERENCES, CALIBRATION, ENGINES, PEERS = LOOSE_FOLDERS = ("reference_runs", "calibration", "engines", "peers")
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
    with open_lock(results / LOCK) as lock:
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
    """Finish what a killed command had begun: a folder for which the next tree was written already is whole."""
    for made in results.glob(f"{ASIDE}*.new") if (results / NEXT_TREE).exists() else ():
        place = results / made.name.removeprefix(ASIDE).removesuffix(".new")
        if made.is_dir() and not os.path.lexists(place):
            made.rename(place)
    if find_tree(results).name == NEXT_TREE:
        (results / NEXT_TREE).replace(results / TREE)
    (results / NEXT_TREE).unlink(missing_ok=True)
    clear_rests(results)
    for rest in results.glob(f"{ASIDE}*.new"):
        delete(rest)


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
        made = name_aside(target, "new")
        if keep and target.exists():
            shutil.copytree(target, made)
        else:
            made.mkdir()
        try:
            yield made
        except BaseException:
            delete(made)
            raise
        sync_tree(made)
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
    if (results / TREE).exists():
        read_tree(results)
    else:
        refuse_strangers(results)
    if target.name in LOOSE_FOLDERS:
        raise UserError(f"recipe {target.name!r}: {target} holds what no recipe writes; give it another `name`")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target}: is no folder; move it away or use --results DIR")
    for folder in (find_existing(results), *(path for path in (target, *target.rglob("*")) if path.is_dir())):
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder}: is no folder that may be written; make it one or use --results DIR")
    foreign = find_foreign(target) if target.exists() else None
    if foreign is not None:
        raise UserError(f"{foreign}: was not made by migrl, which replaces the folder; move it or use --results DIR")


def refuse_strangers(results: Path) -> None:
    """Refuse a results folder without a tree that migrl did not make.

    Raises:
        UserError: naming what it did not make.
    """
    for path in sorted(results.iterdir()) if results.is_dir() else ():
        ours = path.is_dir() and (path.name in LOOSE_FOLDERS or find_foreign(path) is None)
        if path.name != "README.md" and not is_litter(path.name) and not ours:
            raise UserError(f"{path}: was not made by migrl; move it away, or use another folder for results")


def find_foreign(folder: Path) -> Path | None:
    """The first file of a recipe's folder that neither its manifest nor the tree beside it names."""
    files = list_files(folder)
    named, _ = read_files(folder / MANIFEST)
    tree, _ = read_files(folder.parent / TREE)
    known = {name.removeprefix(f"{folder.name}/") for name in tree or {} if name.startswith(f"{folder.name}/")}
    if named is not None:
        known |= {MANIFEST, *named}
    elif any(name in files and files.keys() <= {name, *beside} for name, beside in LOOSE_NAMES.items()):
        known |= files.keys()
    return next((path for name, path in files.items() if name not in known), None)
