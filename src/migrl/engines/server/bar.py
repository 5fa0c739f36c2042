"""What a user sees while a server works: replies, tokens, attempts that failed and why the last one did."""

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from migrl.engines.server.reply import Reply


class Bar(Progress):
    """A progress bar with counts and remaining time, and a line of figures behind it."""

    def __init__(self, label: str, done: int, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, TimeRemainingColumn(), TextColumn("{task.fields[figures]}", markup=False))
        self.bar = self.add_task(label, completed=done, total=total, figures="")
        self.used_tokens, self.failures, self.reason = 0, 0, ""

    def count_reply(self, reply: Reply) -> None:
        """One more reply, with the tokens that its server tells."""
        self.used_tokens += (reply["prompt_tokens"] or 0) + (reply["completion_tokens"] or 0)
        self.show_figures(advance=1)

    def count_failure(self, reason: str) -> None:
        """One more attempt that failed and will be repeated."""
        self.failures, self.reason = self.failures + 1, reason
        self.show_figures()

    def show_figures(self, advance: int = 0) -> None:
        """Tokens so far, and the failures if there were any; `advance` more requests are done with."""
        failed = f", {self.failures} failed attempts, the last: {self.reason[:60]}" if self.failures else ""
        self.update(self.bar, advance=advance, figures=f"{self.used_tokens:,} tokens{failed}")
