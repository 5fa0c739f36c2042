"""One request to an OpenAI-compatible server: what is sent, what may come back, and when it is sent again.

What a server sends is untrusted. Its replies are read up to a limit, its error texts are quoted without control
characters, and where the API key appears in either, it is struck out.
"""

import asyncio
import base64
import hashlib
import io
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx

from migrl.boxes import Size
from migrl.errors import UserError
from migrl.inputs import ModelInput
from migrl.pictures import read_image
from migrl.recipe import ServerTeacher
from migrl.teachers.ledger import Spent
from migrl.teachers.teacher import Reply, resize_picture

MAX_REPLY_BYTES = 1 << 20  # of a reply to one question; a thousand tokens are about 5 kB
MAX_BACKOFF_SECONDS = 60.0
MAX_RETRY_AFTER_SECONDS = 300.0
RETRIED_STATUSES = (408, 409, 425, 429)
JPEG_QUALITY = 95
REMEDIES = {
    400: "the server does not take such a request: compare model, max_tokens and the number of images with its limits",
    401: "put a valid key into a file and name it in synthesize.teacher.key_file",
    402: "the account has no means left",
    403: "this key may not use this model: correct synthesize.teacher.model or key_file",
    404: "correct synthesize.teacher.base_url or model",
    413: "lower sft.max_pixels, or raise the server's limit",
    422: "the server does not take such a request: compare model, max_tokens and the number of images with its limits",
}


class Setback(Exception):
    """An attempt that failed in a way that may pass. `wait` is what the server asked for, in seconds; `wasted` are the
    (prompt, completion) tokens of a reply that came and could not be used."""

    def __init__(self, reason: str, *, wait: float | None = None, wasted: tuple[int, int] = (0, 0)) -> None:
        super().__init__(reason)
        self.wait, self.wasted = wait, wasted


def build_body(teacher: ServerTeacher, item: ModelInput, pictures: list[bytes], seed: int) -> bytes:
    """The JSON of one request, for a prompt that is one message.

    `pictures` are parts of the message as JSON (`encode_picture`); they are joined as they are, for they are the bulk
    of it and the same for every candidate.
    """
    left = iter(pictures)
    (message,) = item.messages
    parts = [next(left) if part["type"] == "image" else json.dumps(part).encode() for part in message["content"]]
    settings = {
        "model": teacher.model,
        "temperature": teacher.temperature,
        teacher.token_limit_name: teacher.max_tokens,
        "seed": seed,
    }
    head = json.dumps(settings).removesuffix("}") + f', "messages": [{{"role": "{message["role"]}", "content": ['
    return head.encode() + b", ".join(parts) + b"]}]}"


def encode_picture(path: Path, size: Size) -> bytes:
    """A picture at `size` (width, height) as a part of a message, in JSON: the teacher sees what the model will see.

    The size is the one after the model's own resizing under the recipe's pixel limit; boxes in `resized_px` are boxes
    of this very picture. JPEG, nearly lossless: PNG takes four times the bytes and twenty times the time.
    """
    buffer = io.BytesIO()
    resize_picture(read_image(path), size).save(buffer, "JPEG", quality=JPEG_QUALITY)
    url = b"data:image/jpeg;base64," + base64.b64encode(buffer.getbuffer())
    return b'{"type": "image_url", "image_url": {"url": "' + url + b'"}}'


def derive_seed(seed: int, name: str) -> int:
    """A request's own seed, from the stage's seed and the request's name; fits 31 bits, as some servers want."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4]) >> 1


async def ask(
    client: httpx.AsyncClient,
    teacher: ServerTeacher,
    key: str | None,
    name: str,
    body: bytes,
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
            reply = await send(client, teacher, key, body)
        except Setback as setback:
            tell(str(setback))
            spent.wasted_prompt_tokens += setback.wasted[0]
            spent.wasted_completion_tokens += setback.wasted[1]
            if spent.retries == teacher.retries:
                raise UserError(
                    f"sample {name}: no usable reply after {spent.retries + 1} attempts, the last one: {setback}; "
                    "look after the server and start again: what was answered is kept"
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


def parse_reply(raw: bytes, key: str | None) -> Reply:
    """The completion in a server's reply, with the tokens it counts.

    Raises:
        Setback: too large, torn, no JSON, or without a choice.
    """
    if len(raw) > MAX_REPLY_BYTES:
        raise Setback(f"a reply of more than {MAX_REPLY_BYTES} bytes")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Setback(f"a reply that is torn or not JSON: {quote_text(raw, key)}") from error
    usage = data.get("usage") if isinstance(data, dict) else None
    prompt, completion = (read_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    wasted = (prompt or 0, completion or 0)
    try:
        choice = data["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Setback(f"a reply without choices: {quote_text(raw, key)}", wasted=wasted) from error
    if text is None:
        text = ""  # refused, or all spent on hidden thought: a completion like any other, for the filters
    if not isinstance(text, str):
        raise Setback(f"a reply whose content is no text: {quote_text(raw, key)}", wasted=wasted)
    return {
        # A lone surrogate can be written in JSON and in no file.
        "completion": strike_out(text, key).encode(errors="replace").decode(),
        "truncated": reason == "length",
        "prompt_tokens": prompt,
        "completion_tokens": completion,
    }


def read_count(usage: Any, name: str) -> int | None:
    """A number of tokens that a server reports, if it is one."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 40 else None


def quote_text(raw: bytes, key: str | None) -> str:
    """The beginning of a server's text in one line, safe to print."""
    text = " ".join(strike_out(raw.decode(errors="replace"), key).split())
    return "".join(c if c.isprintable() else "?" for c in text)[:300] or "(no text)"


def strike_out(text: str, key: str | None) -> str:
    """A text without the API key."""
    return text.replace(key, "[key]") if key else text
