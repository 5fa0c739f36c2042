"""Requests that a server leaves without a usable reply: how many may be, and what is kept of them.

One picture that a server cannot read must not stop a hundred thousand others; a server that refuses everything must not
be asked everything. So they are set aside, written to the log only once all others are answered, and until then too
many of them end the run: the next start asks them again.
"""

import math
from dataclasses import asdict
from typing import Any

from migrl.errors import UserError
from migrl.recipe import ServerTeacher
from migrl.synthesis.teachers.client import Unanswered

FEWEST_IN_A_ROW = 8
FEWEST_BEFORE_A_REPLY = 64


class FailedRequests:
    """The requests of one run without a reply, at most the share `unanswered` of `total`, rounded up.

    As many failures in a row as there are places also end the run, for every one of them may have taken hours. Refusals
    are quick, and can well come before the first reply: they count for the share, and end a run without any reply.
    """

    def __init__(self, teacher: ServerTeacher, total: int) -> None:
        self.allowed = math.ceil(teacher.unanswered * total)
        self.most_in_a_row = max(FEWEST_IN_A_ROW, teacher.concurrency)
        self.share, self.total, self.in_a_row = teacher.unanswered, total, 0
        self.most_before_a_reply = max(FEWEST_BEFORE_A_REPLY, teacher.concurrency)
        self.works = False
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, error: Unanswered) -> None:
        """Set a request aside.

        Raises:
            UserError: too many; names the request and the reason.
        """
        reply = {"completion": "", "truncated": False, "unanswered": True}
        reply |= {"prompt_tokens": None, "completion_tokens": None}
        self.rows.append({"uid": name, "reply": reply, "spent": asdict(error.spent), "reason": str(error)})
        self.in_a_row += not error.refused
        nothing = len(self.rows) == self.total or (not self.works and len(self.rows) >= self.most_before_a_reply)
        if len(self.rows) > self.allowed or self.in_a_row >= self.most_in_a_row or nothing:
            limits = (
                "compare model, max_new_tokens, sft.max_pixels and the number of images with the server's limits; one "
                "that knows no top_k or repetition_penalty needs synthesize.teacher.extensions=[]"
            )
            raise UserError(
                f"sample {name}: {error}; {len(self.rows)} of {self.total} requests are without a reply, and "
                f"synthesize.teacher.unanswered={self.share:g} allows {self.allowed}, fewer than all, and fewer than "
                f"{self.most_in_a_row} failures in a row; {limits if error.refused else 'look after the server'}, and "
                "start again: what was answered is kept"
            )

    def count_reply(self) -> None:
        """The server works."""
        self.works, self.in_a_row = True, 0

    def describe(self) -> str:
        """One line about them all."""
        first = self.rows[0]
        return (
            f"{len(self.rows)} requests are left without a reply, the first: sample {first['uid']}: {first['reason']}"
        )
