"""The seals of the results: every byte below the folder hangs on one root.

`tree.json` names every file of the results with its SHA-256. `manifest.json` does so in the folder of a recipe, which
may be copied and published alone. Both end in `root`, the SHA-256 of the canonical JSON of their other keys, and are
written in one form only. So a changed bit anywhere, white space and the seals included, is a difference.

A seal shows that nothing changed since it was made. Whether it was made by us is seen from its root, which is public.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.files import ASIDE, format_json, hash_file, hash_json, write_json
from migrl.running.stage import MANIFEST

TREE = "tree.json"
NEXT_TREE = f"{ASIDE}tree.json.new"
"""The tree of a folder that is about to be put in place (publication.py)."""
STATING_FILES = ("samples.jsonl.gz", "samples.jsonl", "scores.json", "claims.json", "measurements.json")
"""What states a result, so that something has to stand for it: beside it lies a manifest, or it says "not run"."""


def seal(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data with its `root` as last key, made anew."""
    content = {key: value for key, value in data.items() if key != "root"}
    return {**content, "root": hash_json(content)}


def list_files(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its relative name, in sorted order; links too, which nobody should leave there.

    Without litter: what a command has there at work, and what file managers leave in every folder.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: paths[name]
        for name in sorted(paths)
        if (paths[name].is_symlink() or not paths[name].is_dir()) and not any(map(is_litter, name.split("/")))
    }


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is no content of a folder."""
    return name.startswith((ASIDE, "._")) or name in (".DS_Store", ".gitkeep")


def make_file_hashes(folder: Path, own: str = MANIFEST) -> dict[str, str]:
    """SHA-256 of every file below `folder` but its own seal, by relative name, in sorted order."""
    return hash_files({name: path for name, path in list_files(folder).items() if name != own})


def hash_files(files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file.

    Raises:
        UserError: one is a link, whose target is not part of the evidence, or cannot be read.
    """
    for path in files.values():
        if path.is_symlink() or not path.is_file():
            raise UserError(f"{path}: a link or no plain file; put the file itself there")
    try:
        return {name: hash_file(path) for name, path in files.items()}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from error


def check_place(results: Path, runs: Path | None = None) -> None:
    """Refuse a results folder that holds other things too: its tree would name, and read, every file of them.

    Raises:
        UserError: it holds the runs folder or a repository.
    """
    inside = runs is not None and runs.resolve().is_relative_to(results.resolve())
    if inside or (results / ".git").exists():
        raise UserError(f"--results {results}: holds more than results; name a folder of its own, such as results")


def write_tree(results: Path) -> list[str]:
    """Write `tree.json` of a results folder anew; return a sentence for each file whose entry changed.

    Raises:
        UserError: there is no such folder, nothing in it, or it is not the one around the recipes' folders.
    """
    check_whole(results)
    before, _ = read_files(results / TREE)
    made = make_file_hashes(results, TREE)
    write_json(results / TREE, seal({"files": made}))
    return _compare_files(before or {}, made, "new", "gone", "other content")


def write_next_tree(results: Path, name: str, made: Path) -> None:
    """Write NEXT_TREE: the tree as it is once the folder `made` lies in the results as `name`.

    The other entries stay as they are: what was damaged elsewhere since they were made is still found. Without a tree
    there is nothing to keep, and all of them are made.

    Raises:
        UserError: `tree.json` is torn or changed, so that its other entries say nothing.
    """
    stored = read_tree(results) if (results / TREE).exists() else make_file_hashes(results, TREE)
    files = {other: value for other, value in stored.items() if not other.startswith(f"{name}/")}
    files |= {f"{name}/{file}": value for file, value in hash_files(list_files(made)).items()}
    write_json(results / NEXT_TREE, seal({"files": {file: files[file] for file in sorted(files)}}))


def read_tree(results: Path) -> dict[str, Any]:
    """What `tree.json` names.

    Raises:
        UserError: it is torn or changed, so that its entries say nothing.
    """
    stored, differences = read_files(results / TREE)
    if stored is None or differences:
        raise UserError(f"{results}: {differences[0]}; restore it, or seal all of it anew: `migrl seal {results}`")
    return stored


def check_whole(results: Path) -> None:
    """Refuse to seal what is no results folder: its root would stand for something else."""
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; name a results folder, such as results")
    check_place(results)
    stray = [name for name in (MANIFEST, *STATING_FILES) if (results / name).exists()]
    if stray or (results.resolve().parent / TREE).exists():
        why = f"holds {stray[0]}, as a recipe's folder does" if stray else f"lies in a folder that {TREE} seals"
        raise UserError(f"{results}: {why}; name the results folder around it, or remove what does not belong there")
    if not list_files(results).keys() - {TREE}:
        raise UserError(f"{results}: there is nothing in it to seal; run `migrl reproduce` or `migrl not-run` first")


def find_sealed(results: Path) -> list[str]:
    """Names of the folders in `results` that have a manifest."""
    return sorted(path.parent.name for path in results.glob(f"*/{MANIFEST}") if not is_litter(path.parent.name))


def find_tree(results: Path) -> Path:
    """The tree in force: NEXT_TREE if a command was killed after the folder that it was made for got its place."""
    (now, _), (following, _) = read_files(results / TREE), read_files(results / NEXT_TREE)
    if following is None:
        return results / TREE
    changed = {name for name in (now or {}).keys() | following.keys() if (now or {}).get(name) != following.get(name)}
    found = {name: results / name for name in changed if (results / name).is_file()}
    fits = hash_files(found) == {name: following[name] for name in changed if name in following}
    return results / (NEXT_TREE if fits else TREE)


def check_results(results: Path) -> list[str]:
    """A sentence for every file that is not the one `tree.json` names, and for `tree.json` itself.

    Where it finds nothing in a recipe's folder, the same by the folder's manifest: it may have been made for others.
    """
    differences = check_tree(results)
    for name in find_sealed(results):
        if not any(sentence.startswith(f"{name}/") for sentence in differences):
            differences += [f"{name}: {sentence}" for sentence in check_manifest(results / name)]
    return differences


def check_folder(folder: Path) -> list[str]:
    """The same for one folder, by the tree beside it if there is one, and by its own manifest if it has one."""
    place = folder.resolve()
    differences = check_tree(place.parent, f"{place.name}/") if (place.parent / TREE).is_file() else []
    return differences or (check_manifest(folder) if (folder / MANIFEST).exists() else [])


def check_manifest(folder: Path) -> list[str]:
    """A sentence for every file of a folder that is not the one its manifest names, and for the manifest itself."""
    return _check_seal(folder / MANIFEST, make_file_hashes(folder), "the manifest")


def check_tree(results: Path, below: str = "") -> list[str]:
    """The same by `tree.json`; with `below` only of files whose names begin so, which then is left out."""
    files = {name: path for name, path in list_files(results).items() if name != TREE and name.startswith(below)}
    hashes = {name.removeprefix(below): value for name, value in hash_files(files).items()}
    return _check_seal(find_tree(results), hashes, TREE, below)


def _check_seal(path: Path, hashes: Mapping[str, str], seal_name: str, below: str = "") -> list[str]:
    stored, differences = read_files(path)
    if stored is None:
        return differences
    named = {name.removeprefix(below): value for name, value in stored.items() if name.startswith(below)}
    came, changed = f"extra, {seal_name} does not name it", f"changed, its sha256 is not that of {seal_name}"
    return differences + _compare_files(named, hashes, came, "missing", changed)


def _compare_files(old: Mapping[str, Any], new: Mapping[str, str], came: str, went: str, changed: str) -> list[str]:
    """A sentence for each name whose hash is not the old one."""
    sentences = []
    for name in sorted(old.keys() | new.keys()):
        if name not in old:
            sentences.append(f"{name}: {came}")
        elif name not in new:
            sentences.append(f"{name}: {went}")
        elif old[name] != new[name]:
            sentences.append(f"{name}: {changed}")
    return sentences


def read_files(path: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """What a manifest or tree names, None of a torn one, and what speaks against the file itself."""
    try:
        raw = path.read_bytes()
        data = json.loads(raw.decode("utf-8"))
        written = format_json(data).encode("utf-8", "surrogatepass")
    except FileNotFoundError:
        return None, [f"{path.name}: missing"]
    except (OSError, ValueError, RecursionError) as error:
        return None, [f"{path.name}: torn or not JSON ({error})"]
    if not isinstance(data, dict) or not isinstance(data.get("files"), dict):
        return None, [f"{path.name}: key 'files': must map names to sha256"]
    if "root" not in data:
        return data["files"], [f"{path.name}: key 'root' is missing, so nothing seals it; it is of older code"]
    if data["root"] != seal(data)["root"]:
        return data["files"], [f"{path.name}: changed, its content does not give its root {data['root']}"]
    if raw != written:
        return data["files"], [f"{path.name}: changed, these are not the bytes that were written"]
    return data["files"], []
