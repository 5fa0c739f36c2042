"""A prepared folder, as others made it: its `<split>.jsonl` and the pictures that their records name are taken."""

from pathlib import Path, PurePosixPath

from migrl.errors import UserError
from migrl.grounding.samples import Sample, read_samples
from migrl.plain_files import copy_plain, list_plain_files, refuse_large
from migrl.running.stage import check_disk

MAX_FILE_BYTES = 1_000_000_000
"""Of a file of records or a picture. The largest picture that is decoded has 540 MB in RGB (grounding/images.py)."""


def copy_prepared(source: Path, data: Path) -> None:
    """Copy the records and the pictures of a prepared folder; a picture that is missing is left to those who open it.

    Nothing is copied before the whole folder was looked through.

    Raises:
        UserError: no such folder, a link or another special file in it, a file above MAX_FILE_BYTES, too little disk,
            or a broken record.
    """
    if not source.is_dir():
        raise UserError(f"source.path={source}: no such folder; prepare the data as reproduce/README.md, Data, says")
    sizes = list_plain_files(source)
    records = sorted(name for name in sizes if name.endswith(".jsonl") and "/" not in name and name[0] != ".")
    data.mkdir(parents=True, exist_ok=True)
    _copy_files(source, data, {name: sizes[name] for name in records})
    pictures = {}
    for name in records:
        for number, sample in enumerate(read_samples(data / name), 1):
            for picture in list_pictures(sample, f"{source / name}, record {number}"):
                if picture in sizes and picture not in records:
                    pictures[picture] = sizes[picture]
    _copy_files(source, data, pictures)


def list_pictures(sample: Sample, where: str) -> list[str]:
    """Relative POSIX names of a sample's pictures.

    Raises:
        UserError: a hidden name, which no manifest lists.
    """
    names = [PurePosixPath(image) for image in sample.images]
    for name in names:
        if any(part.startswith(".") for part in name.parts) or "\0" in name.as_posix():
            raise UserError(
                f"{where}: key 'images': {name.as_posix()!r} is hidden, and would be in no manifest; rename the picture"
            )
    return [name.as_posix() for name in names]


def _copy_files(source: Path, data: Path, sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        refuse_large(source / name, size, MAX_FILE_BYTES)
    check_disk(data, sum(sizes.values()))
    for name, size in sizes.items():
        copy_plain(source / name, data / name, size)
