"""One OpenAI-compatible server: the connection, one attempt of a request and what its failure means.

What concerns the account or the address, such as a wrong key, is a `UserError`: it ends the run at once. What may pass,
and what concerns the request alone, is an `AttemptFailed`; retries.py says what becomes of it.
"""

import asyncio
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self

import aiohttp
import httpx2
import openai

from migrl.engines.server.reply import (
    MAX_REPLY_BYTES,
    OUTAGE_STATUSES,
    AttemptFailed,
    Reply,
    parse_reply,
    quote_reply,
)
from migrl.errors import UserError
from migrl.recipe import ServerSettings

KEEP_IDLE_SECONDS = 4.0  # uvicorn, and so most servers, close after 5: a request sent just then would be lost
SENT_HEADERS = ("Host", "Content-Type", "Content-Length", "User-Agent")
MAX_RETRY_AFTER_SECONDS = 300.0
REFUSED_STATUSES = (400, 413, 422)
RETRIED_STATUSES = (408, 409, 425, 429)
QUOTA_EXHAUSTED = re.compile(rb'"(?:code|type)"\s*:\s*"(?:Arrearage|billing_hard_limit_reached|insufficient_quota)"')


class ChatServer:
    """A server, and what it has answered so far: anything at all, how many replies, and the last of them when.

    `section` is where the recipe names it, for remedies; `replies` are those of earlier runs.
    """

    def __init__(self, settings: ServerSettings, section: str, key: str | None, replies: int = 0) -> None:
        self.settings, self.section, self.key = settings, section, key
        self.is_there, self.replies, self.last_reply = False, replies, 0.0
        http_client = openai.DefaultAioHttpClient(
            timeout=httpx2.Timeout(None, connect=settings.connect_seconds),
            limits=httpx2.Limits(max_connections=settings.concurrency, keepalive_expiry=KEEP_IDLE_SECONDS),
            event_hooks={"request": [self.set_headers], "response": [self.read_bounded]},
            follow_redirects=False,  # the key is for this server
            trust_env=False,
        )
        try:
            self.client = openai.AsyncOpenAI(
                api_key=key or "none", base_url=settings.base_url, http_client=http_client, max_retries=0
            )
        except httpx2.InvalidURL as error:
            raise UserError(f"{settings.base_url}: no address; correct {section}.base_url") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await asyncio.sleep(0)  # aiohttp closes its sockets in the loop's next turn, which may be the last

    async def set_headers(self, request: httpx2.Request) -> None:
        """Send nothing from the environment: OPENAI_ORG_ID or OPENAI_CUSTOM_HEADERS may be for another server."""
        headers = {name: request.headers[name] for name in SENT_HEADERS if name in request.headers}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request.headers = httpx2.Headers({**headers, "Accept-Encoding": "identity"})

    async def read_bounded(self, response: httpx2.Response) -> None:
        """Read a body until it is larger than MAX_REPLY_BYTES; no encoding is undone, for none was allowed."""
        self.is_there = True
        response.headers.pop("Content-Encoding", None)
        stream, body = response.stream, bytearray()
        assert isinstance(stream, httpx2.AsyncByteStream)
        async for piece in stream:
            body += piece
            if len(body) > MAX_REPLY_BYTES:
                break
        await stream.aclose()
        response.stream = httpx2.ByteStream(bytes(body))

    async def send(self, body: bytes) -> Reply:
        """Send a request in JSON once.

        Raises:
            AttemptFailed: no connection, no whole reply in time, a reply that cannot be used, or a status that may pass
                or that concerns this request alone.
            UserError: any other status.
        """
        seconds = self.settings.reply_seconds
        try:
            async with asyncio.timeout(seconds):
                response = await self.client.post("/chat/completions", content=body, cast_to=httpx2.Response)
        except TimeoutError as error:
            raise AttemptFailed(f"no whole reply within reply_seconds={seconds:g}") from error
        except openai.APIStatusError as error:
            raise self.explain_status(error.response) from None
        except (openai.APIConnectionError, aiohttp.ClientError, OSError) as error:
            cause = find_cause(error)
            away = isinstance(cause, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError))
            # The text may quote what the server sent, and so the key; the error that it came from is not shown.
            reason = f"{type(cause).__name__} ({quote_reply(str(cause).encode(errors='replace'), self.key)})"
            raise AttemptFailed(reason, outage=away) from None
        reply = parse_reply(response.content, self.key)
        self.replies += 1
        self.last_reply = time.monotonic()
        return reply

    def explain_status(self, response: httpx2.Response) -> AttemptFailed | UserError:
        """The error that a status means: of this request, of the server now, or of the account or the address."""
        status, raw = response.status_code, response.content
        reason = f"status {status}: {quote_reply(raw, self.key)}"
        # With 429 and no word of billing, a limit that passes goes by that name.
        if QUOTA_EXHAUSTED.search(raw) and (status != 429 or b"billing" in raw):
            status = 402
        elif status in REFUSED_STATUSES or (status == 403 and self.replies):  # 403 is also said of flagged content
            return AttemptFailed(reason, refused=True)
        elif status in RETRIED_STATUSES or status >= 500:
            wait = parse_retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
            return AttemptFailed(reason, wait=min(wait, MAX_RETRY_AFTER_SECONDS), outage=status in OUTAGE_STATUSES)
        remedy = {
            401: f"put a valid key into a file and name it in {self.section}.key_file",
            402: "the account's quota is used up",
            403: f"this key may not use this model: correct {self.section}.model or key_file",
            404: f"correct {self.section}.base_url or model",
        }.get(status, f"see the server's log, and correct {self.section}")
        if 300 <= status < 400:
            remedy = f"correct {self.section}.base_url: the server sends requests elsewhere, which is not followed"
        return UserError(f"{self.settings.base_url}: {reason}; {remedy}; what was answered is kept")


def find_cause(error: BaseException) -> BaseException:
    """aiohttp's own error: those that openai makes of it do not tell a server that is away from one that hung up."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, aiohttp.ClientError):
        cause = cause.__cause__
    return cause or error


def parse_retry_after(text: str, now: datetime) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date; 0 without one that can be read."""
    if re.fullmatch(r"\d{1,10}(\.\d{1,10})?", text.strip()):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
