"""What all teachers have in common: the inputs they are asked about, how they sample, and the form of what they reply.

A reply is JSON data: `completion`, the raw text, and what its teacher tells beside it (`planted`, the fault that the
scripted one put in; `truncated`, stopped at the token limit; `prompt_tokens`, `completion_tokens`). It depends on
nothing but the key of the stage and the teacher, so it becomes part of the evidence.
"""

from pathlib import Path

from migrl.engines.server.ledger import find_log
from migrl.grounding.samples import BoxTarget, read_samples
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import load_processor
from migrl.progress import track
from migrl.recipe import PromptedTeacher, Recipe
from migrl.running.stage import read_manifest
from migrl.synthesis.teachers.prompts import hash_teacher_prompts


def load_items(recipe: Recipe, fetch: Path) -> list[ModelInput]:
    """The cold start's grounding samples as a model reads them, at the size of the cold start's own pictures."""
    data, model = fetch / "data", recipe.model
    processor = load_processor(fetch / "model", min_pixels=model.min_pixels, max_pixels=recipe.sft.max_pixels)
    return [
        prepare_input(sample, data, processor, frame=model.frame, style="think")
        for sample in track(read_samples(data / "cot.jsonl"), "reading samples", quick=True)
        if isinstance(sample.target, BoxTarget)
    ]


def choose_decoding(recipe: Recipe, teacher: PromptedTeacher) -> Decoding:
    """How a teacher writes the candidates of a sample."""
    return Decoding(
        max_new_tokens=teacher.max_new_tokens,
        temperature=teacher.temperature,
        top_k=teacher.top_k,
        top_p=teacher.top_p,
        repetition_penalty=teacher.repetition_penalty,
        rollouts=recipe.synthesize.candidates,
        seed=recipe.synthesize.seed,
    )


def find_replies(recipe: Recipe, home: Path) -> Path:
    """The log of what a teacher behind a server replied, below `home` (`runs/<recipe>`)."""
    asked = [
        recipe.synthesize.teacher.model_dump(mode="json"),
        hash_teacher_prompts(),
        recipe.synthesize.max_thought_words,
        recipe.synthesize.seed,
        [recipe.model.frame, recipe.model.min_pixels, recipe.sft.max_pixels],
        read_manifest(home / "fetch")["digest"],
    ]
    return find_log(home, asked)
