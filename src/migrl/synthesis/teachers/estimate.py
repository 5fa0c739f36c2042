"""What a teacher would cost, before it is asked: requests, tokens, and the bill of a server.

Nothing is sent. The prompts are the real ones, built from the fetched samples, and their tokens are counted with the
fetched model's tokenizer and its rule for pictures, which are the teacher's too if it is of its family; another model
counts otherwise. Every candidate is a request of its own and pays for its whole prompt.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from migrl.engines.server.ledger import compute_cost, count_tokens, name_request
from migrl.errors import UserError
from migrl.models.inputs import count_prompt
from migrl.models.loading import load_processor
from migrl.recipe import PromptedTeacher, Recipe, ServerTeacher, TransformersTeacher, VllmTeacher
from migrl.recipe.arithmetic import ANSWER_TOKENS, TOKENS_PER_WORD, count_thought_tokens
from migrl.running.progress_log import read_log
from migrl.synthesis.teachers.prompts import prompt_item
from migrl.synthesis.teachers.teacher import find_replies, load_items


@dataclass(frozen=True)
class Estimate:
    """Of the `requests`, `answered` are in a log already; tokens and bill are for the rest.

    `output_tokens` are those of thoughts as long as they may be, or as long as those answered so far were
    (`output_rule` says which); `output_limit` those of completions that all run to `max_new_tokens`.
    """

    teacher: TransformersTeacher | VllmTeacher | ServerTeacher
    samples: int
    pictures: int
    requests: int
    answered: int
    text_tokens: int
    picture_tokens: int
    output_tokens: int
    output_limit: int
    output_rule: str

    def compute_bill(self, output_tokens: int) -> float | None:
        """Price of the input and so much output; None without prices, and for weights that run here."""
        if not isinstance(self.teacher, ServerTeacher):
            return None
        return compute_cost(self.teacher, self.text_tokens + self.picture_tokens, output_tokens)


def estimate_requests(recipe: Recipe, home: Path) -> Estimate:
    """Count what synthesize would ask, from the samples fetched under `home` (`runs/<recipe>`).

    Raises:
        UserError: the scripted teacher, or nothing fetched.
    """
    settings, teacher = recipe.synthesize, recipe.synthesize.teacher
    if not isinstance(teacher, PromptedTeacher):
        raise UserError("synthesize --dry-run: the scripted teacher asks no model; there is nothing to estimate")
    fetch = home / "fetch"
    limits = {"min_pixels": recipe.model.min_pixels, "max_pixels": recipe.sft.max_pixels}
    processor = load_processor(fetch / "model", **limits)
    items = [prompt_item(item, settings.max_thought_words) for item in load_items(recipe, fetch)]
    log = find_replies(recipe, home)
    replies = {name: row["reply"] for name, row in read_log(log).items()} if log.exists() else {}
    text, pictures, requests = 0, 0, 0
    for item in items:
        missing = sum(name_request(item, k) not in replies for k in range(settings.candidates))
        if missing:
            text_tokens, picture_tokens = count_prompt(item, processor)
            text += missing * text_tokens
            pictures += missing * picture_tokens
            requests += missing
    rule = f"{settings.max_thought_words} words each, {TOKENS_PER_WORD} tokens per word, and {ANSWER_TOKENS}"
    each: float = min(teacher.max_new_tokens, count_thought_tokens(settings))
    counts = count_tokens(replies.values())
    if told := counts["requests"] - counts["unreported"]:
        each, rule = counts["completion_tokens"] / told, f"the mean of {told} replies so far"
    total = len(items) * settings.candidates
    return Estimate(
        teacher=teacher,
        samples=len(items),
        pictures=sum(len(item.paths) for item in items),
        requests=total,
        answered=total - requests,
        text_tokens=text,
        picture_tokens=pictures,
        output_tokens=math.ceil(each * requests),
        output_limit=teacher.max_new_tokens * requests,
        output_rule=rule,
    )
