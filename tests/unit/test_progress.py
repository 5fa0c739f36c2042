"""How far long work is: plain lines where stderr is no terminal, at most one a minute, and a bar on a terminal."""

import io
import sys
from collections.abc import Callable, Iterator

import pytest

from migrl.progress import Lines, show_progress, tell_time, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_clock(*seconds: float) -> Callable[[], float]:
    """A clock that shows these times, one at each look."""
    times: Iterator[float] = iter(seconds)
    return lambda: next(times)


def test_without_a_terminal_there_is_a_line_a_minute_and_one_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines("evaluating rl", 4000, clock=make_clock(0, 30, 60, 90, 130, 7300, 7310)) as lines:
        for done in (500, 1000, 1500, 2000, 4000):
            lines.tell(done)
    output, errors = capsys.readouterr()
    assert output == "" and errors.splitlines() == [
        "evaluating rl: 1,000 of 4,000, 3 min 0 s left",
        "evaluating rl: 2,000 of 4,000, 2 min 10 s left",
        "evaluating rl: 4,000 of 4,000, took 2 h 1 min",
    ]


def test_what_was_done_before_does_not_count_for_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines("asking the server", 100, 80, clock=make_clock(0, 60, 120))
    lines.tell(80, "0 tokens")  # an attempt failed: nothing to reckon with
    lines.tell(90, "7 tokens")
    assert capsys.readouterr().err.splitlines() == [
        "asking the server: 80 of 100, 0 tokens",
        "asking the server: 90 of 100, 7 tokens, 2 min 0 s left",
    ]


def test_of_many_small_things_only_those_that_take_long_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for end in (4, 9):
        with Lines("hashing", 3 * 10**9, quick=True, in_bytes=True, clock=make_clock(0, 1, end)) as lines:
            lines.tell(3 * 10**9)
    assert capsys.readouterr().err == "hashing: 3.0 GB of 3.0 GB, took 9 s\n"


def test_after_an_error_the_last_word_is_the_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), show_progress("sampling rollouts", 2) as progress:
        progress.tell(1)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""


def test_batches_count_by_their_size_and_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(track([[1, 2], [3]], "sampling [rollouts]", count=len)) == [[1, 2], [3]]
    shown = terminal.getvalue()
    assert "sampling [rollouts]" in shown and "━" in shown and "3/3" in shown and "took" not in shown


def test_times_have_their_two_largest_units() -> None:
    assert [tell_time(seconds) for seconds in (0.4, 59.6, 100, 7499)] == ["0 s", "1 min 0 s", "1 min 40 s", "2 h 4 min"]
