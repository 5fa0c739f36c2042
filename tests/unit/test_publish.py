"""Preparing a publication: what goes in, and what the cards say."""

import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from run_files import (
    FETCHED_COMMIT,
    make_evidence,
    make_run,
    make_sample,
    prepare,
    read_recipe,
)
from typer.testing import CliRunner

from migrl.claims.claims import load_claims, select_claims
from migrl.cli import app
from migrl.errors import UserError
from migrl.evidence.verify import verify_results
from migrl.files import hash_file
from migrl.publish.cards import escape_markdown
from migrl.publish.licences import read_models
from migrl.recipe import Recipe

MODEL_FILES = {
    "README.md",
    "MIGRL.json",
    "LICENSE.txt",
    "chat_template.jinja",
    "tokenizer.json",
    "cold_start/adapter_config.json",
    "cold_start/adapter_model.safetensors",
    "rl/adapter_config.json",
    "rl/adapter_model.safetensors",
}


def list_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_dry_run_lists_every_file_of_both_repositories_and_sends_nothing(made: Path, tmp_path: Path) -> None:
    places = ["--runs", str(made / "runs"), "--results", str(made / "results"), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, ["publish", "--recipe", "tiny", "--to", "owner/name", *places])
    assert result.exit_code == 0, result.exception
    assert "model repository owner/name: 9 files" in result.output
    assert "dataset repository owner/name-data: " in result.output
    assert result.output.endswith("dry run: nothing was sent; look at the folders, then add --yes\n")
    data_files = {"README.md", "MIGRL.json", "cot.jsonl", "rl.jsonl"}
    evidence = {f"evidence/{path.name}" for path in (made / "results" / "tiny").iterdir()}
    assert list_names(tmp_path / "model") == MODEL_FILES
    assert list_names(tmp_path / "dataset") == data_files | evidence
    for folder in ("model", "dataset"):
        for name in list_names(tmp_path / folder):
            path = tmp_path / folder / name
            assert f"{hash_file(path)}  {path.stat().st_size:>12,}  {name}\n" in result.output
    assert verify_results(tmp_path / "dataset" / "evidence") == []


def test_the_same_run_gives_the_same_files_and_replaces_the_ones_of_before(home: Path, tmp_path: Path) -> None:
    first = [repository.files for repository in prepare(home, tmp_path / "out")]
    assert [repository.files for repository in prepare(home, tmp_path / "out")] == first
    notes = tmp_path / "out" / "dataset" / "notes.txt"
    notes.write_text("somebody's")
    with pytest.raises(UserError, match=r"notes\.txt: exists and was not made by this command"):
        prepare(home, tmp_path / "out")
    assert notes.exists()


def test_what_is_published_is_what_the_stages_wrote_without_the_path_of_this_machine(
    made: Path, tmp_path: Path
) -> None:
    prepare(made, tmp_path)
    for folder, stage in (("cold_start", "sft"), ("rl", "grpo")):
        sent, ours = tmp_path / "model" / folder, made / "runs" / "tiny" / stage / "adapter"
        assert hash_file(sent / "adapter_model.safetensors") == hash_file(ours / "adapter_model.safetensors")
        config = json.loads((sent / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == ("reproduce/tiny_base" if stage == "sft" else None)
    samples = [json.loads(line) for line in (tmp_path / "dataset" / "rl.jsonl").read_text().splitlines()]
    assert samples == [make_sample(3), make_sample(4)]
    assert not list((tmp_path / "dataset").rglob("*.png"))


def test_the_cards_are_what_the_hubs_library_reads(made: Path, tmp_path: Path) -> None:
    prepare(made, tmp_path)
    model, data = ModelCard.load(tmp_path / "model/README.md"), DatasetCard.load(tmp_path / "dataset/README.md")
    assert (model.data.license, model.data.pipeline_tag) == ("apache-2.0", "image-text-to-text")
    assert (model.data.datasets, model.data.library_name) == (["owner/name-data"], "peft")
    assert model.data.get("base_model") is None  # reproduce/tiny_base is on no Hub
    assert [(config["config_name"], config["data_files"]) for config in data.data.configs] == [
        ("cot", "cot.jsonl"),
        ("rl", "rl.jsonl"),
    ]
    assert "trust_remote_code=True" not in model.text and "rendered world" in model.text
    assert "| region | 3 | 2 |" in data.text


def make_paper_run(home: Path, *overrides: str) -> Recipe:
    recipe = read_recipe("paper", *overrides)
    make_evidence(recipe, make_run(recipe, home / "runs"), home / "results" / "paper", ("mig_bench",))
    return recipe


def test_a_card_of_the_paper_recipe_names_licences_and_what_was_not_run(tmp_path: Path) -> None:
    teacher = "{engine: server, model: Qwen/Qwen2.5-VL-72B-Instruct}"
    recipe = make_paper_run(tmp_path, f"synthesize.teacher={teacher}", "grpo.num_generations=4")
    prepare(tmp_path, tmp_path / "out", recipe)
    model = ModelCard.load(tmp_path / "out/model/README.md")
    assert (model.data.license, model.data.base_model_relation) == ("apache-2.0", "adapter")
    assert model.data.base_model == "Qwen/Qwen2.5-VL-7B-Instruct" and recipe.model.revision in model.text
    (result,) = model.data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("GD-ML/UniVG-R1-data", "mig_bench")
    others = [claim for claim in select_claims(load_claims(), "paper") if claim.benchmarks != ("mig_bench",)]
    assert model.text.count("| – not run |") == len(others)
    assert "**Built with Qwen**" in model.text
    (dumped,) = re.findall(r"```yaml\n(.*?)```", model.text, re.DOTALL)
    settings = recipe.model_dump(mode="json")
    assert yaml.safe_load(dumped)["grpo"] == settings["grpo"] and settings["grpo"]["num_generations"] == 4
    data = tmp_path / "out" / "dataset"
    card = DatasetCard.load(data / "README.md")
    assert (card.data.license, card.data.license_link) == ("other", "LICENSE.md")
    licences = (data / "LICENSE.md").read_text()
    assert "| Michael4933/MGrounding-630k | training lines | Apache-2.0; pictures keep the terms" in licences
    assert "| evidence on lisa_val, evidence on lisa_test, " in licences
    assert f"| BLINK-Benchmark/BLINK | evidence on blink | Apache-2.0 | {FETCHED_COMMIT} |" in licences
    assert "| Qwen/Qwen2.5-VL-72B-Instruct | wrote the reasoning | Qwen licence agreement | unknown |" in licences
    assert "takes over the terms of the teacher, Qwen/Qwen2.5-VL-72B-Instruct: " in card.text
    # The report shows the benchmarks' pictures, which are not ours to give away.
    assert verify_results(data / "evidence") == ["report.html: missing"]


def test_an_unknown_model_has_an_unknown_licence(tmp_path: Path) -> None:
    teacher = "{engine: server, model: someone/teacher}"
    recipe = make_paper_run(tmp_path, f"synthesize.teacher={teacher}", "model.path=someone/base")
    prepare(tmp_path, tmp_path / "out", recipe)
    card = ModelCard.load(tmp_path / "out/model/README.md")
    assert card.data.license == "unknown" and not (tmp_path / "out" / "model" / "LICENSE.txt").exists()
    assert (
        "| base model, someone/base | unknown |" in card.text and "| teacher, someone/teacher | unknown |" in card.text
    )


def test_a_fully_trained_model_lies_at_the_root_and_loads_by_itself(tmp_path: Path) -> None:
    recipe = make_paper_run(tmp_path, "grpo.lora=null")
    prepare(tmp_path, tmp_path / "out", recipe)
    names = list_names(tmp_path / "out" / "model")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names and not any(
        "adapter" in name for name in names
    )
    ours = tmp_path / "runs" / "paper" / "grpo" / "model" / "model.safetensors"
    assert hash_file(tmp_path / "out" / "model" / "model.safetensors") == hash_file(ours)
    card = ModelCard.load(tmp_path / "out/model/README.md")
    assert (card.data.library_name, card.data.base_model_relation) == ("transformers", "finetune")
    assert "PeftModel" not in card.text


def test_the_licence_of_every_recipes_base_model_is_stated() -> None:
    bases = {read_recipe(name).model.path for name in ("paper", "tiny")}
    assert bases <= read_models().keys()


def test_text_from_data_cannot_become_markup() -> None:
    assert escape_markdown("a|b\n[x](y) <img> `c`\u202e") == "a\\|b \\[x\\](y) &lt;img&gt; \\`c\\`\\\\u{202e}"
