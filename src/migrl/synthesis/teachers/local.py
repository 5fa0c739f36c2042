"""Teacher with weights that run here: under transformers a share of the batches in each process, under vLLM all in one.

Batches are formed once from all inputs and each seeds its own sampling (generate.py), so under transformers neither
the number of processes nor a kill changes a reply on a CPU. vLLM seeds each question; its sums, and so rarely a token,
depend on what else is in flight.
"""

from functools import partial
from pathlib import Path

from migrl.engines.generate import generate_batch, make_batches
from migrl.errors import UserError
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput, count_prompt
from migrl.models.loading import load_for_inference, load_processor
from migrl.recipe import Recipe, TransformersTeacher, VllmTeacher
from migrl.running.shards import Rows, Worker, merge_progress, work_through
from migrl.running.stage import StageContext
from migrl.running.worker import Rank
from migrl.synthesis.teachers.reply import Reply
from migrl.synthesis.teachers.vllm_engine import load_vllm

LOG = "replies"


def write_batches(context: StageContext, rank: Rank, items: list[ModelInput]) -> None:
    """Do this rank's share of the batches that no log has yet; `items` are asked as a teacher is (prompts.py)."""
    recipe, teacher = context.recipe, context.recipe.synthesize.teacher
    weights = context.inputs["fetch"] / "teacher"
    if not weights.is_dir():
        raise UserError(f"{weights}: no weights of the teacher; run `migrl fetch` with this recipe first")
    match teacher:
        case TransformersTeacher():
            batches = make_batches(items, teacher.batch, teacher.batch_pixels)
            make_worker = partial(load_transformers, recipe, teacher, weights, rank)
        case VllmTeacher():
            batches = make_batches(items, teacher.batch)
            make_worker = partial(load_vllm, recipe, teacher, weights, max(len(item.paths) for item in items))
        case _:
            raise TypeError(f"engine {teacher.engine} has no weights here")
    work_through(context, LOG, rank, batches, make_worker, "asking the teacher")


def read_replies(context: StageContext, items: list[ModelInput]) -> list[list[Reply]]:
    """What all ranks wrote, in the order of the items."""
    rows = merge_progress(context.folder, LOG, [item.sample.uid for item in items])
    return [row["replies"] for row in rows]


def load_transformers(recipe: Recipe, teacher: TransformersTeacher, weights: Path, rank: Rank) -> Worker:
    """The worker that answers a batch with transformers on this rank's device."""
    settings = recipe.model.model_copy(update={"dtype": teacher.dtype, "attention": teacher.attention})
    limits = {"min_pixels": recipe.model.min_pixels, "max_pixels": recipe.sft.max_pixels}
    processor = load_processor(weights, **limits)
    model = load_for_inference(weights, settings, rank.local)
    decoding = Decoding(
        max_new_tokens=teacher.max_new_tokens,
        temperature=teacher.temperature,
        top_k=teacher.top_k,
        top_p=teacher.top_p,
        repetition_penalty=teacher.repetition_penalty,
        rollouts=recipe.synthesize.candidates,
        seed=recipe.synthesize.seed,
    )

    def work(batch: list[ModelInput]) -> Rows:
        rows = []
        for item, completions in zip(batch, generate_batch(model, processor, batch, decoding), strict=True):
            tokens = sum(count_prompt(item, processor))
            replies = [
                {
                    "completion": completion.text,
                    "truncated": completion.truncated,
                    "prompt_tokens": tokens,
                    "completion_tokens": completion.tokens,
                }
                for completion in completions
            ]
            rows.append({"uid": item.sample.uid, "replies": replies})
        return rows

    return work
