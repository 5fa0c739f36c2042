"""The last look at every file before it may leave: known kinds only, no code, no secrets, no paths of this machine.

Pickles run code when they are opened and remote code runs when a model is loaded, so weights are
safetensors whose header is parsed here, and a configuration that names code of its own is refused.
"""

import gzip
import json
import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from migrl.errors import UserError

SUFFIXES = (
    ".safetensors", ".json", ".jsonl", ".jsonl.gz", ".md", ".txt", ".jinja", ".html", ".png", ".yaml", ".svg"
)  # fmt: skip
CODE_KEYS = ("auto_map", "custom_pipelines")
"""Keys by which a configuration makes transformers load Python from the repository."""

SECRETS = {
    "a Hugging Face token": rb"\bhf_[A-Za-z0-9]{30,}",
    "an API key": rb"\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}",
    "an authorization header": rb"(?i)\bbearer\s+[A-Za-z0-9._~+/-]{20,}",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}
_HOMES = rb"/(?:home|Users)/[\w.-]+"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHOWN_FAULTS = 5


def inspect_folder(folder: Path, private_paths: Iterable[Path]) -> None:
    """Refuse a folder that holds anything which must not be published.

    Args:
        private_paths: folders of this machine that no published file may name, beside all home folders.

    Raises:
        UserError: naming the first faulty files, with line number and reason but without the text found.
    """
    patterns = {name: re.compile(pattern) for name, pattern in SECRETS.items()}
    patterns["a path of a machine"] = compile_paths(private_paths)
    faults = []
    for path in sorted(folder.rglob("*")):
        if not _NAME.fullmatch(path.name) or holds_secret(path.name):
            faults.append(f"{path.parent}: a file whose name is not of letters, digits and . _ -, or holds a token")
        elif path.is_symlink():
            faults.append(f"{path}: a link; only plain files are published")
        elif path.is_file() and (fault := inspect_file(path, patterns)):
            faults.append(f"{path}: {fault}")
    if faults:
        more = len(faults) - _SHOWN_FAULTS
        shown = "; ".join(faults[:_SHOWN_FAULTS]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(f"{shown}; correct the stage that wrote it and run it again, nothing is published before")


def holds_secret(text: str) -> bool:
    """Whether one of SECRETS is in a text."""
    return any(re.search(pattern, text.encode("utf-8", "surrogateescape")) for pattern in SECRETS.values())


def compile_paths(private_paths: Iterable[Path]) -> re.Pattern[bytes]:
    """A pattern for these absolute paths and for home folders, where they begin a path and not inside another."""
    paths = {str(path.resolve()).encode() for path in private_paths} - {b"/"}
    parts = [re.escape(path) + rb"(?![\w.-])" for path in sorted(paths)]
    return re.compile(rb"(?<![\w.-])(?:" + b"|".join([*parts, _HOMES]) + rb")")


def inspect_file(path: Path, patterns: dict[str, re.Pattern[bytes]]) -> str:
    """What keeps a file from being published, or an empty text."""
    if not path.name.endswith(SUFFIXES):
        return f"a file of this kind is not published; allowed are {', '.join(SUFFIXES)}"
    try:
        if path.suffix == ".safetensors":
            return find_text([read_header(path)], patterns, "header")
        if path.suffix == ".json" and (key := find_code(json.loads(path.read_bytes()))):
            return f"key {key!r} makes whoever loads it run code; trust_remote_code is never asked for"
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            return find_text(file, patterns, "line")
    except (SafetensorError, struct.error) as error:
        return f"not a sound safetensors file ({error}); pickles are never published"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({type(error).__name__})"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"not a whole gzip file ({error})"


def read_header(path: Path) -> bytes:
    """The JSON header of a safetensors file, after its parser checked it, all offsets and the file's length.

    Raises:
        SafetensorError: it is not such a file.
    """
    with safe_open(path, framework="numpy") as tensors:
        if not list(tensors.keys()):
            raise SafetensorError("it holds no tensor")
    with path.open("rb") as file:
        return file.read(struct.unpack("<Q", file.read(8))[0])


def find_code(data: Any) -> str:
    """The first key at any depth that names remote code, or an empty text."""
    if isinstance(data, dict):
        return next((key for key in CODE_KEYS if key in data), "") or find_code(list(data.values()))
    if isinstance(data, list):
        return next((found for item in data if (found := find_code(item))), "")
    return ""


def find_text(lines: Iterable[bytes], patterns: dict[str, re.Pattern[bytes]], unit: str) -> str:
    """The first secret or path in lines, as "line 3 holds ..."; the text itself is not repeated."""
    for number, line in enumerate(lines, 1):
        for name, pattern in patterns.items():
            if pattern.search(line):
                return f"{unit} {number} holds {name}"
    return ""
