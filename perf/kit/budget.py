"""The kit's time: what is at work when it is spent is cut off, wherever it is."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(BaseException):
    """The budget is spent. No `Exception`, so that nothing on the way takes it for a failure of its own."""


class Budget:
    """So many seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Raise OutOfTime in this block once nothing is left."""

        def stop(number: int, frame: FrameType | None) -> None:
            raise OutOfTime

        if self.left <= 0:
            raise OutOfTime
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, self.left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
