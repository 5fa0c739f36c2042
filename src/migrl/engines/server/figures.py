"""What a user sees while a server works: replies, tokens, attempts that failed and why the last one did."""

from migrl.engines.server.reply import Reply
from migrl.progress import Bar, Lines


class Figures:
    """Counts what comes from a server, of which `done` replies were there before, and tells it to `progress`."""

    def __init__(self, progress: Bar | Lines, done: int) -> None:
        self.progress, self.done = progress, done
        self.used_tokens, self.failures, self.reason = 0, 0, ""

    def count_reply(self, reply: Reply) -> None:
        """One more reply, with the tokens that its server tells."""
        self.used_tokens += (reply["prompt_tokens"] or 0) + (reply["completion_tokens"] or 0)
        self.tell(advance=1)

    def count_failure(self, reason: str) -> None:
        """One more attempt that failed and will be repeated."""
        self.failures, self.reason = self.failures + 1, reason
        self.tell()

    def tell(self, advance: int = 0) -> None:
        """Tokens so far, and the failures if there were any; `advance` more requests are done with."""
        self.done += advance
        failed = f", {self.failures} failed attempts, the last: {self.reason[:60]}" if self.failures else ""
        self.progress.tell(self.done, f"{self.used_tokens:,} tokens{failed}")
