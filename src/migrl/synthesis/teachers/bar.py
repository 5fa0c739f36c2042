"""What a user sees while a server works: replies, tokens, attempts that failed and why the last one did."""

from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from migrl.synthesis.teachers.teacher import Reply


class Bar:
    """A progress bar with counts and remaining time, and a line of figures behind it."""

    def __init__(self, label: str, done: int, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        figures = TextColumn("{task.fields[figures]}", markup=False)
        self.progress = Progress(*columns, TimeRemainingColumn(), figures)
        self.task = self.progress.add_task(label, completed=done, total=total, figures="")
        self.tokens, self.failures, self.reason = 0, 0, ""

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def count_reply(self, reply: Reply) -> None:
        """One more reply, with the tokens that its server tells."""
        self.tokens += (reply["prompt_tokens"] or 0) + (reply["completion_tokens"] or 0)
        self.progress.update(self.task, advance=1, figures=self.show_figures())

    def count_failure(self, reason: str) -> None:
        """One more attempt that failed and will be repeated."""
        self.failures, self.reason = self.failures + 1, reason
        self.progress.update(self.task, figures=self.show_figures())

    def pass_over(self) -> None:
        """One request that is left without a reply."""
        self.progress.update(self.task, advance=1)

    def show_figures(self) -> str:
        """Tokens so far, and the failures if there were any."""
        failed = f", {self.failures} failed attempts, the last: {self.reason[:60]}" if self.failures else ""
        return f"{self.tokens:,} tokens{failed}"
