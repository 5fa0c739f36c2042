"""Whose words and weights a publication holds, and by which licence; what nobody stated is "unknown"."""

from pathlib import Path
from typing import Any

import yaml

from migrl.data.download import SOURCES_FILE, Source, load_sources
from migrl.publish.finished import FinishedRun

MODELS_FILE = Path(__file__).with_name("models.yaml")
UNKNOWN = "unknown"


def read_models() -> dict[Any, dict[str, str]]:
    """Licences of models by their path (models.yaml)."""
    models: dict[Any, dict[str, str]] = yaml.safe_load(MODELS_FILE.read_text(encoding="utf-8"))
    return models


def read_sources(run: FinishedRun) -> dict[str, Source]:
    """The catalog of published data that the run fetched from; empty for other sources."""
    source = run.settings["source"]
    if source["kind"] != "hub":
        return {}
    return load_sources(Path(source["catalog"]) if source["catalog"] else SOURCES_FILE)


def list_licences(run: FinishedRun) -> list[dict[str, str]]:
    """What the data set repository holds words of: each origin with its uses, licence and revision."""
    source, sources, fetched = run.settings["source"], read_sources(run), find_revisions(run)
    training = (source.get("training") or {}).get("kind")
    rows: dict[str, dict[str, str]] = {}

    def add(origin: str, use: str, licence: str, revision: str | None) -> None:
        use = f"{rows[origin]['use']}, {use}" if origin in rows else use
        rows[origin] = {"origin": origin, "use": use, "licence": licence, "revision": revision or UNKNOWN}

    for name in [*([training] if training in sources else []), *source.get("benchmarks", ())]:
        for repo_id, repo in sources[name].repos.items():
            use = "training lines" if name == training else f"evidence on {name}"
            add(repo_id, use, repo.licence, fetched.get(repo_id) or repo.revision)
    if run.is_rendered:
        add("pictures and questions drawn by migrl", "training, evaluation", "Apache-2.0", "of the source code")
    elif training not in sources:
        add("training samples of a prepared folder", "training lines", UNKNOWN, None)
    if run.teacher:
        licence = read_models().get(run.teacher, {}).get("licence", UNKNOWN)
        add(run.teacher, "wrote the reasoning", licence, run.settings["synthesize"]["teacher"].get("revision"))
    return list(rows.values())


def find_revisions(run: FinishedRun) -> dict[str, str]:
    """The commit of each repository that the run fetched, by the evidence of its first stage."""
    facts = run.evidence["stages"]["fetch"]["facts"]
    parts = [*facts.get("benchmarks", {}).values(), facts.get("training", {})]
    found = [part["revisions"] for part in parts if isinstance(part, dict) and "revisions" in part]
    return {repo: commit for revisions in found for repo, commit in revisions.items() if commit}
