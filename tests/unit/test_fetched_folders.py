"""Of model folders and prepared folders fetch takes the known files and nothing else, and follows no link."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
import trl
from architectures import QWEN3_VL, write_untrained
from PIL import Image
from safetensors.torch import save_file
from transformers.utils.chat_template_utils import render_jinja_template

from migrl.data.training_pool import link_training
from migrl.errors import UserError
from migrl.evidence.provenance import describe_fetched
from migrl.files import hash_file, write_jsonl
from migrl.grounding.prompts import build_messages
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.chat_template import check_template
from migrl.models.loading import load_model
from migrl.models.template_trial import make_environment
from migrl.recipe import ModelSettings, Recipe, load_recipe
from migrl.running.stage import StageContext
from migrl.stages import fetch

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "reproduce" / "tiny_base"
LOADED = {
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base"))


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    folder = tmp_path / "prepared"
    (folder / "p" / "deep").mkdir(parents=True)
    for name in ("a.png", "deep/b.png", "not_named.png"):
        Image.effect_noise((40, 30), 80).save(folder / "p" / name)
    (folder / "README.md").write_text("mine\n")
    for split in ("bench", "cot", "rl"):
        target = BoxTarget(1, (0.1, 0.2, 0.3, 0.4))
        sample = Sample(f"{split}:0", split, "t", ("p/a.png", "./p/deep/b.png"), "Find it.", target, "c")
        write_jsonl(folder / f"{split}.jsonl", [sample.to_json()])
    return folder


def read_recipe(model: Path | str = BASE, data: Path | None = None, *more: str) -> Recipe:
    source = [] if data is None else [f"source={json.dumps({'kind': 'folder', 'path': str(data)})}"]
    return load_recipe(ROOT / "reproduce/recipes/test.yaml", [f"model.path={model}", "model.sha256={}", *source, *more])


def bring(recipe: Recipe, out: Path) -> Path:
    fetch.fetch_model(recipe.model, out / "model")
    return out / "model"


def list_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def split_weights(folder: Path) -> list[str]:
    """Give a folder with whole weights two shards and their index."""
    (folder / "model.safetensors").unlink()
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(shards):
        save_file({f"w{number}": torch.zeros(2)}, folder / name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"w0": shards[0], "w1": shards[1]}}))
    return shards


def test_a_model_that_a_run_made_is_linked_and_any_other_is_copied(tmp_path: Path, base: Path) -> None:
    recipe, weights = read_recipe(base), base / "model.safetensors"
    for name, runs, linked in (("ours", tmp_path, True), ("other", tmp_path / "runs", False)):
        fetch.fetch_model(recipe.model, tmp_path / name, runs)
        assert (tmp_path / name / "model.safetensors").samefile(weights) == linked
        assert hash_file(tmp_path / name / "model.safetensors") == hash_file(weights)


def test_a_model_brings_its_known_files_and_leaves_the_rest(base: Path, tmp_path: Path) -> None:
    for name in ("modeling_mine.py", "training_args.bin", "pytorch_model.bin", "optimizer.pt", ".env"):
        (base / name).write_bytes(b"x")
    (base / "onnx").mkdir()
    os.mkfifo(base / "onnx" / "pipe")
    model = bring(read_recipe(base), tmp_path / "out")
    assert list_names(model) == LOADED
    assert not any(os.path.samefile(model / name, base / name) for name in LOADED)


def test_shards_are_those_that_the_index_names(base: Path, tmp_path: Path) -> None:
    shards = split_weights(base)
    (base / "model-00003-of-00002.safetensors").write_bytes(b"x")
    model = bring(read_recipe(base), tmp_path / "out")
    assert list_names(model) == LOADED - {"model.safetensors"} | {INDEX, *shards}


def name_shard(name: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "weights.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": {"w": name}}))

    return damage


def write(name: str, text: str = "{}") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def replace_by_link(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).rename(folder.parent / name)
        (folder / name).symlink_to(folder.parent / name)

    return damage


def replace_by_pipe(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return damage


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def grow(folder: Path) -> None:
    os.truncate(folder / "tokenizer.json", 200_000_000)


MODEL_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "adapter's config": (write("adapter_config.json"), r"adapter_config\.json: an adapter .* merge it, or move it"),
    "adapter's weights": (write("adapter_model.safetensors"), r"adapter_model\.safetensors: an adapter"),
    "adapter's pickle": (write("adapter_model.bin"), r"adapter_model\.bin: an adapter"),
    "linked adapter": (lambda f: (f / "adapter_config.json").symlink_to(f / "x"), r"adapter_config\.json: an adapter"),
    "linked weights": (replace_by_link("model.safetensors"), r"model\.safetensors: is a link, .* put the file itself"),
    "linked template": (replace_by_link("chat_template.jinja"), r"chat_template\.jinja: is a link"),
    "broken link": (lambda f: (f / "vocab.json").symlink_to("gone"), r"vocab\.json: is a link"),
    "loop": (lambda f: (f / "more").symlink_to("."), "more: is a link"),
    "device": (lambda f: (f / "vocab.json").symlink_to("/dev/zero"), r"vocab\.json: is a link"),
    "pipe": (replace_by_pipe("tokenizer.json"), r"tokenizer\.json: is a named pipe, .* take it out"),
    "large tokenizer": (grow, r"tokenizer\.json: has 200 MB, and such a file may have 100 MB"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json: no such file"),
    "config no JSON": (write("config.json", "{"), r"config\.json: not JSON"),
    "other weights": (
        write("config.json", '{"transformers_weights": "x"}'),
        r"config\.json: key 'transformers_weights'",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"no weights \(model\.safetensors, or"),
    "pickled only": (pickle_only, r"pytorch_model\.bin: pickled weights"),
    "two models": (write(INDEX, '{"weight_map": {"w": "a.safetensors"}}'), "holds .* two models; move one"),
    "shard above": (name_shard("../x.safetensors"), r"index\.json: key 'weight_map': names '\.\./x\.safetensors'"),
    "shard elsewhere": (name_shard("/x.safetensors"), "key 'weight_map': names '/x"),
    "shard below": (name_shard("a/x.safetensors"), "key 'weight_map': names 'a/x"),
    "hidden shard": (name_shard(".x.safetensors"), "key 'weight_map': names '.x"),
    "pickled shard": (name_shard("x.bin"), "key 'weight_map': names 'x.bin'"),
    "shard no name": (name_shard(["x"]), "key 'weight_map': names"),
    "missing shard": (name_shard("x.safetensors"), r"/x\.safetensors: no such file, and .*index\.json names it"),
    "empty index": (lambda f: (f / INDEX).write_text('{"weight_map": {}}'), "key 'weight_map': must map"),
}


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_a_model_folder_that_is_not_whole_and_plain_is_refused_by_name(base: Path, tmp_path: Path, fault: str) -> None:
    damage, words = MODEL_FAULTS[fault]
    damage(base)
    with pytest.raises(UserError, match=words):
        bring(read_recipe(base), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list_names(tmp_path / "out")


def test_an_adapter_that_came_beside_finished_weights_is_not_attached(base: Path) -> None:
    settings = ModelSettings(path=str(base), dtype="float32", attention="sdpa", min_pixels=3136)
    load_model(base, settings)
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"adapter_config\.json: an adapter"):
        load_model(base, settings)


def make_snapshot(root: Path) -> Path:
    """The tiny base as the Hugging Face cache holds it."""
    repository = root / "models--someone--small"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name in LOADED:
        digest = hash_file(BASE / name)
        shutil.copy(BASE / name, repository / "blobs" / digest)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    return snapshot


def test_a_snapshot_of_the_cache_is_taken_with_the_blobs_that_its_links_mean(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path)
    (tmp_path / "alias").symlink_to(snapshot)
    for number, path in enumerate((snapshot, tmp_path / "alias")):
        model = bring(read_recipe(path), tmp_path / str(number))
        assert {name: hash_file(model / name) for name in LOADED} == {name: hash_file(BASE / name) for name in LOADED}
        assert not any((model / name).is_symlink() for name in LOADED)


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../../../secret", "../../blobs/../../secret", "../../blobs/other"]
)
def test_a_link_of_a_snapshot_that_leads_elsewhere_is_refused(tmp_path: Path, target: str) -> None:
    snapshot = make_snapshot(tmp_path)
    (tmp_path / "secret").write_text("{}")
    (snapshot.parents[1] / "blobs" / "other").symlink_to(tmp_path / "secret")
    (snapshot / "vocab.json").symlink_to(target)
    with pytest.raises(UserError, match="is a link"):
        bring(read_recipe(snapshot), tmp_path / "out")


def test_a_hub_model_is_asked_for_by_exact_names_and_its_weights_wait_in_a_working_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = split_weights(base)
    asked: list[str] = []

    def bring_named(path: str, *, revision: str, local_dir: Path, allow_patterns: list[str], tqdm_class: type) -> None:
        asked.extend(allow_patterns)
        local_dir.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (base / name).is_file():
                shutil.copy(base / name, local_dir / name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", bring_named)
    recipe = read_recipe("someone/small", None, f"model.revision={'a' * 40}")
    model = bring(recipe, tmp_path / "out")
    assert list_names(model) == LOADED - {"model.safetensors"} | {INDEX, *shards}
    assert not any(sign in name for name in asked for sign in "*?[") and set(shards) <= set(asked)
    for name in shards:
        (kept,) = (tmp_path / "out" / "download" / "model").rglob(name)
        assert os.path.samefile(kept, model / name)
        kept.unlink()
    (base / "adapter_config.json").write_text("{}")
    shutil.copy(base / "adapter_config.json", kept.parent)
    with pytest.raises(UserError, match=r"adapter_config\.json: an adapter"):
        bring(recipe, tmp_path / "out")


def test_a_prepared_folder_brings_its_records_and_the_pictures_that_they_name(prepared: Path, tmp_path: Path) -> None:
    recipe = read_recipe(BASE, prepared)
    (tmp_path / "out").mkdir()
    facts = fetch.run(StageContext("fetch", recipe, {}, tmp_path / "out"))
    named = {"p/a.png", "p/deep/b.png", "bench.jsonl", "cot.jsonl", "rl.jsonl"}
    assert list_names(tmp_path / "out" / "data") == named and facts["decoded"]["pictures"] == 2
    outputs = {f"model/{name}": {"sha256": hash_file(tmp_path / "out/model" / name)} for name in LOADED}
    files = describe_fetched(recipe, {"outputs": outputs, "facts": facts})["model"]["files"]
    assert files == {name: hash_file(BASE / name) for name in LOADED}


def make_socket(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # a socket's path may be 108 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s")
    finally:
        os.chdir(here)


def enlarge(name: str) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / name, 2_000_000_000)


DATA_FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "linked picture": (replace_by_link("p/a.png"), r"p/a\.png: is a link, .* put the file itself"),
    "linked records": (replace_by_link("cot.jsonl"), r"cot\.jsonl: is a link"),
    "linked folder": (lambda f: (f / "p" / "more").symlink_to("/etc"), "p/more: is a link"),
    "broken link": (lambda f: (f / "p" / "annex.png").symlink_to("../.git/annex/x"), r"p/annex\.png: is a link"),
    "loop": (lambda f: (f / "p" / "loop").symlink_to("."), "p/loop: is a link"),
    "device": (lambda f: (f / "zero").symlink_to("/dev/zero"), "zero: is a link"),
    "pipe": (replace_by_pipe("p/deep/b.png"), r"p/deep/b\.png: is a named pipe, .* take it out"),
    "pipe of records": (lambda f: os.mkfifo(f / "more.jsonl"), r"more\.jsonl: is a named pipe"),
    "socket": (make_socket, "/s: is a socket"),
    "large records": (enlarge("cot.jsonl"), r"cot\.jsonl: has 2,000 MB, and such a file may have 1,000 MB"),
}


@pytest.mark.parametrize("fault", DATA_FAULTS)
def test_what_is_no_plain_file_in_a_prepared_folder_is_refused_before_anything_is_copied(
    prepared: Path, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "p").mkdir()
    damage, words = DATA_FAULTS[fault]
    damage(prepared)
    for name in ("copied", "linked"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=words):
        fetch.run(StageContext("fetch", read_recipe(BASE, prepared), {}, tmp_path / "copied"))
    with pytest.raises(UserError, match=words):
        link_training(prepared, tmp_path / "linked", ())
    assert not list_names(tmp_path / "copied") and not list_names(tmp_path / "linked")


def test_a_frame_that_the_model_does_not_speak_is_refused_where_the_model_is_brought(
    prepared: Path, tmp_path: Path
) -> None:
    write_untrained(tmp_path / "model", QWEN3_VL)
    recipe = read_recipe(tmp_path / "model", prepared)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"model\.frame=resized_px: Qwen3-VL reads and writes boxes in permille"):
        fetch.run(StageContext("fetch", recipe, {}, tmp_path / "out"))


def test_a_large_or_hidden_picture_is_refused_by_name(prepared: Path, tmp_path: Path) -> None:
    recipe = read_recipe(BASE, prepared)
    (tmp_path / "out").mkdir()
    os.truncate(prepared / "p" / "a.png", 2_000_000_000)
    with pytest.raises(UserError, match=r"p/a\.png: has 2,000 MB"):
        fetch.run(StageContext("fetch", recipe, {}, tmp_path / "out"))
    text = (prepared / "rl.jsonl").read_text()
    (prepared / "rl.jsonl").write_text(text.replace("p/a.png", ".p/a.png"))
    with pytest.raises(UserError, match=r"rl\.jsonl, record 1: key 'images': '\.p/a\.png' is hidden"):
        fetch.run(StageContext("fetch", recipe, {}, tmp_path / "out"))


def test_a_template_renders_as_transformers_renders_it() -> None:
    messages = build_messages("Where is it?", 3, "think", "box")
    templates = [BASE / "chat_template.jinja", *(Path(trl.__file__).parent / "chat_templates").glob("*qwen*.jinja")]
    templates = [path for path in templates if "image" in path.read_text()]
    assert any(path.name == "qwen2_5_vl.jinja" for path in templates)
    values = {"add_generation_prompt": True, "eos_token": "<|im_end|>"}
    texts = [path.read_text() for path in templates]
    texts.append("{% generation %}{{ messages | tojson(indent=1) }}{% endgeneration %}{{ strftime_now('%Y') }}")
    for text in texts:
        (expected,), _ = render_jinja_template(conversations=[messages], chat_template=text, **values)
        made = make_environment().from_string(text).render(messages=messages, tools=None, documents=None, **values)
        assert made == expected and made


def put_template(folder: Path, file: str, template: str) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if file == "chat_template.jinja":
        (folder / file).write_text(template)
        return
    path = folder / file
    config = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(config | {"chat_template": template}))


SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "file", ["chat_template.jinja", "chat_template.json", "tokenizer_config.json", "processor_config.json"]
)
def test_a_template_without_end_is_refused_wherever_it_stands(base: Path, file: str) -> None:
    put_template(base, file, SLOW)
    with pytest.raises(UserError, match=f"{file}: the chat template does not end within 1 s; take it"):
        check_template(base, seconds=1)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ 10 ** (10 ** 9) }}", "does not end within 1 s"),
        ("{% if messages | length > 1 %}" + SLOW + "{% endif %}", "does not end within 1 s"),
        ("{{ 'a' * 10 ** 10 }}", "needs more than 2 GB of memory"),
        ("{{ 'a' * 10 ** 6 }}", "makes 1,000,000 characters of a short question"),
    ],
)
def test_a_template_without_bound_is_refused_with_the_reason(base: Path, template: str, words: str) -> None:
    put_template(base, "chat_template.jinja", template)
    with pytest.raises(UserError, match=f"chat_template.jinja: the chat template {words}"):
        check_template(base, seconds=1)


def test_a_template_that_begins_the_reasoning_is_refused_as_no_completion_would_hold_its_tag(base: Path) -> None:
    folder = Path(trl.__file__).parent / "chat_templates"
    put_template(base, "chat_template.jinja", (folder / "qwen3_vl.jinja").read_text())
    check_template(base)
    put_template(base, "chat_template.jinja", (folder / "qwen3_5_think.jinja").read_text())
    with pytest.raises(
        UserError, match=r"chat_template\.jinja: the chat template ends its prompts in <think>.* Instruct"
    ):
        check_template(base)


def test_only_the_template_that_makes_the_prompts_has_to_take_pictures(base: Path) -> None:
    check_template(base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    refusing = "{{ raise_exception('no pictures') }}"
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": refusing}))
    check_template(base)
    for template, words in ((refusing, "no pictures"), ("{% if %}", "Expected an expression")):
        (base / "chat_template.jinja").write_text(template)
        with pytest.raises(UserError, match=rf"chat_template\.jinja: the chat template cannot be rendered .*{words}"):
            check_template(base)
