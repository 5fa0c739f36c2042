"""Talking to an OpenAI-compatible server: the key, the connection, one request until it is answered.

Three kinds of failure are told apart. What concerns the account or the address (a wrong key) ends the run at once. An
outage (nobody there, too many requests, overloaded) is waited for, up to `outage_seconds` in which no request at all is
answered. Anything else is the request's own: refused, or failed `retries` times over, it is left unanswered, and the
others go on.
"""

import asyncio
import io
import re
import ssl
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from random import Random

import aiohttp
import httpx

from migrl.errors import UserError
from migrl.recipe import ServerTeacher
from migrl.synthesis.teachers.ledger import Spent
from migrl.synthesis.teachers.reply import (
    MAX_REPLY_BYTES,
    OUTAGE_STATUSES,
    AttemptFailed,
    clean_text,
    parse_reply,
    quote_reply,
)
from migrl.synthesis.teachers.request import Request
from migrl.synthesis.teachers.teacher import Reply

MAX_BACKOFF_SECONDS = 60.0
KEEP_IDLE_SECONDS = 4.0  # uvicorn, and so most servers, close after 5: a request sent just then would be lost
MAX_RETRY_AFTER_SECONDS = 300.0
REFUSED_STATUSES = (400, 413, 422)
RETRIED_STATUSES = (408, 409, 425, 429)
MAX_STARVATION_FACTOR = 4  # times outage_seconds that one request waits while others are answered
QUOTA_EXHAUSTED = re.compile(rb'"(?:code|type)"\s*:\s*"(?:Arrearage|billing_hard_limit_reached|insufficient_quota)"')
REMEDIES = {
    401: "put a valid key into a file and name it in synthesize.teacher.key_file",
    402: "the account has no means left",
    403: "this key may not use this model: correct synthesize.teacher.model or key_file",
    404: "correct synthesize.teacher.base_url or model",
}


class Unanswered(Exception):
    """A request without a usable reply, for reasons of its own. `refused`: the server does not take it; otherwise every
    attempt failed. `spent` is what the attempts took."""

    def __init__(self, reason: str, *, refused: bool, spent: Spent) -> None:
        super().__init__(reason)
        self.refused, self.spent = refused, spent


@dataclass
class ServerHealth:
    """What the server has answered so far, by any of the places: how many requests, and when last (monotonic)."""

    replies: int = 0
    heard: float = 0.0

    def note_reply(self) -> None:
        self.replies += 1
        self.heard = time.monotonic()


def read_key(path: Path) -> str:
    """The API key in a file.

    Raises:
        UserError: no such file, or not one line of printable characters; the content is never repeated.
    """
    try:
        key = path.read_text(encoding="ascii").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: no key can be read ({type(error).__name__}); correct synthesize.teacher.key_file"
        ) from error
    if not key or not key.isprintable() or " " in key:
        raise UserError(f"{path}: holds no key: one line without spaces is expected; write the key into it, alone")
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        print(f"warning: {path}: others may read this key; run: chmod 600 {path}", file=sys.stderr)
    return key


def open_client(teacher: ServerTeacher, key: str | None) -> aiohttp.ClientSession:
    """A client for all places. It takes nothing from the environment: no proxy, and no credentials but the key.

    aiohttp takes a fifth of httpx's CPU time for a request, all of it on the thread that must send the next one.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    certificates: ssl.SSLContext = httpx.create_ssl_context(trust_env=False)
    return aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(limit=0, ssl=certificates, keepalive_timeout=KEEP_IDLE_SECONDS),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=teacher.connect_seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
    )


def join_url(teacher: ServerTeacher, name: str) -> str:
    """The address of one of the server's methods."""
    return f"{teacher.base_url.rstrip('/')}/{name}"


async def check_reachable(client: aiohttp.ClientSession, teacher: ServerTeacher) -> None:
    """Look whether a server is there at all, before pictures are encoded and attempts repeated. Any answer will do.

    Raises:
        UserError: there is none.
    """
    seconds = teacher.connect_seconds
    limits = aiohttp.ClientTimeout(total=3 * seconds, sock_connect=seconds, sock_read=seconds)
    try:
        async with client.get(join_url(teacher, "models"), allow_redirects=False, timeout=limits):
            return
    except aiohttp.InvalidURL as error:
        raise UserError(f"{teacher.base_url}: no address; correct synthesize.teacher.base_url") from error
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise UserError(
            f"{teacher.base_url}: no server answers ({type(error).__name__} {error}); start it, or correct "
            "synthesize.teacher.base_url"
        ) from error
    except (aiohttp.ClientError, OSError):
        return  # it is there; whether it works, the requests find out, and they are repeated


async def ask(
    client: aiohttp.ClientSession,
    teacher: ServerTeacher,
    key: str | None,
    request: Request,
    rng: Random,
    tell: Callable[[str], None],
    line: ServerHealth,
) -> tuple[Reply, Spent]:
    """Send one request until it is answered. `tell` is called with the reason of each attempt that failed.

    Raises:
        Unanswered: the server refuses this request, `retries` are used up, or others are answered for
            MAX_STARVATION_FACTOR times `outage_seconds` and this one is not.
        UserError: the server refuses all, or answers none for more than `outage_seconds`; names the request.
    """
    spent = Spent()
    failures, in_a_row, away_since = 0, 0, None
    while True:
        start = time.monotonic()
        try:
            reply = await send(client, teacher, key, request.body, line)
        except AttemptFailed as setback:
            tell(str(setback))
            spent.wasted_prompt_tokens += setback.wasted[0]
            spent.wasted_completion_tokens += setback.wasted[1]
            if setback.refused:
                raise Unanswered(str(setback), refused=True, spent=spent) from setback
            if setback.outage:
                away_since = start if away_since is None else away_since
                now = time.monotonic()
                if now - away_since > MAX_STARVATION_FACTOR * teacher.outage_seconds and line.heard > away_since:
                    reason = f"no reply for {now - away_since:.0f} s in which others were answered: {setback}"
                    raise Unanswered(reason, refused=False, spent=spent) from setback
                if now - max(away_since, line.heard) > teacher.outage_seconds:
                    raise UserError(
                        f"sample {request.name}: no reply for outage_seconds={teacher.outage_seconds:g}, the last "
                        f"attempt: {setback}; look after the server, or lower synthesize.teacher.concurrency if it "
                        "has too much to do, and start again: what was answered is kept"
                    ) from setback
            else:
                away_since, failures = None, failures + 1
                if failures > teacher.retries:
                    reason = f"no usable reply after {spent.retries + 1} attempts, the last one: {setback}"
                    raise Unanswered(reason, refused=False, spent=spent) from setback
            spent.retries += 1
            in_a_row += 1
            await asyncio.sleep(choose_wait(in_a_row, teacher.backoff_seconds, setback.wait, rng))
        else:
            line.note_reply()
            spent.seconds = round(time.monotonic() - start, 3)
            return reply, spent


def choose_wait(failures: int, base: float, asked: float | None, rng: Random) -> float:
    """Seconds to wait after so many failures (from 1): what the server `asked` for, and at random up to a bound that
    doubles, so that those who failed together do not come back together, also where it asks for no time at all."""
    bound = min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(failures - 1, 30))
    return min(asked or 0.0, MAX_RETRY_AFTER_SECONDS) + rng.uniform(0, bound)


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None without one that can be read."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,10}(\.\d{1,10})?", text.strip()):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


async def send(
    client: aiohttp.ClientSession, teacher: ServerTeacher, key: str | None, body: bytes, line: ServerHealth
) -> Reply:
    """Send a request once. Redirects are not followed: the key is for this server.

    Raises:
        AttemptFailed: no connection, no whole reply in time, a reply that cannot be used, or a status that may pass or
            that concerns this request alone.
        UserError: any other status.
    """
    url = join_url(teacher, "chat/completions")
    try:
        async with (
            asyncio.timeout(teacher.reply_seconds),
            client.post(url, data=io.BytesIO(body), allow_redirects=False) as response,
        ):
            raw = await read_body(response)
            if response.status != 200 or len(raw) > MAX_REPLY_BYTES:
                response.close()  # leaving would wait for a server that does not want the rest of the body
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise AttemptFailed(f"{type(error).__name__} ({clean_text(str(error), key)})", outage=True) from error
    except TimeoutError as error:
        raise AttemptFailed(f"no whole reply within reply_seconds={teacher.reply_seconds:g}") from error
    except (aiohttp.ClientError, OSError) as error:
        # The text may quote what the server sent, and so the key; the error that it came from is not shown.
        raise AttemptFailed(f"{type(error).__name__} ({clean_text(str(error), key)})") from None
    status = response.status
    if status == 200:
        return parse_reply(raw, key)
    reason = f"status {status}: {quote_reply(raw, key)}"
    # With 429 and no word of billing, a limit that passes goes by that name.
    if QUOTA_EXHAUSTED.search(raw) and (status != 429 or b"billing" in raw):
        raise UserError(f"{teacher.base_url}: {reason}; {REMEDIES[402]}; what was answered is kept")
    if status in REFUSED_STATUSES or (status == 403 and line.replies):  # 403 is also said of what a filter flagged
        raise AttemptFailed(reason, refused=True)
    if status in RETRIED_STATUSES or status >= 500:
        wait = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
        raise AttemptFailed(reason, wait=wait, outage=status in OUTAGE_STATUSES)
    redirected = "correct synthesize.teacher.base_url: the server sends requests elsewhere, which is not followed"
    unknown = redirected if 300 <= status < 400 else "see the server's log, and correct synthesize.teacher"
    raise UserError(f"{teacher.base_url}: {reason}; {REMEDIES.get(status, unknown)}; what was answered is kept")


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The body, or the first bytes of one beyond MAX_REPLY_BYTES. Encodings are not undone: none was allowed."""
    raw = bytearray()
    async for piece in response.content.iter_any():
        raw += piece
        if len(raw) > MAX_REPLY_BYTES:
            break
    return bytes(raw)
