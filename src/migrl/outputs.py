"""Files that a command writes where its user says: whole or not at all, and nothing else's place is taken."""

from pathlib import Path

from migrl.errors import UserError
from migrl.files import write_text

PAGE_MARK = '<meta name="generator" content="migrl">'
DETAILS_MARK = '"rule": "'
_HEAD = 4_000  # bytes; a mark stands at the beginning


def check_output(path: Path, option: str, mark: str) -> None:
    """Refuse a place for a file; asked before the work that fills it.

    Args:
        mark: what every file that this option writes has near its beginning.

    Raises:
        UserError: no file can be there, or one is that another hand made.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"{option} {path}: no place for a file; name one in a folder that is there")
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{option} {path}: is no plain file; name another")
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head and mark.encode() not in head:
        raise UserError(f"{option} {path}: exists and was not made by this command; move it away or name another file")


def write_output(path: Path, text: str, option: str, mark: str) -> None:
    """Write a file that has passed `check_output`.

    Raises:
        UserError: as `check_output`.
    """
    check_output(path, option, mark)
    write_text(path, text)
