"""Sending a request until it is answered: when it is sent again, when it is given up, and when the whole run ends.

An outage (nobody there, too many requests, overloaded) is waited for, up to `outage_seconds` in which no request at all
is answered. Anything else is the request's own: refused, or failed `retries` times over, it is left unanswered, and the
others go on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from tenacity import AsyncRetrying, retry_if_exception_type, wait_exception, wait_random_exponential

from migrl.engines.server.client import ChatServer
from migrl.engines.server.reply import AttemptFailed, Reply, Spent
from migrl.errors import UserError

MAX_BACKOFF_SECONDS = 60.0
MAX_STARVATION_FACTOR = 4  # times outage_seconds that one request waits while others are answered


@dataclass(frozen=True)
class Request:
    """The body of a request in JSON, and its `name` in the log and in errors."""

    name: str
    body: bytes


@dataclass(eq=False)
class Unanswered(Exception):
    """A request without a usable reply, for reasons of its own: `refused` by the server, or failed each time."""

    reason: str
    refused: bool
    spent: Spent


async def ask(server: ChatServer, request: Request, tell: Callable[[str], None]) -> tuple[Reply, Spent]:
    """Send one request until it is answered. `tell` is called with the reason of each attempt that failed.

    Waits are what the server asks for, and at random up to a bound that doubles, so that those who failed together do
    not come back together.

    Raises:
        Unanswered: the server refuses this request, `retries` are used up, or others are answered for
            MAX_STARVATION_FACTOR times `outage_seconds` and this one is not.
        UserError: the server refuses all, is not there, or answers none for more than `outage_seconds`.
    """
    spent, failures, away_since = Spent(), 0, None

    async def attempt() -> Reply:
        nonlocal failures, away_since
        start = time.monotonic()
        try:
            reply = await server.send(request.body)
        except AttemptFailed as failure:
            tell(failure.reason)
            spent.wasted_prompt_tokens += failure.wasted[0]
            spent.wasted_completion_tokens += failure.wasted[1]
            if failure.outage:
                away_since = start if away_since is None else away_since
                judge_outage(server, request, failure, away_since, spent)
            else:
                away_since, failures = None, failures + 1
            if failure.refused:
                raise Unanswered(failure.reason, refused=True, spent=spent) from failure
            if failures > server.settings.retries:
                reason = f"no usable reply after {spent.retries + 1} attempts, the last one: {failure}"
                raise Unanswered(reason, refused=False, spent=spent) from failure
            spent.retries += 1
            raise
        spent.seconds = round(time.monotonic() - start, 3)
        return reply

    backoff = wait_random_exponential(multiplier=server.settings.backoff_seconds, max=MAX_BACKOFF_SECONDS)
    asked = wait_exception(lambda failure: failure.wait if isinstance(failure, AttemptFailed) else 0.0)
    retrying = AsyncRetrying(retry=retry_if_exception_type(AttemptFailed), wait=asked + backoff)
    reply: Reply = await retrying(attempt)
    return reply, spent


def judge_outage(server: ChatServer, request: Request, failure: AttemptFailed, since: float, spent: Spent) -> None:
    """Go on if an outage that a request met at `since` may still pass.

    Raises:
        Unanswered, UserError: as `ask` does.
    """
    base_url, limit, now = server.settings.base_url, server.settings.outage_seconds, time.monotonic()
    if not server.is_there:
        raise UserError(
            f"{base_url}: no server answers: {failure}; start it, or correct {server.section}.base_url"
        ) from failure
    if now - since > MAX_STARVATION_FACTOR * limit and server.last_reply > since:
        reason = f"no reply for {now - since:.0f} s in which others were answered: {failure}"
        raise Unanswered(reason, refused=False, spent=spent) from failure
    if now - max(since, server.last_reply) > limit:
        raise UserError(
            f"sample {request.name}: no reply for outage_seconds={limit:g}, the last attempt: {failure}; look after "
            f"the server, or lower {server.section}.concurrency if it has too much to do, and start again: what was "
            "answered is kept"
        ) from failure
