"""A thread that notices when a process makes no progress, and writes down where each of its threads stands.

It counts its own waking up, not the clock: a changed clock or a suspended machine is no stall. Where it cannot wake up
itself, because C code holds Python's lock, faulthandler's timer, which needs no Python, does the least of it.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from migrl.recipe import WatchSettings
from migrl.running.watch.signals import STALLED, Stopped, leave_stopped

LOOKS = 20
"""How often the thread looks in the time that may pass without progress."""


@dataclass(frozen=True)
class Limit:
    """Minutes that may pass without progress, None for any number, and the recipe's key for them."""

    minutes: float | None
    key: str
    doing: str = ""


@contextmanager
def watch_loading(folder: Path, settings: WatchSettings, rank: int = 0) -> Iterator[None]:
    """Watch a process's work from its start to its end: it must be done, or get to its steps, in `load_minutes`.

    After that time the stacks of all threads go to `.stacks-<rank>-<n>.txt` in `folder` and a line to stderr. After the
    same time again the process ends with exit code 75, or with `stall_action: report` only reports again.
    `.stacks-<rank>-held.txt` is there only if Python itself stood still; then the code is 1.
    """
    with _expect(folder, settings, rank, Limit(settings.load_minutes, "watch.load_minutes", " of loading or saving")):
        yield


@contextmanager
def watch_progress(folder: Path, settings: WatchSettings, rank: int = 0) -> Iterator[Callable[[], None]]:
    """Watch the steps of a process in the same way; the block calls what it is given whenever it has got on.

    `stall_minutes` may pass between two calls. Any thread may call it, and it costs nothing. Inside of `watch_loading`
    it takes the place of that until the block ends.
    """
    with _expect(folder, settings, rank, Limit(settings.stall_minutes, "watch.stall_minutes")) as tick:
        yield tick


@contextmanager
def _expect(folder: Path, settings: WatchSettings, rank: int, limit: Limit) -> Iterator[Callable[[], None]]:
    # One a process, as faulthandler has one timer.
    running = next((thread for thread in threading.enumerate() if isinstance(thread, _Watchdog)), None)
    if running is not None:
        before = running.limit
        running.change(limit)
        try:
            yield running.tick
        finally:
            running.change(replace(before))
        return
    held = folder / f".stacks-{rank}-held.txt"
    try:
        with held.open("w") as file:
            watchdog = _Watchdog(folder, settings, rank, file, limit)
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
    def __init__(self, folder: Path, settings: WatchSettings, rank: int, held: TextIO, limit: Limit) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.folder, self.rank, self.held, self.limit = folder, rank, held, limit
        self.stops = settings.stall_action == "stop"
        self.ticks = 0
        self.reports = sum(path.stem.split("-")[-1].isdigit() for path in folder.glob(f".stacks-{rank}-*.txt"))
        self.woken, self.ended = threading.Event(), False

    def tick(self) -> None:
        self.ticks += 1

    def change(self, limit: Limit) -> None:
        """Begin to count anew, by another limit."""
        self.limit = limit
        self.set_timer()  # here, for the thread may never get Python's lock again
        self.woken.set()

    def end(self) -> None:
        self.ended = True
        self.woken.set()
        self.join()
        faulthandler.cancel_dump_traceback_later()

    @property
    def pause(self) -> float | None:
        """Seconds between two looks; None as long as there is nothing to look for."""
        minutes = self.limit.minutes
        return None if minutes is None else minutes * 60 / LOOKS

    def run(self) -> None:
        seen, quiet, last = self.ticks, 0, self.limit
        while not self.ended:
            self.woken.wait(self.pause)
            self.woken.clear()
            limit = self.limit
            self.set_timer()
            # By identity: each change brings an object of its own, also back to the limit of before.
            quiet = 0 if limit is not last or self.ticks != seen else quiet + 1
            seen, last = self.ticks, limit
            if limit.minutes is not None and quiet and quiet % LOOKS == 0:
                self.report(limit, limit.minutes * quiet / LOOKS, stop=self.stops and quiet >= 2 * LOOKS)

    def set_timer(self) -> None:
        """Put faulthandler's timer off; done at every look, so that it goes off only if there are none any more."""
        if self.pause is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(2 * LOOKS * self.pause, file=self.held, exit=self.stops)

    def report(self, limit: Limit, minutes: float, *, stop: bool) -> None:
        self.reports += 1
        path = self.folder / f".stacks-{self.rank}-{self.reports}.txt"
        text = f"no progress in process {self.rank} for {minutes:g} minutes{limit.doing}"
        text = f"{text}, the stacks of its threads are in {path}"
        if stop:
            text = f"stopped: {text}; start again to resume, or raise {limit.key} if it was only slow"
        print(text, file=sys.stderr, flush=True)  # first: a dead disk may be why it stands still, and hold this up too
        try:
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            if stop:
                leave_stopped(self.folder, Stopped(text, STALLED))
        except OSError as error:
            print(f"{path}: {error}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
        if stop:
            os._exit(STALLED)
