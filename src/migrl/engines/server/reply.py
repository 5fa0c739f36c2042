"""Reading what an OpenAI-compatible server sends. It is untrusted.

A reply is read up to a limit, error texts are quoted without control characters, and where the API key appears in
either, it is struck out.
"""

import json
from dataclasses import dataclass
from typing import Any

Reply = dict[str, Any]
"""JSON data: `completion`, the raw text, and what its engine tells beside it."""

OUTAGE_STATUSES = (429, 502, 503, 504, 529)
MAX_REPLY_BYTES = 1 << 20  # of a reply to one question; a thousand tokens are about 5 kB
LONGEST_NAME = 100
SHORTEST_KEY = 8  # what is shorter, such as "none", guards nothing, and is a word that a completion may hold


@dataclass
class Spent:
    """What one request took beside its reply: attempts that failed, tokens of replies that could not be used, and the
    seconds of the attempt that was answered."""

    retries: int = 0
    wasted_prompt_tokens: int = 0
    wasted_completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class AttemptFailed(Exception):
    """An attempt that failed, for other reasons than the key or the address.

    `refused`: the server does not take this request; `outage`: it takes none now. `wait` is what it asked for, in
    seconds; `wasted` are the (prompt, completion) tokens of a reply that came and could not be used.
    """

    reason: str
    refused: bool = False
    outage: bool = False
    wait: float = 0.0
    wasted: tuple[int, int] = (0, 0)


def parse_reply(raw: bytes, key: str | None) -> Reply:
    """The completion in a server's reply, with the tokens it counts and the names it gives itself (`served_by`).

    Raises:
        AttemptFailed: too large, torn, no JSON, or without a choice.
    """
    if len(raw) > MAX_REPLY_BYTES:
        raise AttemptFailed(f"a reply of more than {MAX_REPLY_BYTES} bytes")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise AttemptFailed(f"a reply that is torn or not JSON: {quote_reply(raw, key)}") from error
    usage = data.get("usage") if isinstance(data, dict) else None
    prompt, completion = (read_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    wasted = (prompt or 0, completion or 0)
    try:
        choice = data["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        fault = data.get("error") if isinstance(data, dict) else None
        outage = isinstance(fault, dict) and fault.get("code") in OUTAGE_STATUSES  # OpenRouter's, behind a status 200
        raise AttemptFailed(
            f"a reply without choices: {quote_reply(raw, key)}", outage=outage, wasted=wasted
        ) from error
    if reason == "error" or not isinstance(text, str | None):
        raise AttemptFailed(f"a broken reply, or one whose content is no text: {quote_reply(raw, key)}", wasted=wasted)
    return {
        # No content: refused, or all spent on hidden thought: a completion like any other, for the filters. A lone
        # surrogate can be written in JSON and in no file.
        "completion": strike_out(text or "", key).encode(errors="replace").decode(),
        "truncated": reason == "length",
        "filtered": reason == "content_filter",
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "served_by": {name: read_name(data.get(name), key) for name in ("model", "system_fingerprint")},
    }


def read_name(value: Any, key: str | None) -> str | None:
    """What a server calls its model or itself, if it is a text: its beginning, safe to print."""
    return quote_reply(value.encode(errors="replace"), key)[:LONGEST_NAME] if isinstance(value, str) else None


def read_count(usage: Any, name: str) -> int | None:
    """A number of tokens that a server reports, if it is one."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 40 else None


def quote_reply(raw: bytes, key: str | None) -> str:
    """The beginning of what a server sent, or had a part in, in one line, safe to print."""
    try:
        text = json.dumps(json.loads(raw), ensure_ascii=False)  # undoes escapes, which could hide the key
    except (ValueError, RecursionError):
        text = raw.decode(errors="replace").replace("\0", "")  # in UTF-16 every second byte is a NUL
    line = " ".join(strike_out(text, key).split())
    return "".join(c if c.isprintable() else "?" for c in line)[:300] or "(no text)"


def strike_out(text: str, key: str | None) -> str:
    """A text without the API key."""
    return text.replace(key, "[key]") if key and len(key) >= SHORTEST_KEY else text
