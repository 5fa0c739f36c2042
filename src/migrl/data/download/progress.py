"""How far it is with what reads or writes many bytes."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from migrl.progress import show_progress

CHUNK_BYTES = 1 << 20


@contextmanager
def track_bytes(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of bytes done; they are shown where it takes long."""
    with show_progress(text, total, in_bytes=True, quick=True) as progress:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.tell(done)

        yield advance


def hash_with_progress(path: Path) -> str:
    """SHA-256 of a file's bytes; how far it is shows where it takes long."""
    digest = hashlib.sha256()
    with path.open("rb") as file, track_bytes(f"hashing {path.name}", path.stat().st_size) as advance:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
