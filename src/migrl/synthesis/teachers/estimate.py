"""What a teacher would cost, before it is asked (engines/server/estimate.py)."""

from pathlib import Path

from migrl.engines.engine import Task
from migrl.engines.server.estimate import Estimate, estimate_requests
from migrl.errors import UserError
from migrl.models.loading import load_processor
from migrl.recipe import PromptedTeacher, Recipe, ServerTeacher
from migrl.synthesis.teachers.prompts import prompt_item
from migrl.synthesis.teachers.teacher import choose_decoding, find_replies, load_items


def estimate_teacher(recipe: Recipe, home: Path) -> Estimate:
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
    task = Task(items, choose_decoding(recipe, teacher), processor)
    server = teacher if isinstance(teacher, ServerTeacher) else None
    title = f"{teacher.engine} teacher {teacher.model}"
    return estimate_requests(title, server, task, find_replies(recipe, home), recipe)
