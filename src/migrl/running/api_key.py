"""The key of a server, in a file of its own: read, and never repeated."""

import stat
import sys
from pathlib import Path

from migrl.errors import UserError


def read_key(path: Path, section: str) -> str:
    """The API key in a file.

    Raises:
        UserError: no such file, or not one line of printable characters; the content is never repeated.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no key can be read ({type(error).__name__}); correct {section}.key_file") from error
    if not key or not key.isprintable() or " " in key:
        raise UserError(f"{path}: holds no key: one line without spaces is expected; write the key into it, alone")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        print(f"warning: {path}: others may read this key; run: chmod 600 {path}", file=sys.stderr)
    return key
