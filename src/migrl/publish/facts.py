"""What the cards state, drawn from the evidence and cards.yaml; what neither knows is "unknown"."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult

from migrl.claims.claims import CLAIMS_FILE
from migrl.data.download import SOURCES_FILE, Source, load_sources
from migrl.publish.finished import FinishedRun
from migrl.recipe import load_recipe

PAPER_RECIPE = CLAIMS_FILE.parent / "recipes" / "paper.yaml"
FINAL_ARM = "rl"
UNKNOWN = "unknown"


def read_facts() -> dict[str, Any]:
    """Licences and origins of settings (cards.yaml)."""
    facts: dict[str, Any] = yaml.safe_load((Path(__file__).with_name("cards.yaml")).read_text(encoding="utf-8"))
    return facts


def list_results(run: FinishedRun) -> list[EvalResult]:
    """The final arm's accuracies of scores.json, for the metadata's model-index."""
    sources = read_sources(run)
    results = []
    for benchmark, score in run.scores.get(FINAL_ARM, {}).items():
        repo = next((file.repo for file in sources[benchmark].files), None) if benchmark in sources else None
        results.append(
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=repo or benchmark,
                dataset_name=benchmark,
                dataset_config=benchmark,
                dataset_revision=sources[benchmark].repos[repo].revision if repo else None,
                metric_type="accuracy",
                metric_name="macro accuracy, strict reading (%)",
                metric_value=score["macro"],
            )
        )
    return results


def read_sources(run: FinishedRun) -> dict[str, Source]:
    """The catalog of published data that the run fetched from; empty for other sources."""
    source = run.settings["source"]
    if source["kind"] != "hub":
        return {}
    return load_sources(Path(source["catalog"]) if source["catalog"] else SOURCES_FILE)


def name_teacher(settings: dict[str, Any]) -> str | None:
    """The model that wrote the reasoning; None where no model of this run did."""
    model = settings["synthesize"]["teacher"].get("model")
    return str(model) if model else None


def describe_reasoning(run: FinishedRun) -> str:
    """Where the reasoning comes from, in words."""
    if teacher := name_teacher(run.settings):
        return f"written by {teacher}, which saw question, images and the true box and was to write as if it did not"
    if run.is_rendered:
        return "written by a script that knows the rendered scene and errs on purpose at stated rates"
    return "published with the training data"


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
    if teacher := name_teacher(run.settings):
        licence = read_facts()["models"].get(teacher, {}).get("licence", UNKNOWN)
        add(teacher, "wrote the reasoning", licence, find_setting(run.settings, "synthesize.teacher.revision"))
    return list(rows.values())


def find_revisions(run: FinishedRun) -> dict[str, str]:
    """The commit of each repository that the run fetched, by the evidence of its first stage."""
    facts = run.evidence["stages"]["fetch"]["facts"]
    parts = [*facts.get("benchmarks", {}).values(), facts.get("training", {})]
    found = [part["revisions"] for part in parts if isinstance(part, dict) and "revisions" in part]
    return {repo: commit for revisions in found for repo, commit in revisions.items() if commit}


def compare_settings(settings: dict[str, Any], known: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Rows of the settings table: label, key, value, and whether it is the paper's, assumed, or the recipe's own."""
    paper = load_recipe(PAPER_RECIPE).model_dump(mode="json")
    rows = []
    for entry in known:
        value = find_setting(settings, entry["key"])
        if value is not None:
            same = value == find_setting(paper, entry["key"])
            own = f"own value of recipe {settings['name']}"
            rows.append({**entry, "value": show_setting(value), "source": entry["source"] if same else own})
    return rows


def show_setting(value: Any) -> str:
    """A value of a recipe; of a list of mappings, such as the rewards, the values alone: `accuracy 1.0, format 1.0`."""
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return ", ".join(" ".join(str(part) for part in item.values()) for item in value)
    return str(value)


def find_setting(settings: dict[str, Any], key: str) -> Any:
    """A dotted key's value; None where a part of it is not there."""
    node: Any = settings
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def list_times(run: FinishedRun) -> list[dict[str, Any]]:
    """Wall-clock seconds and peak memory of each stage, by the evidence and, for `merge`, its manifest."""
    stages = {**run.evidence["stages"], "merge": run.stages["merge"]}
    return [
        {"stage": name, "seconds": stages[name]["seconds"], "memory": stages[name]["peak_memory_mb"]}
        for name in ("fetch", "synthesize", "sft", "merge", "select", "grpo", "pass_rates", "evaluate")
        if name in stages
    ]


def describe_seeds(settings: dict[str, Any]) -> str:
    """What the numbers say of the choice of the training seed."""
    further, own = settings.get("seeds") or [], settings["grpo"]["seed"]
    if not further:
        return "One training run with one seed; the intervals cover the choice of samples, not of the seed."
    seeds = ", ".join(map(str, [own, *further]))
    return f"The numbers are of {len(further) + 1} training runs, with seeds {seeds}; the weights are of seed {own}."


def list_limits(run: FinishedRun) -> list[str]:
    """What the numbers do not show, said from the numbers."""
    limits = []
    for verdict in ("direction only", "not reproduced", "inconclusive", "not run"):
        ids = [claim["id"] for claim in run.claims if claim["verdict"] == verdict]
        if ids:
            limits.append(f'Claims with the verdict "{verdict}": {", ".join(ids)}.')
    if run.is_rendered:
        limits.append("Trained and tested on a rendered world of coloured shapes only: of no use on photographs.")
    limits.append(describe_seeds(run.settings))
    for arm in [FINAL_ARM] if FINAL_ARM in run.scores else []:
        for benchmark, score in run.scores[arm].items():
            if score["parse_rate"] < 95:
                limits.append(f"On {benchmark} {100 - score['parse_rate']:.1f} % of its answers cannot be read.")
    limits.append("No test of safety, of bias, or of any language but English was made.")
    return limits
