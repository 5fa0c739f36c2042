"""Teacher with weights that run here: under transformers a share of the batches in each process, under vLLM all in one.

Batches are formed once from all inputs and each seeds its own sampling (engines/), so under transformers neither the
number of processes nor a kill changes a reply on a CPU.
"""

from pathlib import Path

from migrl.engines.batches import make_batches
from migrl.engines.engine import Engine, Task, open_engine
from migrl.engines.server.reply import Reply
from migrl.errors import UserError
from migrl.models.inputs import ModelInput, count_prompt
from migrl.models.loading import Weights, load_processor
from migrl.recipe import Recipe, TransformersTeacher, VllmTeacher
from migrl.running.shards import Rows, Worker, merge_progress, work_through
from migrl.running.stage import StageContext
from migrl.running.worker import Rank
from migrl.synthesis.teachers.teacher import choose_decoding

LOG = "replies"


def write_batches(context: StageContext, rank: Rank, items: list[ModelInput]) -> None:
    """Do this rank's share of the batches that no log has yet; `items` are asked as a teacher is (prompts.py)."""
    recipe, teacher = context.recipe, context.recipe.synthesize.teacher
    weights = context.inputs["fetch"] / "teacher"
    if not weights.is_dir():
        raise UserError(f"{weights}: no weights of the teacher; run `migrl fetch` with this recipe first")
    if not isinstance(teacher, TransformersTeacher | VllmTeacher):
        raise TypeError(f"engine {teacher.engine} has no weights here")
    pixels = teacher.batch_pixels if isinstance(teacher, TransformersTeacher) else None

    def make_worker() -> Worker:
        return ask_teacher(recipe, teacher, weights, items, rank)

    work_through(context, LOG, rank, make_batches(items, teacher.batch, pixels), make_worker, "asking the teacher")


def read_replies(context: StageContext, items: list[ModelInput]) -> list[list[Reply]]:
    """What all ranks wrote, in the order of the items."""
    rows = merge_progress(context.folder, LOG, [item.sample.uid for item in items])
    return [row["replies"] for row in rows]


def ask_teacher(
    recipe: Recipe, teacher: TransformersTeacher | VllmTeacher, weights: Path, items: list[ModelInput], rank: Rank
) -> Worker:
    """The worker that answers a batch on this rank's device."""
    processor = load_processor(weights, min_pixels=recipe.model.min_pixels, max_pixels=recipe.sft.max_pixels)
    decoding = choose_decoding(recipe, teacher)
    own = choose_settings(recipe, teacher)
    engine: Engine = open_engine(teacher.engine, Weights(weights), own, Task(items, decoding, processor), rank)

    def work(batch: list[ModelInput]) -> Rows:
        rows = []
        for item, completions in zip(batch, engine.answer(batch, decoding), strict=True):
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


def choose_settings(recipe: Recipe, teacher: TransformersTeacher | VllmTeacher) -> Recipe:
    """The recipe with the teacher's own precision and engine settings, as its engine is opened with."""
    changes: dict[str, object] = {"dtype": teacher.dtype}
    if isinstance(teacher, TransformersTeacher):
        model = recipe.model.model_copy(update={**changes, "attention": teacher.attention})
        return recipe.model_copy(update={"model": model})
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=changes), "vllm": teacher.vllm})
