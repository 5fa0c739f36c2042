"""Texts of the world: what the tokenizer is trained on."""

from random import Random

from migrl.grounding.prompts import SUFFIXES
from migrl.world.cases import CONCLUSIONS
from migrl.world.lessons import Crowd, draw_lesson
from migrl.world.tasks import READ_SETS


def draw_corpus(seed: int, rounds: int = 40) -> list[str]:
    """Lessons, questions, thoughts and prompt texts, `rounds` of each task."""
    rng = Random(f"corpus-{seed}")
    # Not what asks for lists of boxes, which came later: other merges would be another base.
    suffixes = [suffix for (_, kind), suffix in SUFFIXES.items() if kind != "boxes"]
    texts = [*suffixes, *CONCLUSIONS.values(), "system\nYou are a helpful assistant.", "user\n", "assistant\n"]
    texts = texts * rounds
    for makers, palette in READ_SETS.values():
        for make in makers.values():
            for _ in range(rounds):
                texts += [text for case in make(rng, palette) for text in (case.question, case.facts)]
    for _ in range(rounds * 25):
        lesson = draw_lesson(rng, Crowd(3))
        texts += [lesson.question, lesson.completion]
    return texts
