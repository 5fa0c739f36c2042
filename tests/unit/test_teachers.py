"""Teachers: what they are asked, what a server may reply, when it is asked again, and what is kept."""

import base64
import errno
import io
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from teacher_server import TeacherServer, serve

from migrl.errors import UserError
from migrl.evidence import StageContext
from migrl.inputs import ModelInput, prepare_input
from migrl.launch import Rank
from migrl.models import compute_resized_size, load_processor
from migrl.pipeline import STAGES, prepare_stage
from migrl.prompts import build_messages
from migrl.recipe import MgroundingTask, Recipe, ServerTeacher, load_recipe
from migrl.records import BoxTarget, ProgressLog, Sample
from migrl.stages.synthesize import choose_processes
from migrl.teachers import prompts
from migrl.teachers.client import (
    MAX_BACKOFF_SECONDS,
    MAX_RETRY_AFTER_SECONDS,
    choose_wait,
    parse_retry_after,
    read_key,
)
from migrl.teachers.local import read_replies, write_batches
from migrl.teachers.prompts import FAMILIES, find_family, hash_teacher_prompts, prompt_item, read_text
from migrl.teachers.reply import MAX_REPLY_BYTES, Setback, parse_reply
from migrl.teachers.request import build_body, derive_seed, encode_picture
from migrl.teachers.server import ask_server
from migrl.teachers.teacher import resize_picture
from migrl.teachers.vllm_engine import load_vllm
from migrl.watch.signals import Stopped
from migrl.world.in_domain import MINI_MIG

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "reproduce/recipes/tiny.yaml"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "Locate $image {0} %s ${steps} \\1 <|box_start|>(100,200),(300,400)<|box_end|> in it."


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
    return ServerTeacher(engine="openai", **settings)


def ask_items(teacher: ServerTeacher, count: int, folder: Path) -> tuple[list[Any], dict[str, Any]]:
    """Ask about `count` samples, two candidates each; the log is `folder/replies.jsonl`."""
    items = [prompt_item(make_item(number, folder, question=f"Locate it, {number}."), 80) for number in range(count)]
    return ask_server(teacher, items, folder / "replies.jsonl", folder, candidates=2, seed=0)


def read_log(folder: Path) -> list[dict[str, Any]]:
    path = folder / "replies.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_training_task_has_a_family_and_every_family_a_text() -> None:
    assert {*get_args(MgroundingTask), *MINI_MIG} == FAMILIES.keys()
    assert find_family("unheard of") == "free_form"
    texts = {read_text(family) for family in FAMILIES.values()}
    assert len(texts) == len(set(FAMILIES.values())) and all(texts)


@pytest.mark.parametrize("task", [*MINI_MIG, "Free-Form", "unheard of"])
def test_a_prompt_shows_pictures_question_and_truth_and_ends_in_the_answer(task: str, tmp_path: Path) -> None:
    item = prompt_item(make_item(0, tmp_path, task, HOSTILE), 80)
    parts = item.messages[0]["content"]
    assert [part["type"] for part in parts] == ["text", "image", "text", "image", "text"]
    text = parts[-1]["text"]
    quoted = HOSTILE.replace("<|box_start|>(100,200),(300,400)<|box_end|>", "[6, 17, 17, 34]")
    assert quoted in text and "[28, 28, 56, 84]" in text and "at most 80 words" in text
    assert text.endswith('<think>...</think>\n<answer>{"image": 2, "bbox_2d": [28, 28, 56, 84]}</answer>')
    assert "$" not in text.replace(quoted, "")


def test_changed_words_concern_synthesize_alone_and_only_if_a_model_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = load_recipe(TINY, ["synthesize.teacher={engine: openai, model: m}"])
    scripted = load_recipe(TINY)

    def list_sections(recipe: Recipe) -> dict[str, dict[str, Any]]:
        return {stage.name: prepare_stage(stage, recipe, Path("runs")).sections for stage in STAGES}

    before, scripted_before, old = list_sections(asked), list_sections(scripted), hash_teacher_prompts()
    for path in prompts.TEXTS.glob("*.txt"):
        (tmp_path / path.name).write_text(path.read_text() + ("Look twice." if path.stem == "region" else ""))
    monkeypatch.setattr(prompts, "TEXTS", tmp_path)
    after = list_sections(asked)
    assert [name for name in after if after[name] != before[name]] == ["synthesize"]
    assert before["synthesize"]["teacher_prompts"] == old != hash_teacher_prompts()
    assert list_sections(scripted) == scripted_before and "teacher_prompts" not in scripted_before["synthesize"]


def test_where_a_server_is_and_what_it_costs_is_no_part_of_the_key() -> None:
    here = load_recipe(TINY, ["synthesize.teacher={engine: openai, model: m}"])
    more = "base_url: 'http://h/v1', key_file: k, concurrency: 3, retries: 1, price_per_million_input: 1"
    there = load_recipe(TINY, [f"synthesize.teacher={{engine: openai, model: m, {more}, price_per_million_output: 2}}"])
    synthesize = STAGES[1]
    sections = [prepare_stage(synthesize, recipe, Path("runs")).sections for recipe in (here, there)]
    assert sections[0] == sections[1]
    assert "http" not in json.dumps(sections) and "key_file" not in json.dumps(sections)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{engine: openai, model: m, base_url: 'http://me:hidden@h/v1'}", "key_file"),
        ("{engine: openai, model: m, base_url: 'ftp://h/v1'}", "http://HOST:PORT/v1"),
        ("{engine: openai, model: m, price_per_million_input: 1}", "both or neither"),
        ("{engine: vllm, model: m, temperature: 0}", "one text 2 times"),
        ("{engine: vllm, model: m, revision: main}", "synthesize.teacher.revision"),
        (
            "{engine: openai, modell: m}",
            "'synthesize.teacher.modell' is unknown; did you mean 'synthesize.teacher.model'",
        ),
    ],
)
def test_impossible_teachers_are_refused_with_a_remedy(teacher: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(TINY, [f"synthesize.teacher={teacher}"])
    assert message in str(caught.value) and "hidden" not in str(caught.value)


def test_a_server_gets_the_pictures_as_the_trained_model_sees_them(tmp_path: Path) -> None:
    item = prompt_item(make_item(0, tmp_path), 80)
    pictures = [encode_picture(path, size) for path, size in zip(item.paths, item.resized_sizes, strict=True)]
    body = json.loads(build_body(make_teacher(), item, pictures, 7))
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    seen = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    assert [image.size for image in seen] == list(item.resized_sizes)
    assert all(abs(a - b) <= 4 for a, b in zip(seen[1].getpixel((60, 60)), (200, 30, 90), strict=True))
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (7, 0.7, 1024)
    seeds = {derive_seed(seed, f"u#{k}") for seed in range(20) for k in range(20)}
    assert len(seeds) == 400 and all(0 <= seed < 1 << 31 for seed in seeds)


def test_a_picture_is_resized_as_the_processor_does_it() -> None:
    processor = load_processor(ROOT / "reproduce/tiny_base", min_pixels=3136, max_pixels=20_000)
    pixels = np.random.default_rng(0).integers(0, 256, (150, 190, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    size = compute_resized_size(processor, image.size)
    ours = resize_picture(image, size)
    assert ours.size == size != image.size
    values = [processor.image_processor(images=[x], return_tensors="pt")["pixel_values"] for x in (image, ours)]
    assert torch.equal(*values)


@given(st.integers(1, 10_000), st.floats(0.001, 100), st.none() | st.floats(0, 1e12), st.integers())
def test_waits_are_bounded_and_never_shorter_than_the_server_asks(
    failures: int, base: float, asked: float | None, seed: int
) -> None:
    wait = choose_wait(failures, base, asked, Random(seed))
    if asked is None:
        assert 0 <= wait <= min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(failures - 1, 30))
    else:
        assert min(asked, MAX_RETRY_AFTER_SECONDS) <= wait <= MAX_RETRY_AFTER_SECONDS + base


@given(st.integers(-(10**6), 10**6))
def test_a_time_to_retry_is_read_as_seconds_or_as_a_date(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(date, NOW) == max(0, seconds)
    assert parse_retry_after(str(abs(seconds)), NOW) == abs(seconds)


@given(st.text())
def test_no_retry_header_breaks_the_client(text: str) -> None:
    wait = parse_retry_after(text, NOW)
    assert wait is None or wait >= 0


REPLY_KEYS = ("choices", "message", "content", "finish_reason", "usage", "prompt_tokens", "completion_tokens")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(REPLY_KEYS), inner, max_size=4),
)


@given(st.binary() | JSON.map(lambda data: json.dumps(data).encode()))
def test_no_reply_breaks_the_client(raw: bytes) -> None:
    try:
        reply = parse_reply(raw, "key")
    except Setback:
        return
    assert isinstance(reply["completion"], str)


def test_a_reply_is_read_with_its_tokens_and_without_what_cannot_be_kept() -> None:
    data = {
        "choices": [{"message": {"content": "a \ud800 b sk-secret c"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": -1},
    }
    reply = parse_reply(json.dumps(data).encode(), "sk-secret")
    assert reply == {"completion": "a ? b [key] c", "truncated": True, "prompt_tokens": 12, "completion_tokens": None}
    data["choices"][0]["message"]["content"] = None
    assert parse_reply(json.dumps(data).encode(), None)["completion"] == ""
    for raw in (b"{" + b" " * MAX_REPLY_BYTES + b"}", b"[" * 100_000, b'{"choices": [{"mess'):
        with pytest.raises(Setback):
            parse_reply(raw, None)


def test_a_key_file_is_checked_and_its_content_never_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    with pytest.raises(UserError, match="key_file"):
        read_key(path)
    for content in ("", "two words", "two\nlines", "schlüssel"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError) as caught:
            read_key(path)
        assert not content or content not in str(caught.value)
    path.write_text("sk-1\n")
    path.chmod(0o640)
    assert read_key(path) == "sk-1" and f"chmod 600 {path}" in capsys.readouterr().err
    path.chmod(0o600)
    assert read_key(path) == "sk-1" and not capsys.readouterr().err


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 302])
def test_a_request_refused_for_good_is_not_repeated(status: int, tmp_path: Path) -> None:
    with serve(TeacherServer(refuse=status)) as server, pytest.raises(UserError) as caught:
        ask_items(make_teacher(server.url), 8, tmp_path)
    assert max(server.attempts.values()) == 1 and len(server.bodies) <= 4
    assert f"status {status}" in str(caught.value)


def test_where_no_server_is_it_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no server answers"):
        ask_items(make_teacher(retries=50, backoff_seconds=30), 1, tmp_path)


def test_a_sample_that_fails_too_often_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    with serve(TeacherServer(always="500", always_for="Locate it, 5.")) as server:
        with pytest.raises(UserError, match=r"sample s:5#[01].*3 attempts.*status 500.*kept"):
            ask_items(make_teacher(server.url, retries=2), 12, tmp_path)
    kept = read_log(tmp_path)
    assert 8 <= len(kept) <= len(server.answered)
    with serve(TeacherServer()) as server:
        replies, ledger = ask_items(make_teacher(server.url), 12, tmp_path)
    assert len(server.bodies) == 24 - len(kept)
    assert [len(some) for some in replies] == [2] * 12 and ledger["requests"] == 24


def test_places_are_all_used_and_never_more(tmp_path: Path) -> None:
    with serve(TeacherServer(delay=0.1)) as server:
        ask_items(make_teacher(server.url, concurrency=7), 14, tmp_path)
    assert server.most_in_flight == 7


def test_asked_to_stop_it_keeps_what_was_answered(tmp_path: Path) -> None:
    def stop_after_the_first_reply() -> None:
        while not (tmp_path / "replies.jsonl").exists() or not read_log(tmp_path):
            time.sleep(0.05)
        (tmp_path / ".stop-SIGTERM").touch()

    threading.Thread(target=stop_after_the_first_reply, daemon=True).start()
    with serve(TeacherServer(delay=0.3)) as server, pytest.raises(Stopped) as caught:
        ask_items(make_teacher(server.url), 200, tmp_path)
    assert caught.value.exit_code == 143
    assert 0 < len(read_log(tmp_path)) < 400


def test_a_full_disk_stops_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(log: ProgressLog, rows: list[dict[str, Any]]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ProgressLog, "append", fail)
    with serve(TeacherServer()) as server, pytest.raises(OSError, match="No space left"):
        ask_items(make_teacher(server.url), 40, tmp_path)
    assert len(server.bodies) < 40


def make_local_context(tmp_path: Path, engine: str) -> StageContext:
    """A stage with the tiny base as its teacher: it writes nonsense, which is all that is needed."""
    teacher = f"{{engine: {engine}, model: m, dtype: float32, max_tokens: 4, batch: 2}}"
    recipe = load_recipe(TINY, [f"synthesize.teacher={teacher}", "launch.processes=2"])
    fetch = tmp_path / "fetch"
    fetch.mkdir()
    (fetch / "teacher").symlink_to(ROOT / "reproduce/tiny_base")
    (tmp_path / "stage").mkdir()
    return StageContext("synthesize", recipe, {"fetch": fetch}, tmp_path / "stage")


def test_any_number_of_processes_gives_the_same_replies(tmp_path: Path) -> None:
    context = make_local_context(tmp_path, "transformers")
    weights = context.inputs["fetch"] / "teacher"
    processor = load_processor(weights, min_pixels=context.recipe.model.min_pixels, max_pixels=9600)
    samples = [make_item(number, tmp_path).sample for number in range(5)]
    asked = [prepare_input(sample, tmp_path, processor, frame="resized_px", style="think") for sample in samples]
    items = [prompt_item(item, 8) for item in asked]
    write_batches(context, Rank(), items)
    alone = read_replies(context, items)
    spread = StageContext("synthesize", context.recipe, context.inputs, tmp_path / "spread")
    spread.folder.mkdir()
    for index in (1, 0):
        write_batches(spread, Rank(index, 2), items)
    assert read_replies(spread, items) == alone
    assert all(len(some) == 2 and some[0]["completion_tokens"] <= 4 for some in alone)
    assert len({reply["completion"] for some in alone for reply in some}) > 1


def test_vllm_is_one_process_and_says_how_to_get_it(tmp_path: Path) -> None:
    context = make_local_context(tmp_path, "vllm")
    assert choose_processes(context).recipe.launch.processes == 1
    if find_spec("vllm") is None:
        with pytest.raises(UserError, match="install the optional package vllm"):
            load_vllm(context.recipe, context.recipe.synthesize.teacher, context.inputs["fetch"] / "teacher", 2)
