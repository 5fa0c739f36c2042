"""Bars on stderr for what reads or writes many bytes."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

CHUNK_BYTES = 1 << 20


@contextmanager
def track_bytes(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of bytes done; a bar appears on stderr after five seconds."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(text, total=total)
    start = time.monotonic()

    def advance(count: int) -> None:
        bar.advance(task, count)
        if time.monotonic() - start > 5:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def hash_with_progress(path: Path) -> str:
    """SHA-256 of a file's bytes, with a bar on stderr when it takes long."""
    digest = hashlib.sha256()
    with path.open("rb") as file, track_bytes(f"hashing {path.name}", path.stat().st_size) as advance:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
