"""Talking to an OpenAI-compatible server: the key, the connection, one request until it is answered."""

import asyncio
import re
import ssl
import stat
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from random import Random

import httpx

from migrl.errors import UserError
from migrl.recipe import ServerTeacher
from migrl.teachers.ledger import Spent
from migrl.teachers.reply import MAX_REPLY_BYTES, Setback, parse_reply, quote_text
from migrl.teachers.request import Request
from migrl.teachers.teacher import Reply

MAX_BACKOFF_SECONDS = 60.0
MAX_RETRY_AFTER_SECONDS = 300.0
RETRIED_STATUSES = (408, 409, 425, 429)
REMEDIES = {
    400: "the server does not take such a request: compare model, max_tokens and the number of images with its limits",
    401: "put a valid key into a file and name it in synthesize.teacher.key_file",
    402: "the account has no means left",
    403: "this key may not use this model: correct synthesize.teacher.model or key_file",
    404: "correct synthesize.teacher.base_url or model",
    413: "lower sft.max_pixels, or raise the server's limit",
    422: "the server does not take such a request: compare model, max_tokens and the number of images with its limits",
}


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


def open_client(teacher: ServerTeacher, key: str | None, certificates: ssl.SSLContext) -> httpx.AsyncClient:
    """A client for one place. It takes nothing from the environment: no proxy, and no credentials but the key.

    Each place has a client, and so a connection, of its own: in one that all share, every request would walk through
    all connections several times (httpcore 1.0), which at 64 places costs more than all else.
    """
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return httpx.AsyncClient(
        base_url=teacher.base_url,
        headers=headers,
        timeout=httpx.Timeout(teacher.reply_seconds, connect=teacher.connect_seconds),
        limits=httpx.Limits(max_connections=1, max_keepalive_connections=1),
        verify=certificates,
        trust_env=False,
    )


async def check_reachable(client: httpx.AsyncClient, teacher: ServerTeacher) -> None:
    """Look whether a server is there at all, before pictures are encoded and attempts repeated. Any answer will do.

    Raises:
        UserError: there is none.
    """
    try:
        async with client.stream("GET", "models", timeout=teacher.connect_seconds):
            return
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UserError(
            f"{teacher.base_url}: no server answers ({type(error).__name__} {error}); start it, or correct "
            "synthesize.teacher.base_url"
        ) from error
    except httpx.TransportError:
        return  # it is there; whether it works, the requests find out, and they are repeated


async def ask(
    client: httpx.AsyncClient,
    teacher: ServerTeacher,
    key: str | None,
    request: Request,
    rng: Random,
    tell: Callable[[str], None],
) -> tuple[Reply, Spent]:
    """Send one request until it is answered. `tell` is called with the reason of each attempt that failed.

    Raises:
        UserError: the server refuses it for good, or `retries` are used up; names the request.
    """
    spent = Spent()
    while True:
        start = time.monotonic()
        try:
            reply = await send(client, teacher, key, request.body)
        except Setback as setback:
            tell(str(setback))
            spent.wasted_prompt_tokens += setback.wasted[0]
            spent.wasted_completion_tokens += setback.wasted[1]
            if spent.retries == teacher.retries:
                raise UserError(
                    f"sample {request.name}: no usable reply after {spent.retries + 1} attempts, the last one: "
                    f"{setback}; look after the server and start again: what was answered is kept"
                ) from setback
            spent.retries += 1
            await asyncio.sleep(choose_wait(spent.retries, teacher.backoff_seconds, setback.wait, rng))
        else:
            spent.seconds = round(time.monotonic() - start, 3)
            return reply, spent


def choose_wait(failures: int, base: float, asked: float | None, rng: Random) -> float:
    """Seconds to wait after so many failures (from 1): random up to a bound that doubles, so that those who failed
    together do not come back together. Where the server `asked` for a time, that, and a little more at random."""
    if asked is not None:
        return min(asked, MAX_RETRY_AFTER_SECONDS) + rng.uniform(0, base)
    return rng.uniform(0, min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(failures - 1, 30)))


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; None without one that can be read."""
    if text is None:
        return None
    if re.fullmatch(r"\d{1,10}(\.\d{1,10})?", text.strip()):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


async def send(client: httpx.AsyncClient, teacher: ServerTeacher, key: str | None, body: bytes) -> Reply:
    """Send a request once.

    Raises:
        Setback: no connection, no whole reply in time, a status that may pass, or a reply that cannot be used.
        UserError: any other status.
    """
    try:
        async with (
            asyncio.timeout(teacher.reply_seconds),
            client.stream("POST", "chat/completions", content=body) as response,
        ):
            raw = await read_body(response)
    except TimeoutError as error:
        raise Setback(f"no whole reply within reply_seconds={teacher.reply_seconds:g}") from error
    except httpx.TransportError as error:
        raise Setback(f"{type(error).__name__} ({error})") from error
    status = response.status_code
    if status == 200:
        return parse_reply(raw, key)
    reason = f"status {status}: {quote_text(raw, key)}"
    if status in RETRIED_STATUSES or status >= 500:
        raise Setback(reason, wait=parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC)))
    remedy = REMEDIES.get(status, "see the server's log, and correct synthesize.teacher")
    raise UserError(f"{teacher.base_url}: {reason}; {remedy}; what was answered is kept")


async def read_body(response: httpx.Response) -> bytes:
    """The body, or the first bytes of one beyond MAX_REPLY_BYTES. Encodings are not undone: none was allowed."""
    raw = bytearray()
    async for piece in response.aiter_raw():
        raw += piece
        if len(raw) > MAX_REPLY_BYTES:
            break
    return bytes(raw)
