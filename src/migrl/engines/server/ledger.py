"""What a server's work came to: requests, tokens, retries and the bill; and the log that it is added up from.

The ledger is added up from the rows of that log, so it covers every run that the stage was resumed in. What it
cannot know: attempts for a sample that no run finished, and tokens that a server spent on a reply that never came.
`requests` are those that were answered; those left `unanswered` are counted beside them.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from migrl.engines.server.reply import Reply, Spent
from migrl.files import hash_json
from migrl.models.inputs import ModelInput
from migrl.recipe import ServerSettings


def find_log(home: Path, asked: Any) -> Path:
    """The log of a server's replies below `home` (`runs/<recipe>`), named by all that decides a reply, as JSON data.

    It lies outside the stage's folder, which a changed setting or a new start with --force throws away: replies cost
    money. To have them written anew, delete the file.
    """
    return home / "replies" / f"{hash_json(asked)[:16]}.jsonl"


def name_request(item: ModelInput, number: int) -> str:
    """The name of the request for a sample's n-th completion, in the log and in errors."""
    return f"{item.sample.uid}#{number}"


def count_tokens(replies: Iterable[Reply]) -> dict[str, int]:
    """Requests by what became of them (cut off by the token limit or a content filter, tokens not told), and tokens."""
    names = ("requests", "unanswered", "truncated", "filtered", "unreported", "prompt_tokens", "completion_tokens")
    counts = dict.fromkeys(names, 0)
    for reply in replies:
        known = [reply.get(name) for name in ("prompt_tokens", "completion_tokens")]
        unanswered = bool(reply.get("unanswered"))
        counts["requests"] += not unanswered
        counts["unanswered"] += unanswered
        counts["truncated"] += bool(reply["truncated"])
        counts["filtered"] += bool(reply.get("filtered"))
        counts["unreported"] += None in known and not unanswered
        counts["prompt_tokens"] += known[0] or 0
        counts["completion_tokens"] += known[1] or 0
    return counts


def add_up(rows: Sequence[dict[str, Any]], settings: ServerSettings) -> dict[str, Any]:
    """The ledger of a server's replies; a row has `reply` and `spent`. `cost` is None without prices."""
    counts = count_tokens(row["reply"] for row in rows)
    spent = {name: sum(row["spent"][name] for row in rows) for name in Spent.__dataclass_fields__}
    tokens_in = counts["prompt_tokens"] + spent["wasted_prompt_tokens"]
    tokens_out = counts["completion_tokens"] + spent["wasted_completion_tokens"]
    cost = compute_cost(settings, tokens_in, tokens_out)
    return {**counts, **spent, "seconds": round(spent["seconds"], 1), "cost": None if cost is None else round(cost, 4)}


def compute_cost(settings: ServerSettings, tokens_in: float, tokens_out: float) -> float | None:
    """Price of so many tokens, in the currency of the recipe's prices; None without prices."""
    if settings.price_per_million_input is None or settings.price_per_million_output is None:
        return None
    return (tokens_in * settings.price_per_million_input + tokens_out * settings.price_per_million_output) / 1e6
