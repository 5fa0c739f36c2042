"""What a model would cost, before it is asked: requests, tokens, and the bill of a server.

Nothing is sent. The prompts are the real ones, built from the fetched samples, and their tokens are counted with the
fetched model's tokenizer and its rule for pictures, which are the asked model's too if it is of its family; another
model counts otherwise. Every completion is a request of its own and pays for its whole prompt.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from migrl.engines.engine import Task
from migrl.engines.server.ledger import compute_cost, count_tokens, name_request
from migrl.models.inputs import count_prompt
from migrl.recipe import Recipe, ServerSettings
from migrl.recipe.arithmetic import ANSWER_TOKENS, TOKENS_PER_WORD, count_thought_tokens
from migrl.running.progress_log import read_log


@dataclass(frozen=True)
class Estimate:
    """Of the `requests`, `answered` are in a log already; tokens and bill are for the rest.

    `title` says who is asked, `server` is None for weights that run here. `output_tokens` are those of thoughts as long
    as they may be, or as long as those answered so far were (`output_rule` says which).
    """

    title: str
    server: ServerSettings | None
    max_new_tokens: int
    samples: int
    pictures: int
    requests: int
    answered: int
    text_tokens: int
    picture_tokens: int
    output_tokens: int
    output_rule: str

    @property
    def output_limit(self) -> int:
        """Tokens of completions that all run to `max_new_tokens`."""
        return self.max_new_tokens * (self.requests - self.answered)

    def compute_bill(self, output_tokens: int) -> float | None:
        """Price of the input and so much output; None without prices, and for weights that run here."""
        if self.server is None:
            return None
        return compute_cost(self.server, self.text_tokens + self.picture_tokens, output_tokens)


def estimate_requests(title: str, server: ServerSettings | None, task: Task, log: Path, recipe: Recipe) -> Estimate:
    """Count what would be asked, beside what is in the log."""
    decoding = task.decoding
    replies = {name: row["reply"] for name, row in read_log(log).items()} if log.exists() else {}
    text, pictures, requests = 0, 0, 0
    for item in task.items:
        missing = sum(name_request(item, k) not in replies for k in range(decoding.rollouts))
        if missing:
            text_tokens, picture_tokens = count_prompt(item, task.processor)
            text += missing * text_tokens
            pictures += missing * picture_tokens
            requests += missing
    words = recipe.synthesize.max_thought_words
    rule = f"{words} words each, {TOKENS_PER_WORD} tokens per word, and {ANSWER_TOKENS}"
    each: float = min(decoding.max_new_tokens, count_thought_tokens(recipe.synthesize))
    counts = count_tokens(replies.values())
    if told := counts["requests"] - counts["unreported"]:
        each, rule = counts["completion_tokens"] / told, f"the mean of {told} replies so far"
    total = len(task.items) * decoding.rollouts
    return Estimate(
        title=title,
        server=server,
        max_new_tokens=decoding.max_new_tokens,
        samples=len(task.items),
        pictures=sum(len(item.paths) for item in task.items),
        requests=total,
        answered=total - requests,
        text_tokens=text,
        picture_tokens=pictures,
        output_tokens=math.ceil(each * requests),
        output_rule=rule,
    )
