"""The arms of a recipe that someone serves: each with its server, its log, and what it would cost."""

from dataclasses import asdict
from pathlib import Path

from migrl.engines.engine import Task
from migrl.engines.server.engine import ServerEngine
from migrl.engines.server.estimate import Estimate, estimate_requests
from migrl.engines.server.ledger import find_log
from migrl.grounding.prompts import hash_prompts
from migrl.recipe import Recipe, ServedArm
from migrl.running.stage import read_manifest


def find_server(recipe: Recipe, arm: str) -> ServedArm:
    """Who answers for a served arm."""
    server = recipe.find_arm(arm).server
    assert server is not None
    return server


def open_arm(recipe: Recipe, arm: str, task: Task, fetch: Path, home: Path) -> ServerEngine:
    """The engine of a served arm; nothing is sent yet. `fetch` is the folder of that stage, `home` that of the run."""
    return ServerEngine(find_server(recipe, arm), f"arms.{arm}", task, find_answers(recipe, arm, task, fetch), home)


def estimate_arm(recipe: Recipe, arm: str, task: Task, fetch: Path) -> Estimate:
    """Count what evaluate would ask of a served arm."""
    server = find_server(recipe, arm)
    title = f"arm {arm}, {server.model} at {server.base_url}"
    return estimate_requests(title, server, task, find_answers(recipe, arm, task, fetch), recipe)


def find_answers(recipe: Recipe, arm: str, task: Task, fetch: Path) -> Path:
    """The log of what a served arm has answered."""
    asked = [
        find_server(recipe, arm).model_dump(mode="json"),
        asdict(task.decoding),
        [recipe.evaluate.style, hash_prompts(item.sample.kind for item in task.items)],
        [recipe.model.frame, recipe.model.min_pixels, recipe.evaluate.max_pixels],
        read_manifest(fetch)["digest"],
    ]
    return find_log(fetch.parent, asked)
