"""Laying out what is published: which file goes into which repository, and that each is the one its stage wrote."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from migrl.errors import UserError
from migrl.evidence.seal import list_files
from migrl.files import hash_file, name_aside, put_folder, read_json, remove_folder, sync_tree, write_json
from migrl.publish.cards import copy_base_licence, write_data_card, write_model_card
from migrl.publish.finished import FinishedRun, read_finished_run
from migrl.publish.inspection import holds_secret, inspect_folder
from migrl.recipe import Recipe
from migrl.running.stage import MANIFEST, check_disk

Kind = Literal["model", "dataset"]
LISTING = "MIGRL.json"
"""In each repository: what was published, with size and sha256, so that whoever downloads it can check it.

It marks a repository as ours. Its name sorts it into the first commit, should the Hub take the files in several.
"""

ADAPTERS = {"cold_start": "sft", "rl": "grpo"}
MODEL_FILES = ("config.json", "generation_config.json", "model.safetensors.index.json")


@dataclass(frozen=True)
class Repository:
    """One repository, ready to be sent: its id, its folder, and size in bytes and sha256 of each file."""

    kind: Kind
    id: str
    folder: Path
    files: dict[str, dict[str, Any]]

    def describe(self) -> Iterator[str]:
        """The listing for people, one file a line."""
        total = sum(file["size"] for file in self.files.values())
        yield f"{self.kind} repository {self.id}: {len(self.files)} files, {total / 1e6:.1f} MB, in {self.folder}"
        for name, file in self.files.items():
            yield f"  {file['sha256']}  {file['size']:>12,}  {name}"


def prepare_repositories(
    recipe: Recipe, runs: Path, results: Path, to: str, out: Path, *, merged: bool = False, allow_dirty: bool = False
) -> list[Repository]:
    """Build the model and the data set folder of a finished run below `out`, anew each time. Sends nothing.

    Args:
        to: `OWNER/NAME`; the data set becomes `OWNER/NAME-data`.
        merged: also write the whole weights, with the adapters folded in, beside the adapters.

    Raises:
        UserError: a bad id, an unfinished, unverified or foreign run, or a file that must not be published.
    """
    ids: dict[Kind, str] = {"model": check_id(to), "dataset": check_id(f"{to}-data")}
    run = read_finished_run(recipe, runs, results, allow_dirty=allow_dirty)
    repositories = []
    for kind, repo_id in ids.items():
        folder = out / kind
        partial = claim_folder(folder)
        if kind == "model":
            lay_out_model(run, partial, merged=merged)
            copy_base_licence(run, partial)
            write_model_card(run, partial, ids["model"], ids["dataset"], merged=merged)
        else:
            lay_out_data(run, partial)
            write_data_card(run, partial, ids["model"], ids["dataset"])
        files = write_listing(run, partial, repo_id)
        inspect_folder(partial, [Path.home(), Path.cwd(), runs, results, out])
        sync_tree(partial)
        put_folder(partial, folder)
        repositories.append(Repository(kind, repo_id, folder, files))
    return repositories


def check_id(repo_id: str) -> str:
    """A repository id with its owner, by the Hub's own rule."""
    if holds_secret(repo_id):
        raise UserError("--to: holds a token, which is not repeated here; write OWNER/NAME, and revoke the token")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--to: {repo_id!r} is no repository id ({error}); write OWNER/NAME") from error
    if repo_id.count("/") != 1:
        raise UserError(f"--to: {repo_id!r} has no owner; write OWNER/NAME")
    return repo_id


def claim_folder(folder: Path) -> Path:
    """An empty folder beside `folder`, which must be one of ours if it is there, for it will be replaced."""
    partial = name_aside(folder, "new")
    if foreign := find_foreign(folder):
        raise UserError(f"{foreign}: exists and was not made by this command; move it away or use --out DIR")
    try:
        remove_folder(partial)
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{partial}: cannot be made ({error.strerror}); use --out DIR") from error
    return partial


def find_foreign(folder: Path) -> Path | None:
    """The first thing at a folder's place that its LISTING does not name; None also where there is nothing."""
    if not os.path.lexists(folder):
        return None
    try:
        named = {LISTING, *json.loads((folder / LISTING).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return folder
    if folder.is_symlink():
        return folder
    return next((path for name, path in list_files(folder).items() if name not in named), None)


def lay_out_model(run: FinishedRun, out: Path, *, merged: bool) -> None:
    """Adapters in folders of their own, or the whole model at the root; the processor at the root in any case.

    The RL adapter was trained on the merged cold start. At the root it would load on the plain base, which
    gives another model without a word, so neither adapter lies there.
    """
    for name in run.list_outputs("merge", "model"):
        if not is_model_file(name):
            place_output(run, "merge", name, out / Path(name).name)
    if run.settings["grpo"]["lora"] is None:
        for name in filter(is_model_file, run.list_outputs("grpo", "model")):
            place_output(run, "grpo", name, out / Path(name).name)
        return
    for folder, stage in ADAPTERS.items():
        (out / folder).mkdir()
        for name in run.list_outputs(stage, "adapter"):
            if name.endswith(".safetensors"):
                place_output(run, stage, name, out / folder / Path(name).name)
        config = out / folder / "adapter_config.json"
        place_output(run, stage, "adapter/adapter_config.json", config)
        # No path of this machine: the base, which what lies on the merged cold start has no name for.
        model = run.settings["model"] if stage == "sft" else {"path": None, "revision": None}
        base = {"base_model_name_or_path": model["path"], "revision": model["revision"]}
        write_json(config, read_json(config) | base)
    if merged:
        from migrl.stages.merge import merge_adapter  # loads torch and the model

        check_disk(out, 2 * sum(path.stat().st_size for path in (run.home / "merge" / "model").glob("*.safetensors")))
        home, start, adapter = run.home, run.home / "merge" / "model", run.home / "grpo" / "adapter"
        merge_adapter(Recipe.model_validate(run.settings), start, adapter, home / "fetch" / "data", out)


def is_model_file(name: str) -> bool:
    """Whether a file of a model folder is the model's own; the rest is tokenizer, processor and chat template."""
    return name.endswith(".safetensors") or Path(name).name in MODEL_FILES


def lay_out_data(run: FinishedRun, out: Path) -> None:
    """Both training files and the evidence, without any picture that others hold rights in."""
    place_output(run, "synthesize", "cot.jsonl", out / "cot.jsonl")
    place_output(run, "select", "rl.jsonl", out / "rl.jsonl")
    for name in [*run.evidence["files"], MANIFEST]:
        if name == "report.html" and not run.is_rendered:
            continue  # its gallery shows the benchmarks' pictures
        target = out / "evidence" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run.results / name, target)


def place_output(run: FinishedRun, stage: str, name: str, target: Path) -> None:
    """Put a stage's output at `target`, weights as a link where the disk allows.

    Raises:
        UserError: the file is not the one that the stage's manifest names.
    """
    source, output = run.home / stage / name, run.stages[stage]["outputs"].get(name)
    if output is None:
        raise UserError(f"{source}: the stage's manifest does not name it; run the stage again with --force")
    if not source.is_file() or hash_file(source) != output["sha256"]:
        raise UserError(f"{source}: missing or changed since its stage finished; run the stage again with --force")
    if source.suffix == ".safetensors":
        try:
            os.link(source.resolve(), target)
            return
        except OSError:
            check_disk(target.parent, output["size"])
    shutil.copyfile(source, target)


def write_listing(run: FinishedRun, folder: Path, repo_id: str) -> dict[str, dict[str, Any]]:
    """Write LISTING over all that is in `folder`; the files by name, itself included."""
    files = {name: describe_file(path) for name, path in list_files(folder).items()}
    head = {key: run.evidence[key] for key in ("recipe", "git_revision", "dirty")}
    write_json(folder / LISTING, {"repository": repo_id, **head, "files": files})
    return {LISTING: describe_file(folder / LISTING), **files}


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and sha256."""
    return {"size": path.stat().st_size, "sha256": hash_file(path)}
