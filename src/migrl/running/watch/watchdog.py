"""A thread that notices when a process makes no progress, and writes down where each of its threads stands.

It counts its own waking up, not the clock: a changed clock or a suspended machine is no stall. Where it cannot wake up
itself, because C code holds Python's lock, faulthandler's timer, which needs no Python, ends the process with code 1.
"""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from migrl.recipe import WatchSettings
from migrl.running.ending import leave_ending
from migrl.running.watch.signals import STALLED, Stopped

Limit = Literal["load_minutes", "stall_minutes"]
DOING = {"load_minutes": " of loading or saving", "stall_minutes": ""}
LOOKS = 20
"""How often the thread looks in the shorter of the times that may pass without progress."""


@contextmanager
def watch_loading(folder: Path, settings: WatchSettings, rank: int = 0) -> Iterator[None]:
    """Watch a process's work from its start to its end: it must be done, or get to its steps, in `load_minutes`.

    After that time the stacks of all threads go to `.stacks-<rank>-<n>.txt` in `folder` and a line to stderr. After the
    same time again the process ends with exit code 75, or with `stall_action: report` only reports again.
    """
    with _watch(folder, settings, rank, "load_minutes"):
        yield


@contextmanager
def watch_progress(folder: Path, settings: WatchSettings, rank: int = 0) -> Iterator[Callable[[], None]]:
    """Watch the steps of a process in the same way; the block calls what it is given whenever it has got on.

    `stall_minutes` may pass between two calls. Any thread may call it, and it costs nothing. Inside of `watch_loading`
    it takes the place of that until the block ends.
    """
    with _watch(folder, settings, rank, "stall_minutes") as watchdog:
        yield watchdog.tick


@contextmanager
def _watch(folder: Path, settings: WatchSettings, rank: int, limit: Limit) -> Iterator["Watchdog"]:
    # One per process, as faulthandler has one timer.
    running = next((thread for thread in threading.enumerate() if isinstance(thread, Watchdog)), None)
    watchdog = running or Watchdog(folder, settings, rank)
    before = watchdog.limit
    watchdog.change(limit)
    watchdog.set_timer()  # here, for the thread may never get Python's lock
    if running is None:
        watchdog.start()
    try:
        yield watchdog
    finally:
        watchdog.change(before)
        watchdog.set_timer()
        if running is None:
            watchdog.close()


class Watchdog(threading.Thread):
    """Looks whether a process gets on, within the limit in force; `end` ends the process with an exit code."""

    def __init__(
        self, folder: Path, settings: WatchSettings, rank: int, end: Callable[[int], object] = os._exit
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.folder, self.settings, self.rank, self.end = folder, settings, rank, end
        self.stops = settings.stall_action == "stop"
        limits = [minutes for minutes in (settings.load_minutes, settings.stall_minutes) if minutes is not None]
        self.pause = 60 * min(limits) / LOOKS if limits else None
        self.limit: Limit = "load_minutes"
        self.ticks = self.seen = self.quiet = 0
        self.reports = len(list(folder.glob(f".stacks-{rank}-*.txt")))
        self.closed = threading.Event()

    def tick(self) -> None:
        """Say that the process has got on."""
        self.ticks += 1

    def change(self, limit: Limit) -> None:
        """Begin to count anew, by another limit."""
        self.limit = limit
        self.tick()

    def close(self) -> None:
        """Look no more."""
        self.closed.set()
        self.join()
        faulthandler.cancel_dump_traceback_later()

    def run(self) -> None:
        while not self.closed.wait(self.pause):
            self.look()
            self.set_timer()

    def set_timer(self) -> None:
        """Put faulthandler's timer off; done at every look, so that it goes off only if there are none any more."""
        minutes = getattr(self.settings, self.limit)
        if minutes is None:
            faulthandler.cancel_dump_traceback_later()
        else:
            faulthandler.dump_traceback_later(2 * 60 * minutes, file=2, exit=self.stops)

    def look(self) -> None:
        """Count the looks since the last tick; report when the limit is reached, and end the process at its double."""
        limit, ticks = self.limit, self.ticks
        self.quiet = self.quiet + 1 if ticks == self.seen else 0
        self.seen = ticks
        minutes = getattr(self.settings, limit)
        if minutes is not None and self.pause is not None and self.quiet:
            times, rest = divmod(self.quiet, round(60 * minutes / self.pause))
            if rest == 0:
                self.report(limit, minutes * times, stop=self.stops and times >= 2)

    def report(self, limit: Limit, minutes: float, *, stop: bool) -> None:
        """Tell where the process stands, and end it if it is to `stop`."""
        self.reports += 1
        path = self.folder / f".stacks-{self.rank}-{self.reports}.txt"
        text = f"no progress in process {self.rank} for {minutes:g} minutes{DOING[limit]}"
        text = f"{text}, the stacks of its threads are in {path}"
        if stop:
            text = f"stopped: {text}; start again to resume, or raise watch.{limit} if it was only slow"
        print(text, file=sys.stderr, flush=True)  # first: a dead disk may be why it stands still, and hold this up too
        try:
            with path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            if stop:
                leave_ending(self.folder, Stopped(text, STALLED))
        except OSError as error:
            print(f"{path}: {error}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(2, all_threads=True)
        if stop:
            self.end(STALLED)
