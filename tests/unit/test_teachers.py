"""Teachers: what they are asked, what a server may reply, when it is asked again, and what is kept."""

import base64
import io
import json
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from teacher_calls import make_decoding, make_item, make_teacher

from migrl.engines.server.request import build_body, derive_seed, encode_picture, resize_picture
from migrl.errors import UserError
from migrl.models.inputs import prepare_input
from migrl.models.loading import compute_resized_size, load_processor
from migrl.pipeline import SYNTHESIZE, plan_stages, prepare_stage
from migrl.recipe import MgroundingTask, Recipe, load_recipe
from migrl.running.stage import StageContext
from migrl.running.worker import Rank
from migrl.stages.synthesize import choose_processes
from migrl.synthesis.teachers import prompts
from migrl.synthesis.teachers.local import read_replies, write_batches
from migrl.synthesis.teachers.prompts import FAMILIES, find_family, hash_teacher_prompts, prompt_item, read_text
from migrl.world.in_domain import MINI_MIG

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "reproduce/recipes/tiny.yaml"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "Locate $image {0} %s ${steps} \\1 <|box_start|>(100,200),(300,400)<|box_end|> in it."


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
    asked = load_recipe(TINY, ["synthesize.teacher={engine: server, model: m}"])
    scripted = load_recipe(TINY)

    def list_sections(recipe: Recipe) -> dict[str, dict[str, Any]]:
        return {stage.name: prepare_stage(stage, recipe, Path("runs")).sections for stage in plan_stages(recipe)}

    before, scripted_before, old = list_sections(asked), list_sections(scripted), hash_teacher_prompts()
    for path in prompts.TEXTS.glob("*.txt"):
        (tmp_path / path.name).write_text(path.read_text() + ("Look twice." if path.stem == "region" else ""))
    monkeypatch.setattr(prompts, "TEXTS", tmp_path)
    after = list_sections(asked)
    assert [name for name in after if after[name] != before[name]] == ["synthesize"]
    assert before["synthesize"]["teacher_prompts"] == old != hash_teacher_prompts()
    assert list_sections(scripted) == scripted_before and "teacher_prompts" not in scripted_before["synthesize"]


def test_where_a_server_is_and_what_it_costs_is_no_part_of_the_key() -> None:
    here = load_recipe(TINY, ["synthesize.teacher={engine: server, model: m}"])
    more = "base_url: 'http://h/v1', key_file: k, concurrency: 3, retries: 1, price_per_million_input: 1"
    there = load_recipe(TINY, [f"synthesize.teacher={{engine: server, model: m, {more}, price_per_million_output: 2}}"])
    synthesize = SYNTHESIZE
    sections = [prepare_stage(synthesize, recipe, Path("runs")).sections for recipe in (here, there)]
    assert sections[0] == sections[1]
    assert "http" not in json.dumps(sections) and "key_file" not in json.dumps(sections)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{engine: server, model: m, base_url: 'http://me:hidden@h/v1'}", "key_file"),
        ("{engine: server, model: m, base_url: 'ftp://h/v1'}", "http://HOST:PORT/v1"),
        ("{engine: server, model: m, price_per_million_input: 1}", "both or neither"),
        ("{engine: vllm, model: m, temperature: 0}", "one text 2 times"),
        ("{engine: vllm, model: m, revision: main}", "synthesize.teacher.revision"),
        (
            "{engine: server, modell: m}",
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
    body = json.loads(build_body(make_teacher(), make_decoding(), item, pictures, 7))
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"] if part["type"] == "image_url"]
    seen = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    assert [image.size for image in seen] == list(item.resized_sizes)
    assert all(abs(a - b) <= 4 for a, b in zip(seen[1].getpixel((60, 60)), (200, 30, 90), strict=True))
    assert (body["seed"], body["temperature"], body["max_tokens"]) == (7, 0.7, 1024)
    # What is left out a server fills from its checkpoint, where top_k may be 1 and the penalty 1.05.
    assert (body["top_p"], body["top_k"], body["repetition_penalty"]) == (1.0, 0, 1.0)
    plain = json.loads(build_body(make_teacher(extensions=()), make_decoding(), item, pictures, 7))
    assert body.keys() - plain.keys() == {"top_k", "repetition_penalty"}
    seeds = {derive_seed(seed, f"u#{k}") for seed in range(20) for k in range(20)}
    assert len(seeds) == 400 and all(0 <= seed < 1 << 31 for seed in seeds)


def test_a_picture_is_resized_as_the_processor_does_it() -> None:
    processor = load_processor(ROOT / "reproduce/tiny_base", min_pixels=3136, max_pixels=20_000)
    pixels = np.random.default_rng(0).integers(0, 256, (150, 190, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    size = compute_resized_size(processor, image.size)
    ours = resize_picture(image, size)
    assert ours.shape == (3, size[1], size[0]) and size != image.size
    values = [processor.image_processor(images=[x], return_tensors="pt")["pixel_values"] for x in (image, ours)]
    assert torch.equal(*values)


def make_local_context(tmp_path: Path, engine: str) -> StageContext:
    """A stage with the tiny base as its teacher: it writes nonsense, which is all that is needed."""
    teacher = f"{{engine: {engine}, model: m, dtype: float32, max_new_tokens: 4, batch: 2}}"
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
        item = make_item(0, tmp_path)
        with pytest.raises(UserError, match="engine vllm: No module.*make setup-gpu"):
            write_batches(context, Rank(), [item])
