"""report: scores, deltas with intervals, verdicts, figures and the HTML page.

Everything lands in one folder that `migrl reproduce` copies to `results/<recipe>`: the raw rows are
part of it, so `migrl verify` can recompute every score and verdict from them. A recipe without claims
(the rehearsal) reports what its stages cost instead.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from migrl.claims.claims import load_claims, load_levels, select_claims, select_levels
from migrl.claims.references import RECIPE_FILE, REFERENCE_RUNS, list_runs, load_references
from migrl.claims.verdicts import judge_claims, judge_levels
from migrl.errors import UserError
from migrl.evidence.evaluations import EVALUATIONS, check_evaluations
from migrl.evidence.measurements import MEASUREMENTS, PAGE, collect_measurements, render_measurements
from migrl.evidence.provenance import describe_provenance
from migrl.evidence.rows_fit import check_rows_fit
from migrl.evidence.seal import make_file_hashes, seal
from migrl.evidence.seeds import join_lists, read_evaluated_rows
from migrl.files import read_json, read_jsonl, write_json, write_text
from migrl.grounding.samples import read_samples
from migrl.recipe import Recipe, WorldSource
from migrl.recipe.arms import name_kind
from migrl.report.build import ReportLogs, write_report
from migrl.report.rollouts import build_rollouts
from migrl.running.stage import StageContext, read_manifest
from migrl.scoring.comparable import ComparableRows, index_rows
from migrl.scoring.rows import load_rows, pack_rows, rescore_row
from migrl.scoring.scores import compute_scores
from migrl.world.picture import draw_world

ROLLOUTS = "rollouts.jsonl"  # not of a run that kept none
LOGS = {
    "pass_rates.json": ("select", "pass_rates.json"),
    "filters.json": ("synthesize", "filters.json"),
    "pass_rates_after.json": ("pass_rates", "pass_rates_after.json"),
}


def run(context: StageContext) -> dict[str, Any]:
    """Write the results folder; return the verdicts."""
    if context.recipe.claims == "none":
        return report_costs(context)
    out = context.folder
    rows = read_evaluated_rows(context.inputs)
    evaluations = join_lists(context.inputs, EVALUATIONS)
    check_evaluations(evaluations)
    check_rows_fit(evaluations, rows)
    pack_rows(rows, out / "samples.jsonl.gz")
    write_json(out / EVALUATIONS, evaluations)
    references = load_references(REFERENCE_RUNS / context.recipe.name, context.recipe)
    write_json(out / "references.json", references)
    scores, claims, levels = judge_rows(context.recipe, index_rows(rows, context.recipe.served), references["deltas"])
    write_json(out / "scores.json", scores)
    write_json(out / "claims.json", claims)
    write_json(out / "levels.json", levels)
    for name, path in list_logs(context.inputs).items():
        shutil.copyfile(path, out / name)
    kept, data = out / ROLLOUTS, context.inputs["fetch"] / "data"
    pool = data / "rl.jsonl"
    facts = collect_facts(context)
    write_report(
        rows=rows,
        scores=scores,
        claims=claims,
        levels=levels,
        evaluations=evaluations,
        logs=read_logs(out, list_trainings(context.inputs)),
        images_root=data,
        facts=facts,
        out=out,
        rollouts=build_rollouts(read_jsonl(kept), read_samples(pool), data) if kept.exists() else None,
    )
    if isinstance(context.recipe.source, WorldSource):
        draw_world(out / "figures" / "world.png")
    write_json(out / "evidence.json", seal({**facts, "files": hash_results(out)}))
    return {"verdicts": {claim["id"]: claim["verdict"] for claim in claims}}


def judge_rows(
    recipe: Recipe, rows: ComparableRows, reference_deltas: dict[str, list[float]]
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """The content of scores.json, claims.json and levels.json."""
    claims = judge_claims(
        select_claims(load_claims(), recipe.claims), rows, reference_deltas, resamples=recipe.resamples
    )
    levels = judge_levels(select_levels(load_levels(), recipe.claims), rows)
    return compute_scores(rows), claims, levels


def rescore_references(folder: Path) -> Iterator[str]:
    """Write each reference run's rows, scores and claims anew from its completions; a sentence for each.

    Raises:
        UserError: no such runs, or settings that are none.
    """
    runs = list_runs(folder)
    if not runs:
        raise UserError(f"{folder}: no reference runs there; name the folder of one recipe's")
    try:
        recipe = Recipe.model_validate(read_json(folder / RECIPE_FILE))
    except ValidationError as error:
        raise UserError(f"{folder / RECIPE_FILE}: not a recipe's settings ({error}); run `make seeds`") from error
    for run in (folder / name for name in runs):
        path = run / "samples.jsonl.gz"
        if not path.exists():
            yield f"{run}: no completions are kept; run `make seeds SEEDS={run.name.removeprefix('seed_')}`"
            continue
        before = load_rows(path)
        rows = [rescore_row(row) for row in before]
        pack_rows(rows, path)
        scores, claims, _ = judge_rows(recipe, index_rows(rows, recipe.served), {})
        write_json(run / "scores.json", scores)
        write_json(run / "claims.json", claims)
        changed = sum(row != old for row, old in zip(rows, before, strict=True))
        yield f"{run}: {changed} of {len(rows)} answers are read otherwise"


def list_trainings(inputs: Mapping[str, Path]) -> list[str]:
    """The main chain's stages that train: RL, the cold start, then those that other arms have for themselves."""
    main = [name for name in ("grpo", "sft") if name in inputs]
    return [*main, *(name for name in inputs if name not in main and name_kind(name) in ("grpo", "sft"))]


def list_logs(inputs: Mapping[str, Path]) -> dict[str, Path]:
    """Name in the results -> what a stage left; of stages that were planned."""
    logs = {f"{name}_log.jsonl": inputs[name] / "log.jsonl" for name in list_trainings(inputs)}
    logs |= {name: inputs[stage] / file for name, (stage, file) in LOGS.items() if stage in inputs}
    rollouts = inputs["grpo"] / ROLLOUTS if "grpo" in inputs else None
    return logs | ({ROLLOUTS: rollouts} if rollouts and rollouts.exists() else {})


def read_logs(out: Path, trainings: list[str]) -> ReportLogs:
    """What the stages left, as copied into the results; a stage that was not planned left nothing."""
    after = out / "pass_rates_after.json"
    return ReportLogs(
        training={name: read_jsonl(out / f"{name}_log.jsonl") for name in trainings},
        pass_rates=read_json(out / "pass_rates.json"),
        filters=read_json(out / "filters.json"),
        pass_rates_after=read_json(after) if after.exists() else None,
    )


def report_costs(context: StageContext) -> dict[str, Any]:
    """Write `measurements.json` and `report.md`; return the device they are of."""
    out = context.folder
    measurements = collect_measurements({name: read_manifest(folder) for name, folder in context.inputs.items()})
    write_json(out / MEASUREMENTS, measurements)
    write_text(out / PAGE, render_measurements(measurements))
    write_json(out / "evidence.json", seal({**collect_facts(context), "files": hash_results(out)}))
    return {"device": measurements["device"]}


def hash_results(out: Path) -> dict[str, str]:
    """SHA-256 of every file of the results, without working files."""
    return {name: value for name, value in make_file_hashes(out).items() if not name.startswith(".")}


def collect_facts(context: StageContext) -> dict[str, Any]:
    """Provenance: code, machine, seeds, prompts, model, data, settings, and what each stage was and cost."""
    manifests = {name: read_manifest(folder) for name, folder in context.inputs.items()}
    return describe_provenance(context.recipe, manifests)
