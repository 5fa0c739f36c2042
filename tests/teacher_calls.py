"""Samples to ask a teacher about, and the client as synthesize calls it."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from migrl.engines.server.ask import ask_server
from migrl.engines.server.ledger import add_up
from migrl.grounding.prompts import build_messages
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput
from migrl.recipe import ServerTeacher
from migrl.synthesis.teachers.prompts import prompt_item


def make_item(number: int, folder: Path, task: str = "referring", question: str = "Locate it.") -> ModelInput:
    """A sample over two pictures, 56 x 84 px as stored; the second is seen enlarged."""
    paths = []
    for name, size in (("a.png", (56, 84)), ("b.png", (50, 50))):
        paths.append(folder / name)
        if not paths[-1].exists():
            Image.new("RGB", size, (200, 30, 90)).save(paths[-1])
    sample = Sample(
        f"s:{number}", "cot", task, ("a.png", "b.png"), question, BoxTarget(2, (0.25, 0.25, 0.5, 0.75)), "c"
    )
    messages = build_messages(question, 2, "think", "box")
    return ModelInput(sample, tuple(paths), ((56, 84), (50, 50)), ((56, 84), (112, 112)), messages, "resized_px")


def make_teacher(url: str = "http://localhost:1/v1", **more: Any) -> ServerTeacher:
    settings = {"model": "m", "base_url": url, "concurrency": 4, "backoff_seconds": 0.01, "reply_seconds": 20, **more}
    return ServerTeacher(engine="server", **settings)


def ask_items(teacher: ServerTeacher, count: int, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """Ask about `count` samples, two candidates each; the log is `folder/replies.jsonl`."""
    items = [prompt_item(make_item(number, folder, question=f"Locate it, {number}."), 80) for number in range(count)]
    rows = ask_server(teacher, "teacher", items, make_decoding(rollouts=2), folder / "replies.jsonl", folder)
    return [[row["reply"] for row in some] for some in rows], add_up([row for some in rows for row in some], teacher)


def make_decoding(**more: Any) -> Decoding:
    """A teacher's own, unless told."""
    return Decoding(**{"max_new_tokens": 1024, "temperature": 0.7, **more})


def read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "replies.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]
