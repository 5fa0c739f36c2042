"""Prompts of every task, word for word."""

import json
import os
from pathlib import Path

import make_benchmark_prompts
import pytest
from make_prompts import GOLDEN, render_prompts

from migrl.benchmarks import BENCHMARKS

FOLDER = os.environ.get("MIGRL_GOLDEN")


def test_every_task_asks_exactly_what_the_golden_file_says() -> None:
    assert render_prompts() == json.loads(GOLDEN.read_text())


def test_every_benchmark_asks_exactly_what_the_golden_file_says() -> None:
    assert make_benchmark_prompts.render_prompts() == json.loads(make_benchmark_prompts.GOLDEN.read_text())


published = pytest.mark.skipif(FOLDER is None, reason="MIGRL_GOLDEN does not name the folder of the published files")


@published
def test_no_permille_box_of_the_published_questions_reaches_the_model() -> None:
    path = Path(FOLDER or ".") / "mig_bench" / "revised_MIG_bench.json"
    items = BENCHMARKS["mig_bench"].load(path, path.parent, "mig_bench").items
    assert sum("<|box_start|>" in item.sample.question for item in items) == 838
    assert not any("<|box_start|>" in json.dumps(make_benchmark_prompts.render(item.sample)) for item in items)


@published
def test_every_question_of_the_published_mig_bench_files_is_asked_as_before() -> None:
    stored = json.loads(make_benchmark_prompts.HASHES.read_text())
    assert make_benchmark_prompts.hash_published(Path(FOLDER or ".")) == stored


def test_no_box_token_or_permille_box_reaches_the_model() -> None:
    assert "<|box_start|>" not in json.dumps([render_prompts(), make_benchmark_prompts.render_prompts()])
