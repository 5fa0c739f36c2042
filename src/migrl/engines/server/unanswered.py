"""Requests that a server leaves without a usable reply: how many may be, and what is kept of them.

One picture that a server cannot read must not stop a hundred thousand others; a server that refuses everything must not
be asked everything. So they are set aside, written to the log only once all others are answered, and until then too
many of them end the run: the next start asks them again.
"""

import math
from dataclasses import asdict
from typing import Any

from migrl.engines.server.retries import Unanswered
from migrl.errors import UserError
from migrl.recipe import ServerSettings

FEWEST_IN_A_ROW = 8
FEWEST_BEFORE_A_REPLY = 64


class FailedRequests:
    """The requests of one run without a reply, at most the share `unanswered` of `total`, rounded up.

    As many failures in a row as there are worker slots also end the run, for every one of them may have taken hours.
    Refusals are quick, and can well come before the first reply: they count for the share, and end a run without any
    reply.
    """

    def __init__(self, settings: ServerSettings, section: str, total: int) -> None:
        self.settings, self.section, self.total = settings, section, total
        self.in_a_row, self.works = 0, False
        self.rows: list[dict[str, Any]] = []

    def count_reply(self) -> None:
        """The server works."""
        self.works, self.in_a_row = True, 0

    def add(self, name: str, error: Unanswered) -> None:
        """Set a request aside.

        Raises:
            UserError: too many; names the request and the reason.
        """
        reply = {"completion": "", "truncated": False, "unanswered": True}
        reply |= {"prompt_tokens": None, "completion_tokens": None}
        self.rows.append({"uid": name, "reply": reply, "spent": asdict(error.spent), "reason": str(error)})
        self.in_a_row += not error.refused
        share, slots = self.settings.unanswered, self.settings.concurrency
        allowed, most_in_a_row = math.ceil(share * self.total), max(FEWEST_IN_A_ROW, slots)
        most = allowed if self.works else min(allowed, max(FEWEST_BEFORE_A_REPLY, slots) - 1)
        if len(self.rows) > min(most, self.total - 1) or self.in_a_row >= most_in_a_row:
            limits = (
                "compare model, max_new_tokens, max_pixels and the number of images with the server's limits; one that "
                f"knows no top_k or repetition_penalty needs {self.section}.extensions=[]"
            )
            raise UserError(
                f"sample {name}: {error}; {len(self.rows)} of {self.total} requests are without a reply, and "
                f"{self.section}.unanswered={share:g} allows {allowed}, fewer than all, and fewer than {most_in_a_row} "
                f"failures in a row; {limits if error.refused else 'look after the server'}, and start again: what was "
                "answered is kept"
            )

    def describe(self) -> str:
        """One line about them all."""
        first = self.rows[0]
        return (
            f"{len(self.rows)} requests are left without a reply, the first: sample {first['uid']}: {first['reason']}"
        )
