"""How far long work is: a bar on a terminal, and elsewhere, as in a server's log, a plain line a minute.

Both go to stderr, for what a command prints on stdout may be its result.
"""

import sys
import time
from collections.abc import Callable, Collection, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
LINE_SECONDS = 60.0
QUICK_SECONDS = 5.0


class Lines:
    """Plain lines: at most one in `interval` seconds, and one when the work is done.

    `done` of `total` were there before; `word` stands before the counts. Of work that may be `quick`, nothing is told
    in its first seconds.
    """

    def __init__(
        self,
        label: str,
        total: int,
        done: int = 0,
        *,
        word: str = "",
        in_bytes: bool = False,
        quick: bool = False,
        interval: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label, self.total, self.first, self.done = f"{label}: {word}", total, done, done
        self.count: Callable[[int], str] = decimal if in_bytes else "{:,}".format
        self.figures, self.quick, self.interval, self.clock = "", quick, interval, clock
        self.start = self.last = clock()

    def tell(self, done: int, figures: str = "") -> None:
        """So much is done by now; the newest `figures` stand behind it."""
        self.done, self.figures = done, figures or self.figures
        now = self.clock()
        if done < self.total and now - self.last >= self.interval:
            self.last = now
            new = done - self.first
            self._write(f"{tell_time((now - self.start) / new * (self.total - done))} left" if new > 0 else "")

    def finish(self) -> None:
        """The last line: where the work ended, and how long it took."""
        seconds = self.clock() - self.start
        if not self.quick or seconds >= QUICK_SECONDS:
            self._write(f"took {tell_time(seconds)}")

    def _write(self, seconds: str) -> None:
        counts = f"{self.label}{self.count(self.done)} of {self.count(self.total)}"
        print(", ".join(filter(None, (counts, self.figures, seconds))), file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:  # else the error says how it ended, in the last line
            self.finish()


class Bar:
    """A bar with counts, elapsed and remaining time, told the same as `Lines`."""

    def __init__(self, label: str, total: int, done: int = 0, *, in_bytes: bool = False, quick: bool = False) -> None:
        counts = DownloadColumn() if in_bytes else MofNCompleteColumn()
        words, figures = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[figures]"))
        columns = (words, BarColumn(), counts, TimeElapsedColumn(), TimeRemainingColumn(), figures)
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task(label, total=total, completed=done, figures="")
        self.figures = ""
        self.from_when = time.monotonic() + (QUICK_SECONDS if quick else 0)

    def tell(self, done: int, figures: str = "") -> None:
        """So much is done by now; the newest `figures` stand behind it."""
        self.figures = figures or self.figures
        self.bar.update(self.task, completed=done, figures=self.figures)
        self._show()

    def _show(self) -> None:
        if time.monotonic() >= self.from_when:
            self.bar.start()

    def __enter__(self) -> Self:
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar.live.is_started:
            self.bar.stop()


def show_progress(label: str, total: int, done: int = 0, *, in_bytes: bool = False, quick: bool = False) -> Bar | Lines:
    """A bar if stderr is a terminal, else lines."""
    kind = Bar if sys.stderr.isatty() else Lines
    return kind(label, total, done, in_bytes=in_bytes, quick=quick)


def track(
    items: Collection[T], label: str, *, count: Callable[[T], int] = lambda item: 1, quick: bool = False
) -> Iterator[T]:
    """Iterate under a bar or lines; an item counts for as much as `count` says."""
    done = 0
    with show_progress(label, sum(map(count, items)), quick=quick) as progress:
        for item in items:
            yield item
            done += count(item)
            progress.tell(done)


def tell_time(seconds: float) -> str:
    """A time in the two largest of its units, such as 1 min 40 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, part = divmod(minutes, 60)
    if hours:
        return f"{hours} h {part} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
