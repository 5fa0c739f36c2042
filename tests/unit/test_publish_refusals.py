"""What is never published: code, secrets, paths of a machine, and runs that their evidence does not speak of."""

import gzip
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_files import TINY_SETS, change_manifest, make_evidence, make_run, prepare, read_recipe, write_weights

from migrl.errors import UserError
from migrl.files import hash_json
from migrl.publish import prepare_repositories
from migrl.publish.inspection import inspect_folder

TOKEN = "hf_" + "aB3" * 12


def test_remote_code_in_a_trained_model_is_refused(tmp_path: Path) -> None:
    recipe = read_recipe("tiny", "grpo.lora=null")
    folders = make_run(recipe, tmp_path / "runs", config={"auto_map": {"AutoModel": "modeling.Mine"}})
    make_evidence(recipe, folders, tmp_path / "results" / "tiny", TINY_SETS)
    with pytest.raises(UserError, match=r"config\.json: key 'auto_map' makes whoever loads it run code"):
        prepare(tmp_path, tmp_path / "out", recipe)
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("model.safetensors", pickle.dumps({"weight": 1}), "not a sound safetensors file"),
        ("model.bin", b"weights", "a file of this kind is not published"),
        ("training_args.pt", b"weights", "a file of this kind is not published"),
        ("modeling.py", b"import os", "a file of this kind is not published"),
        ("cold_start/config.json", b'{"a": [{"auto_map": {}}]}', "'auto_map'"),
        ("config.json", b"{", "not JSON"),
        ("log.txt", b"fine\nlogin with " + TOKEN.encode(), "line 2 holds a Hugging Face token"),
        ("log.txt", b"-----BEGIN RSA PRIVATE KEY-----", "a private key"),
        ("log.jsonl", b'{"headers": "Authorization: Bearer abcdefghijklmnopqrst"}', "an authorization header"),
        ("log.jsonl", b'{"path": "/home/jane/runs"}', "line 1 holds a path of a machine"),
        ("log.jsonl.gz", b"\x1f\x8b\x08 torn", "not a whole gzip file"),
        ("packed.jsonl.gz", gzip.compress(TOKEN.encode(), mtime=0), "line 1 holds a Hugging Face token"),
    ],
)
def test_a_file_that_must_not_leave_is_named_with_the_reason(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*{reason}") as caught:
        inspect_folder(tmp_path, [])
    assert TOKEN not in str(caught.value) and "jane" not in str(caught.value)


def test_paths_of_this_machine_are_found_and_paths_of_data_are_not(tmp_path: Path) -> None:
    private = tmp_path / "private"
    (tmp_path / "out").mkdir()
    page = tmp_path / "out" / "page.md"
    page.write_text(f"images{private}/a.png https://x.org/home/b MGrounding-630k/home/c {private}_other")
    inspect_folder(tmp_path / "out", [private, Path("/")])
    for text in (f'{{"root": "{private}"}}', f"file://{private}/a", f"at {private}/runs"):
        page.write_text(text)
        with pytest.raises(UserError, match=r"page\.md: line 1 holds a path of a machine"):
            inspect_folder(tmp_path / "out", [private])


@pytest.mark.parametrize("name", ["a\nb.json", "a\x1b[31m.json", ".hidden.json", f"{TOKEN}.json", "-rf.json"])
def test_a_file_whose_name_would_write_into_listings_is_refused_and_not_repeated(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="a file whose name") as caught:
        inspect_folder(tmp_path, [])
    assert name not in str(caught.value)


def test_a_path_in_the_header_of_weights_is_found_and_a_link_refused(tmp_path: Path) -> None:
    write_weights(tmp_path / "good.safetensors", 0)
    inspect_folder(tmp_path, [])
    content = (tmp_path / "good.safetensors").read_bytes()
    name = b"layer.0.weight"
    assert len(b"/home/jane/run") == len(name)
    (tmp_path / "bad.safetensors").write_bytes(content.replace(name, b"/home/jane/run"))
    with pytest.raises(UserError, match=r"bad\.safetensors: header 1 holds a path"):
        inspect_folder(tmp_path, [])
    (tmp_path / "bad.safetensors").unlink()
    (tmp_path / "link.json").symlink_to(tmp_path / "good.safetensors")
    with pytest.raises(UserError, match=r"link\.json: a link"):
        inspect_folder(tmp_path, [])


def test_missing_stages_are_named_with_the_command_that_makes_them(home: Path, tmp_path: Path) -> None:
    shutil.rmtree(home / "runs" / "tiny" / "select")
    shutil.rmtree(home / "runs" / "tiny" / "grpo")
    with pytest.raises(UserError, match=r"tiny/select, .*tiny/grpo: not there; run `migrl reproduce --recipe tiny`"):
        prepare(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evidence_that_does_not_verify_is_not_published(home: Path, tmp_path: Path) -> None:
    results = home / "results" / "tiny"
    claims = json.loads((results / "claims.json").read_text())
    claims[0]["verdict"] = "reproduced by far"
    (results / "claims.json").write_text(json.dumps(claims))
    with pytest.raises(UserError, match=r"does not verify \(2 differences, first: claims\.json: changed"):
        prepare(home, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("results/tiny/manifest.json", "[]", r"must be a JSON dict, not list"),
        ("results/tiny/manifest.json", '{"git_revision": "a", "dirty": false}', "does not verify"),
        (
            "runs/tiny/sft/manifest.json",
            '{"run_format": 1, "outputs": []}',
            "manifest is of no form we write",
        ),
    ],
)
def test_a_manifest_of_another_form_is_refused_in_words(
    home: Path, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (home / name).write_text(content)
    with pytest.raises(UserError, match=reason):
        prepare(home, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evidence_of_another_run_is_not_published(home: Path, tmp_path: Path) -> None:
    manifest = home / "runs" / "tiny" / "grpo" / "manifest.json"
    stage = json.loads(manifest.read_text())
    hashes = {name: output["sha256"] for name, output in stage["outputs"].items()}
    manifest.write_text(json.dumps(stage | {"key": "0" * 64, "digest": hash_json(["0" * 64, hashes])}))
    with pytest.raises(UserError, match=r"tiny/grpo: not the stage that .*results/tiny was made from"):
        prepare(home, tmp_path / "out")
    manifest.write_text(json.dumps(stage | {"digest": "0" * 64}))
    with pytest.raises(UserError, match=r"tiny/grpo/manifest\.json: the digest does not fit the outputs"):
        prepare(home, tmp_path / "out")


def test_weights_that_changed_after_their_stage_are_not_published(home: Path, tmp_path: Path) -> None:
    write_weights(home / "runs" / "tiny" / "grpo" / "adapter" / "adapter_model.safetensors", 99)
    with pytest.raises(UserError, match=r"grpo/adapter/adapter_model\.safetensors: missing or changed"):
        prepare(home, tmp_path / "out")


@pytest.mark.parametrize("state", [{"dirty": True}, {"dirty": None, "git_revision": None}])
def test_a_run_of_code_that_nobody_has_needs_a_word_and_gets_a_warning(
    home: Path, tmp_path: Path, state: dict[str, Any]
) -> None:
    change_manifest(home / "results" / "tiny", **state)
    with pytest.raises(UserError, match="--allow-dirty"):
        prepare(home, tmp_path / "out")
    prepare(home, tmp_path / "out", allow_dirty=True)
    text = (tmp_path / "out" / "model" / "README.md").read_text()
    assert "WITH UNCOMMITTED CHANGES" in text or "revision unknown" in text
    assert ("with uncommitted changes" in text) == bool(state["dirty"])  # in report.md, which is part of the card


@pytest.mark.parametrize("path", ["/data/qwen", "../qwen", "someone/base"])
def test_what_was_trained_on_a_base_that_nobody_else_has_is_not_published(
    home: Path, tmp_path: Path, path: str
) -> None:
    settings = read_recipe("tiny").model_dump(mode="json")
    settings["model"] |= {"path": path, "revision": "a" * 40 if path.startswith(("/", ".")) else None}
    change_manifest(home / "results" / "tiny", settings=settings)
    with pytest.raises(UserError, match=f"model.path={path} is a folder of this machine"):
        prepare(home, tmp_path / "out")


def test_a_recipe_without_claims_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="carries no claims"):
        prepare(tmp_path, tmp_path / "out", read_recipe("tiny", "claims=none"))


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "owner/na me", "owner/x\n", "owner/-x", "owner/" + "n" * 95, TOKEN, f"owner/{TOKEN}"]
)
def test_a_bad_repository_id_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"^--to: (?!.*{TOKEN})"):
        prepare_repositories(read_recipe("tiny"), tmp_path, tmp_path, name, tmp_path / "out")


def test_a_folder_that_is_not_ours_is_not_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.md").write_text("years of work")
    with pytest.raises(UserError, match="was not made by this command"):
        prepare(made, tmp_path)
    assert (tmp_path / "model" / "thesis.md").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "MIGRL.json").write_text("{}")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "model").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="was not made by this command"):
        prepare(made, tmp_path / "links")
    with pytest.raises(UserError, match=r"model\.new: cannot be made"):
        prepare(made, tmp_path / "model" / "thesis.md")
