"""Teacher behind an OpenAI-compatible server. A run that was killed asks only for what is missing."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

from migrl.models.inputs import ModelInput
from migrl.recipe import ServerTeacher
from migrl.running.progress_log import ProgressLog
from migrl.synthesis.teachers.client import ChatServer, read_key
from migrl.synthesis.teachers.ledger import add_up, name_request
from migrl.synthesis.teachers.pool import ask_all
from migrl.synthesis.teachers.reply import Reply
from migrl.synthesis.teachers.request import build_requests
from migrl.synthesis.teachers.unanswered import FailedRequests

SECTION = "synthesize.teacher"


def ask_server(
    teacher: ServerTeacher, items: list[ModelInput], replies: Path, home: Path, *, candidates: int, seed: int
) -> tuple[list[list[Reply]], dict[str, Any]]:
    """Replies for each item, in order, and the ledger. Goes on with the log `replies` that an earlier run left.

    `home` is where the run is asked to stop (watch/signals.py).

    Raises:
        UserError: no server, a key that it refuses, too long an outage, or too many requests without a reply; what was
            answered is kept.
    """
    key = read_key(teacher.key_file, SECTION) if teacher.key_file else None
    replies.parent.mkdir(exist_ok=True)
    log = ProgressLog(replies)
    try:
        missing = [(item, [k for k in range(candidates) if name_request(item, k) not in log]) for item in items]
        if builders := [partial(build_requests, teacher, item, numbers, seed) for item, numbers in missing if numbers]:
            failed = FailedRequests(teacher, SECTION, len(items) * candidates)
            asyncio.run(ask_all(ChatServer(teacher, SECTION, key, len(log.rows)), builders, log, home, failed))
            if failed.rows:
                print(f"warning: {failed.describe()}", file=sys.stderr)
    finally:
        log.close()
    rows = [[log.rows[name_request(item, k)] for k in range(candidates)] for item in items]
    ledger = add_up([row for some in rows for row in some], teacher)
    return [[row["reply"] for row in some] for some in rows], ledger
