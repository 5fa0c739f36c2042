"""What a run left behind, and the proof that its evidence speaks of exactly these weights and data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.evidence.diff import read_object
from migrl.evidence.verify import JUNK, verify_results
from migrl.files import hash_json, read_json
from migrl.recipe import Recipe
from migrl.running.stage import MANIFEST, read_manifest

SOURCE_TREE = "reproduce/"
PUBLISHED_STAGES = ("synthesize", "sft", "merge", "select", "grpo")


@dataclass(frozen=True)
class FinishedRun:
    """A verified run: its stage folders below `home`, its evidence in `results`, and what both say.

    `settings` are the recipe as it ran, by the evidence; `stages` are the manifests of PUBLISHED_STAGES.
    """

    recipe: Recipe
    home: Path
    results: Path
    evidence: dict[str, Any]
    scores: dict[str, Any]
    stages: dict[str, dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.evidence["settings"]
        return settings

    @property
    def base_on_hub(self) -> bool:
        """Whether the base model is on the Hub; else it is part of the source tree."""
        return not str(self.settings["model"]["path"]).startswith(SOURCE_TREE)

    @property
    def is_rendered(self) -> bool:
        """Whether every picture was drawn by this project, so that nobody else holds rights in it."""
        return bool(self.settings["source"]["kind"] == "world")

    @property
    def teacher(self) -> str | None:
        """The model that wrote the reasoning; None where no model of this run did."""
        model = self.settings["synthesize"]["teacher"].get("model")
        return str(model) if model else None

    def list_outputs(self, stage: str, folder: str) -> list[str]:
        """Names of a stage's output files directly in `folder`, by its manifest."""
        outputs = self.stages[stage]["outputs"]
        return [name for name in outputs if name.rpartition("/")[0] == folder]


def read_finished_run(recipe: Recipe, runs: Path, results: Path, *, allow_dirty: bool) -> FinishedRun:
    """Everything that a publication is made of, refused unless it is one whole, verified run.

    Raises:
        UserError: the recipe carries no claims, a stage or the evidence is missing, the evidence does not verify,
            belongs to another run, or was made by code that no commit holds or from a base that nobody else has.
    """
    if recipe.claims == "none":
        raise UserError(f"recipe {recipe.name!r}: it carries no claims, so there is nothing to publish")
    home, folder = runs / recipe.name, results / recipe.name
    missing = [name for name in PUBLISHED_STAGES if not (home / name / MANIFEST).is_file()]
    if missing or not (folder / MANIFEST).is_file():
        places = ", ".join(str(home / name) for name in missing) or str(folder / MANIFEST)
        raise UserError(f"{places}: not there; run `migrl reproduce --recipe {recipe.name}`, it does what is missing")
    evidence = read_object(folder / MANIFEST, dict)
    check_revision(folder, evidence, allow_dirty=allow_dirty)
    differences = verify_results(folder)
    if differences:
        raise UserError(
            f"{folder}: the evidence does not verify ({len(differences)} differences, first: {differences[0]}); "
            "restore it or run the report stage again, nothing is published before"
        )
    check_base(folder, evidence["settings"]["model"])
    stages = {name: read_manifest(home / name) for name in PUBLISHED_STAGES}
    try:
        check_provenance(home, folder, stages, evidence)
    except JUNK as error:
        raise UserError(
            f"{home}: a stage's manifest is of no form we write ({error!r}); run that stage again"
        ) from error
    return FinishedRun(recipe, home, folder, evidence, read_json(folder / "scores.json"), stages)


def check_revision(folder: Path, evidence: dict[str, Any], *, allow_dirty: bool) -> None:
    """Refuse evidence of code that no commit holds: nobody could run it again."""
    if allow_dirty or (evidence.get("git_revision") and evidence.get("dirty") is False):
        return
    state = "uncommitted changes" if evidence.get("git_revision") else "no known revision"
    raise UserError(
        f"{folder / MANIFEST}: the run was made by code with {state}; commit and run again, "
        "or use --allow-dirty, and the cards will say so"
    )


def check_base(folder: Path, model: dict[str, Any]) -> None:
    """Refuse a base model that only this machine has: nobody could load what was trained on it."""
    path = model["path"]
    if not path.startswith(SOURCE_TREE) and (path.startswith(("/", ".", "~")) or model["revision"] is None):
        raise UserError(
            f"{folder / MANIFEST}: model.path={path} is a folder of this machine; "
            "run with a Hub id and its revision, so that others have the base"
        )


def check_provenance(home: Path, folder: Path, stages: dict[str, dict[str, Any]], evidence: dict[str, Any]) -> None:
    """Refuse stage folders that are not the ones the evidence was made from, by the digests that both state."""
    known = {name: stage["digest"] for name, stage in evidence["stages"].items()}
    known["merge"] = stages["grpo"]["inputs"].get("merge")  # the evidence reaches it through grpo only
    for name, manifest in stages.items():
        hashes = {output: entry["sha256"] for output, entry in manifest["outputs"].items()}
        if manifest["digest"] != hash_json([manifest["key"], hashes]):
            raise UserError(f"{home / name / MANIFEST}: the digest does not fit the outputs; run the stage again")
        if manifest["digest"] != known.get(name):
            raise UserError(
                f"{home / name}: not the stage that {folder} was made from; "
                "run `migrl reproduce` again, or name the right folder with --runs"
            )
