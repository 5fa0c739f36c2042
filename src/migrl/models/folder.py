"""Which files make a model folder. Only these are taken from a folder or the Hub; what else lies there is left out.

    config.json, generation_config.json
    model.safetensors, or model.safetensors.index.json with the shards that it names
    PROCESSOR_FILES

Left out are readmes, code, pickled weights, optimizers' states, sub-folders, and templates under a further name
(`additional_chat_templates`), which no stage asks for. An adapter beside the weights is refused: transformers attaches
it when it loads them, without a word.
"""

import json
import re
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.files import ROOT
from migrl.plain_files import refuse_large, refuse_special, scan_folder

CONFIG = "config.json"
GENERATION_FILE = "generation_config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Tokenizer, processor and chat template, also of the families that a teacher may be of."""
PROCESSOR_CONFIGS = ("processor_config.json", "preprocessor_config.json")
SMALL_FILES = (CONFIG, GENERATION_FILE, *PROCESSOR_FILES)
SMALL_BYTES = 100_000_000  # the largest tokenizer.json known has a third of it

_SHARD = re.compile(r"\w[\w.-]*\.safetensors", re.ASCII)
_ADAPTER = re.compile(r"adapter_(config\.json|model\..*)", re.ASCII)
_PICKLED = re.compile(r"pytorch_model.*\.bin(\.index\.json)?", re.ASCII)


def find_local_model(path: str) -> Path | None:
    """The model folder, seen from here or from the source tree; None means a Hub id."""
    folders = [folder for folder in (Path(path), ROOT / path) if folder.is_dir()]
    return next((folder for folder in folders if (folder / CONFIG).is_file()), folders[0] if folders else None)


def find_model_files(folder: Path) -> dict[str, Path]:
    """The files of a whole model folder by name, weights last, and where each lies.

    That is in the folder itself, or among the blobs of the Hugging Face cache if the folder is a snapshot of it.

    Raises:
        UserError: an adapter, a link or another special file, a file above SMALL_BYTES, no config.json, or weights that
            are missing, pickled, named twice or named elsewhere.
    """
    found = list_files(folder)
    if CONFIG not in found:
        raise UserError(f"{folder / CONFIG}: no such file, so this is no model folder; correct the path")
    files = {name: found[name] for name in SMALL_FILES if name in found}
    for name, path in files.items():
        refuse_large(folder / name, path.stat().st_size, SMALL_BYTES)
    if "transformers_weights" in _read_object(folder / CONFIG, files[CONFIG]):
        raise UserError(f"{folder / CONFIG}: key 'transformers_weights' has other weights loaded; take it out")
    shards = read_shards(folder / INDEX, found[INDEX]) if INDEX in found else []
    if WEIGHTS in found and shards not in ([], [WEIGHTS]):
        raise UserError(f"{folder}: holds {WEIGHTS} and {INDEX}, two models; move one of them away")
    if WEIGHTS in found:
        return files | {WEIGHTS: found[WEIGHTS]}
    for name in shards:
        if name not in found:
            raise UserError(f"{folder / name}: no such file, and {INDEX} names it; copy the model folder whole")
    if shards:
        return files | {name: found[name] for name in (INDEX, *shards)}
    if pickled := next(filter(_PICKLED.fullmatch, found), None):
        raise UserError(f"{folder / pickled}: pickled weights may run code, none are loaded; save them as {WEIGHTS}")
    raise UserError(f"{folder}: no weights ({WEIGHTS}, or {INDEX} and its shards); copy the model folder whole")


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a model folder.

    Raises:
        UserError: no such file, or no JSON object.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{path}: no such file, so this is no model folder; correct the path")
    return _read_object(path, path)


def read_processor_classes(folder: Path) -> dict[Path, object]:
    """transformers' names of the processor that a model folder says its files are of, by file; {} where none does.

    Raises:
        UserError: one of them is no JSON object.
    """
    paths = [path for name in PROCESSOR_CONFIGS if (path := folder / name).is_file()]
    stated = {path: _read_object(path, path).get("processor_class") for path in paths}
    return {path: name for path, name in stated.items() if name is not None}


def list_files(folder: Path) -> dict[str, Path]:
    """The plain files directly in a model folder by name, and where each lies.

    Raises:
        UserError: an adapter, a link or another special file.
    """
    found = {}
    for entry in scan_folder(folder):
        path = Path(entry.path)
        if _ADAPTER.fullmatch(entry.name):
            raise UserError(
                f"{path}: an adapter beside the weights, which transformers would attach without a word; merge it, or "
                "move it away"
            )
        if entry.is_dir(follow_symlinks=False):
            continue
        place = (_find_blob(path) or path) if entry.is_symlink() else path
        refuse_special(place)
        found[entry.name] = place
    return found


def read_shards(index: Path, place: Path | None = None) -> list[str]:
    """Names of the weight files that an index names, in order; `place` is where it lies if not under its own name.

    Raises:
        UserError: it is too large or no index, or names what is no plain name of a *.safetensors file.
    """
    place = place or index
    refuse_large(index, place.stat().st_size, SMALL_BYTES)
    weights = _read_object(index, place).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise UserError(f"{index}: key 'weight_map': must map each weight to its file; copy the model folder whole")
    for name in weights.values():
        if not isinstance(name, str) or not _SHARD.fullmatch(name) or _ADAPTER.fullmatch(name):
            raise UserError(
                f"{index}: key 'weight_map': names {str(name)[:100]!r}, which is no weight file of this folder; save "
                "the model again"
            )
    return sorted(set(weights.values()))


def _find_blob(link: Path) -> Path | None:
    """The blob that a link means, if it lies in a snapshot of the Hugging Face cache; None of any other link.

    Such are `models--OWNER--NAME/snapshots/REVISION/FILE`, which lead to `models--OWNER--NAME/blobs/HASH`.
    """
    snapshot = link.parent.resolve()
    repository = snapshot.parent.parent
    if snapshot.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return None
    target = link.readlink()
    blob = repository / "blobs" / target.name
    # By name alone: what is no such name is not looked at.
    named = target in (Path("../../blobs") / target.name, blob)
    return blob if named and not (repository / "blobs").is_symlink() and blob.exists() else None


def _read_object(path: Path, place: Path) -> dict[str, Any]:
    """The JSON object in the file that is called `path` and lies at `place`."""
    try:
        data = json.loads(place.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy the model folder whole") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: not a JSON object; copy the model folder whole")
    return data
