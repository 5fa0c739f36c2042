"""Asking a server everything that is not answered yet. A run that was killed asks only for what is missing."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

from migrl.engines.server.client import ChatServer
from migrl.engines.server.ledger import name_request
from migrl.engines.server.pool import ask_all
from migrl.engines.server.request import build_requests
from migrl.engines.server.unanswered import FailedRequests
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput
from migrl.recipe import ServerSettings
from migrl.running.api_key import read_key
from migrl.running.progress_log import ProgressLog

Rows = list[dict[str, Any]]
"""Rows of the log: `reply`, what was `spent` on it, and who it was `served_by` (not of one that is unanswered)."""


def ask_server(
    settings: ServerSettings, section: str, items: list[ModelInput], decoding: Decoding, replies: Path, home: Path
) -> list[Rows]:
    """The rows of each item, in order, `decoding.rollouts` of them. Goes on with the log that an earlier run left.

    Args:
        section: where the recipe names the server, for remedies.
        replies: the log.
        home: where the run is asked to stop (watch/signals.py).

    Raises:
        UserError: no server, a key that it refuses, too long an outage, or too many requests without a reply; what was
            answered is kept.
    """
    key = read_key(settings.key_file, section) if settings.key_file else None
    replies.parent.mkdir(exist_ok=True)
    log = ProgressLog(replies)
    numbers = range(decoding.rollouts)
    try:
        missing = [(item, [k for k in numbers if name_request(item, k) not in log]) for item in items]
        if builders := [partial(build_requests, settings, decoding, item, some) for item, some in missing if some]:
            failed = FailedRequests(settings, section, len(items) * len(numbers))
            asyncio.run(ask_all(ChatServer(settings, section, key, len(log.rows)), builders, log, home, failed))
            if failed.rows:
                print(f"warning: {failed.describe()}", file=sys.stderr)
    finally:
        log.close()
    return [[log.rows[name_request(item, k)] for k in numbers] for item in items]
