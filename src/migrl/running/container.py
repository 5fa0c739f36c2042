"""The container image that this process runs in, as its build and its start wrote it down.

The Dockerfile leaves IMAGE_FILE. An image cannot hold its own digest, so whoever starts the container mounts
DIGEST_FILE beside it; `make image-run` does.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.errors import UserError

IMAGE_FILE = Path("/etc/migrl/image.json")
DIGEST_FILE = Path("/etc/migrl/image-digest")
KEYS = {"base", "revision", "dirty", "tree"}


@dataclass(frozen=True)
class Image:
    """What an image was built from: base image, git revision of its source tree, and where that tree lies in it."""

    base: str
    revision: str | None
    dirty: bool | None
    tree: Path
    digest: str | None

    def describe(self) -> dict[str, Any]:
        """For a manifest; `digest` is null when the container was started without DIGEST_FILE."""
        return {"digest": self.digest, "base": self.base, "revision": self.revision, "dirty": self.dirty}


def read_image(image_file: Path = IMAGE_FILE, digest_file: Path = DIGEST_FILE) -> Image | None:
    """The image around this process; none outside one.

    Raises:
        UserError: a file is there and does not hold what it should.
    """
    if not image_file.exists():
        return None
    try:
        facts = json.loads(image_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{image_file}: not JSON ({error}); build the image again with make image") from error
    if not isinstance(facts, dict) or set(facts) != KEYS:
        raise UserError(f"{image_file}: should hold {', '.join(sorted(KEYS))}; build the image again with make image")
    tree = Path(facts["tree"])
    return Image(facts["base"], facts["revision"] or None, facts["dirty"], tree, read_digest(digest_file))


def read_digest(path: Path) -> str | None:
    """The digest that the container was started with, `sha256:` and 64 hexadecimal digits; none without the file."""
    if not path.exists():
        return None
    digest = path.read_text(encoding="utf-8").strip()
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise UserError(f"{path}: {digest[:80]!r} is no image digest; start the container with make image-run")
    return digest
