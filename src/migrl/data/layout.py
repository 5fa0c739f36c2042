"""How a prepared folder is laid out: `<name>.jsonl` with samples, and `<name>`, a link to the pictures they show."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from migrl.data.download import Obtained
from migrl.errors import UserError
from migrl.grounding.samples import Sample
from migrl.models.family import FAMILIES

CONTROL_TOKENS = tuple(dict.fromkeys(token for family in FAMILIES for token in family.control_tokens))
"""Of every model family: which one the data will be read by is not asked here."""


def refuse_control_tokens(path: Path, samples: Iterable[Sample]) -> None:
    """Stop at a text of a split that would change the prompt it becomes a part of.

    Raises:
        UserError: naming file, record and key.
    """
    for number, sample in enumerate(samples, 1):
        for key, text in (("question", sample.question), ("facts", sample.facts)):
            if token := next((token for token in CONTROL_TOKENS if token in text), None):
                raise UserError(
                    f"{path}, record {number}: key {key!r}: holds {token}, which would break the prompt; "
                    "take it out, or remove the record"
                )


def link_pictures(name: str, images: Path, data: Path) -> None:
    """Make `<data>/<name>` a link to a folder of pictures, or to a single one."""
    (data / name).unlink(missing_ok=True)
    (data / name).symlink_to(images.resolve())


def move_images(samples: Iterable[Sample], folder: str) -> Iterator[Sample]:
    """The samples with their images below `folder`."""
    return (replace(sample, images=tuple(f"{folder}/{image}" for image in sample.images)) for sample in samples)


def describe_files(*obtained: Obtained) -> dict[str, Any]:
    """Hashes and sizes of the files of sources, and the revisions they are of."""
    files = {name: asdict(file) for source in obtained for name, file in source.files.items()}
    revisions = {name: revision for source in obtained for name, revision in source.revisions.items()}
    return {"files": files, "revisions": revisions}
