"""Prompts of every task, word for word."""

import json

from make_prompts import GOLDEN, render_prompts


def test_every_task_asks_exactly_what_the_golden_file_says() -> None:
    assert render_prompts() == json.loads(GOLDEN.read_text())


def test_no_box_token_or_permille_box_reaches_the_model() -> None:
    assert "<|box_start|>" not in json.dumps(render_prompts())
