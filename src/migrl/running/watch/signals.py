"""Signals in long stages: finish the step or batch at work, keep what is done, and end so that a scheduler can tell.

SIGTERM and SIGUSR1 (SLURM's `--signal`) go to `migrl` itself. Below it are launchers that die of SIGUSR1 and give their
workers 30 seconds at SIGTERM, maybe on several machines; so nothing is passed on. `migrl` leaves a file in the run's
folder, and every process looks for it after each step or batch: that reaches all of them, and takes the time it takes.

Exit codes of `migrl`, for a scheduler: 143 (SIGTERM) and 138 (SIGUSR1), 128 and the signal's number as shells count;
75 if a stage stood still. After any of them the same command goes on where the run was.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
WAITING = (signal.SIGUSR1,)
STALLED = os.EX_TEMPFAIL  # 75, "temporary failure, try again" in sysexits.h
ENDED = ".ended"  # a launcher got SIGTERM: from outside, or because another machine's failed


class Stopped(Exception):
    """A stage ended before its result was there, because it was asked to or stood still; it can go on from there."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def find_request(home: Path, number: signal.Signals) -> Path:
    """The file in the run's folder that asks every process to stop: it is there or not, so never half written."""
    return home / f".stop-{number.name}"


def clear_requests(home: Path) -> None:
    """Forget what an earlier run was asked."""
    for number in STOP_SIGNALS:
        find_request(home, number).unlink(missing_ok=True)


def read_request(home: Path) -> signal.Signals | None:
    """The signal that asks the stages under `home` (`runs/<recipe>`) to stop, if there is one."""
    return next((number for number in STOP_SIGNALS if find_request(home, number).exists()), None)


def make_stopped(number: signal.Signals, done: str) -> Stopped:
    """The end that a signal asked for; `done` says what was reached."""
    return Stopped(f"stopped by {number.name} after {done}; start again to resume", 128 + number)


def stop_if_asked(home: Path, done: str) -> None:
    """For stages that keep all they have done: end here if asked to.

    Raises:
        Stopped: a signal was caught since the stage began.
    """
    number = read_request(home)
    if number is not None:
        raise make_stopped(number, done)


def hold_requests() -> None:
    """Let SIGUSR1 wait, for this process and all that it starts from now on, until `await_requests` takes it.

    It would end a process that is still importing, and a group of processes gets it all at once.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITING)


def await_requests(home: Path) -> None:
    """From now on answer SIGUSR1 by asking every process to stop; for launchers and workers.

    They leave SIGTERM as it is: with it torch's launcher ends the rest when one worker has failed.
    """
    hold_requests()

    def wait() -> None:
        while True:
            find_request(home, signal.Signals(signal.sigwait(WAITING))).touch()

    threading.Thread(target=wait, name="signals", daemon=True).start()


@contextmanager
def stop_on_signals(home: Path, name: str) -> Iterator[None]:
    """Run stage `name` so that SIGTERM and SIGUSR1 end it at its next step or batch. Main thread only.

    Raises:
        Stopped: the stage did, or it was finished before it saw the request, and the next one must not begin.
    """
    clear_requests(home)

    def leave(number: int, frame: FrameType | None) -> None:
        find_request(home, signal.Signals(number)).touch()

    before = {number: signal.signal(number, leave) for number in STOP_SIGNALS}
    try:
        yield
        stop_if_asked(home, f"stage {name}, which is finished")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        clear_requests(home)
