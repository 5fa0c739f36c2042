"""A thread that notices when a stage makes no progress, and writes down where each of its threads stands.

It counts its own waking up, not the clock: a changed clock or a suspended machine is no stall. Where it cannot wake up
itself, because C code holds Python's lock, faulthandler's timer, which needs no Python, does the least of it.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from migrl.recipe import WatchSettings
from migrl.watch.signals import STALLED, Stopped, leave_stopped

LOOKS = 20
"""How often the thread looks in the time that may pass without progress."""


@contextmanager
def watch_progress(folder: Path, settings: WatchSettings, rank: int = 0) -> Iterator[Callable[[], None]]:
    """Watch the block; it calls what it is given whenever it has got on. Any thread may call it, and it costs nothing.

    After `settings.stall_minutes` without a call, the stacks of all threads go to `.stacks-<rank>-<n>.txt` in `folder`
    and a line to stderr. After the same time again the process ends with exit code 75, or with `stall_action: report`
    only reports again. `.stacks-<rank>-held.txt` is there only if Python itself stood still; then the code is 1.
    """
    if settings.stall_minutes is None:
        yield lambda: None
        return
    held = folder / f".stacks-{rank}-held.txt"
    try:
        with held.open("w") as file:
            watchdog = _Watchdog(folder, settings, rank, file)
            watchdog.set_timer()
            watchdog.start()
            try:
                yield watchdog.tick
            finally:
                watchdog.end()
    finally:
        if not held.stat().st_size:
            held.unlink()


class _Watchdog(threading.Thread):
    def __init__(self, folder: Path, settings: WatchSettings, rank: int, held: TextIO) -> None:
        super().__init__(name="watchdog", daemon=True)
        assert settings.stall_minutes is not None
        self.folder, self.rank, self.held = folder, rank, held
        self.stops = settings.stall_action == "stop"
        self.minutes = settings.stall_minutes
        self.pause = self.minutes * 60 / LOOKS
        self.ticks = 0
        self.ended = threading.Event()

    def tick(self) -> None:
        self.ticks += 1

    def end(self) -> None:
        self.ended.set()
        self.join()
        faulthandler.cancel_dump_traceback_later()

    def run(self) -> None:
        seen, quiet = self.ticks, 0
        while not self.ended.wait(self.pause):
            self.set_timer()
            quiet = quiet + 1 if self.ticks == seen else 0
            seen = self.ticks
            if quiet and quiet % LOOKS == 0:
                self.report(self.minutes * quiet / LOOKS, stop=self.stops and quiet >= 2 * LOOKS)

    def set_timer(self) -> None:
        """Put faulthandler's timer off; done at every look, so that it goes off only if there are none any more."""
        faulthandler.dump_traceback_later(2 * LOOKS * self.pause, file=self.held, exit=self.stops)

    def report(self, minutes: float, *, stop: bool) -> None:
        number = 1 + sum(path.stem.split("-")[-1].isdigit() for path in self.folder.glob(f".stacks-{self.rank}-*.txt"))
        path = self.folder / f".stacks-{self.rank}-{number}.txt"
        with path.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        text = f"no progress in process {self.rank} for {minutes:g} minutes, the stacks of its threads are in {path}"
        if stop:
            text = f"stopped: {text}; start again to resume, or raise watch.stall_minutes if it was only slow"
            leave_stopped(self.folder, Stopped(text, STALLED))
        print(text, file=sys.stderr, flush=True)
        if stop:
            os._exit(STALLED)
