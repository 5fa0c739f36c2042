"""Reading what an OpenAI-compatible server sends. It is untrusted.

A reply is read up to a limit, error texts are quoted without control characters, and where the API key appears in
either, it is struck out.
"""

import json
from typing import Any

from migrl.synthesis.teachers.teacher import Reply

OUTAGE_STATUSES = (429, 502, 503, 504, 529)
MAX_REPLY_BYTES = 1 << 20  # of a reply to one question; a thousand tokens are about 5 kB
SHORTEST_KEY = 8  # what is shorter, such as "none", guards nothing, and is a word that a completion may hold


class AttemptFailed(Exception):
    """An attempt that failed, for other reasons than the key or the address.

    `refused`: the server does not take this request; `outage`: it takes none now. `wait` is what it asked for, in
    seconds; `wasted` are the (prompt, completion) tokens of a reply that came and could not be used.
    """

    def __init__(
        self,
        reason: str,
        *,
        refused: bool = False,
        outage: bool = False,
        wait: float | None = None,
        wasted: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(reason)
        self.refused, self.outage, self.wait, self.wasted = refused, outage, wait, wasted


def parse_reply(raw: bytes, key: str | None) -> Reply:
    """The completion in a server's reply, with the tokens it counts.

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
    fault = data.get("error") if isinstance(data, dict) and not data.get("choices") else None
    if isinstance(fault, dict):  # as OpenRouter tells of an error that came after its status
        raise AttemptFailed(quote_reply(raw, key), outage=fault.get("code") in OUTAGE_STATUSES, wasted=wasted)
    try:
        choice = data["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise AttemptFailed(f"a reply without choices: {quote_reply(raw, key)}", wasted=wasted) from error
    if reason == "error":
        raise AttemptFailed(f"the server broke off: {quote_reply(raw, key)}", wasted=wasted)
    if text is None:
        text = ""  # refused, or all spent on hidden thought: a completion like any other, for the filters
    if not isinstance(text, str):
        raise AttemptFailed(f"a reply whose content is no text: {quote_reply(raw, key)}", wasted=wasted)
    return {
        # A lone surrogate can be written in JSON and in no file.
        "completion": strike_out(text, key).encode(errors="replace").decode(),
        "truncated": reason == "length",
        "filtered": reason == "content_filter",
        "prompt_tokens": prompt,
        "completion_tokens": completion,
    }


def read_count(usage: Any, name: str) -> int | None:
    """A number of tokens that a server reports, if it is one."""
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 1 << 40 else None


def quote_reply(raw: bytes, key: str | None) -> str:
    """The beginning of a server's reply in one line, safe to print."""
    try:
        text = json.dumps(json.loads(raw), ensure_ascii=False)  # undoes escapes, which could hide the key
    except (ValueError, RecursionError):
        text = raw.decode(errors="replace")
    return clean_text(text, key)


def clean_text(text: str, key: str | None) -> str:
    """The beginning of a text that a server had a part in, in one line, safe to print."""
    line = " ".join(strike_out(text.replace("\0", ""), key).split())  # in UTF-16 every second byte is a NUL
    return "".join(c if c.isprintable() else "?" for c in line)[:300] or "(no text)"


def strike_out(text: str, key: str | None) -> str:
    """A text without the API key."""
    return text.replace(key, "[key]") if key and len(key) >= SHORTEST_KEY else text
