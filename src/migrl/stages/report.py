"""report: scores, deltas with intervals, verdicts, figures and the HTML page.

Everything lands in one folder that `migrl reproduce` copies to `results/<recipe>`: the raw rows are
part of it, so `migrl verify` can recompute every score and verdict from them. A recipe without claims
(the rehearsal) reports what its stages cost instead.
"""

import gzip
import shutil
from pathlib import Path
from typing import Any

from migrl.claims import judge_claims, load_claims, select_claims
from migrl.evidence import StageContext, hash_file, read_json, read_manifest, write_json
from migrl.recipe import WorldSource
from migrl.records import read_jsonl
from migrl.report.build import ReportLogs, write_report
from migrl.report.measurements import collect_measurements, render_measurements
from migrl.scores import check_rows, compute_scores, load_rows
from migrl.verify import make_file_hashes
from migrl.world.picture import draw_world

LOGS = {
    "grpo_log.jsonl": ("grpo", "log.jsonl"),
    "sft_log.jsonl": ("sft", "log.jsonl"),
    "pass_rates.json": ("select", "pass_rates.json"),
    "filters.json": ("synthesize", "filters.json"),
}


def run(context: StageContext) -> dict[str, Any]:
    """Write the results folder; return the verdicts."""
    if context.recipe.claims == "none":
        return report_costs(context)
    out = context.folder
    source = context.inputs["evaluate"] / "samples.jsonl"
    rows = load_rows(source)
    check_rows(rows)
    pack_rows(source, out / "samples.jsonl.gz")
    scores = compute_scores(rows)
    claims = judge_claims(select_claims(load_claims(), context.recipe.claims), rows)
    write_json(out / "scores.json", scores)
    write_json(out / "claims.json", claims)
    for name, (stage, file) in LOGS.items():
        shutil.copyfile(context.inputs[stage] / file, out / name)
    facts = collect_facts(context)
    write_report(
        rows=rows,
        scores=scores,
        claims=claims,
        logs=ReportLogs(
            grpo=read_jsonl(out / "grpo_log.jsonl"),
            sft=read_jsonl(out / "sft_log.jsonl"),
            pass_rates=read_json(out / "pass_rates.json"),
            filters=read_json(out / "filters.json"),
        ),
        images_root=context.inputs["fetch"] / "data",
        facts=facts,
        out=out,
    )
    if isinstance(context.recipe.source, WorldSource):
        draw_world(out / "figures" / "world.png")
    write_json(out / "evidence.json", {**facts, "files": hash_results(out)})
    return {"verdicts": {claim["id"]: claim["verdict"] for claim in claims}}


def report_costs(context: StageContext) -> dict[str, Any]:
    """Write `measurements.json` and `report.md`; return the device they are of."""
    out = context.folder
    measurements = collect_measurements({name: read_manifest(folder) for name, folder in context.inputs.items()})
    write_json(out / "measurements.json", measurements)
    (out / "report.md").write_text(render_measurements(measurements), encoding="utf-8")
    write_json(out / "evidence.json", {**collect_facts(context), "files": hash_results(out)})
    return {"device": measurements["device"]}


def hash_results(out: Path) -> dict[str, str]:
    """SHA-256 of every file of the results, without working files."""
    return {name: value for name, value in make_file_hashes(out).items() if not name.startswith(".")}


def pack_rows(source: Path, target: Path) -> None:
    """Gzip without time stamp or name, so that equal rows give equal bytes."""
    with target.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
        packed.write(source.read_bytes())


def collect_facts(context: StageContext) -> dict[str, Any]:
    """Provenance: the recipe, the machine, and for each stage its key, time, memory and facts."""
    stages = {}
    machine: dict[str, Any] = {}
    for name, folder in context.inputs.items():
        manifest = read_manifest(folder)
        machine = manifest["machine"]
        stages[name] = {key: manifest[key] for key in ("key", "digest", "seconds", "peak_memory_mb", "facts")}
    lock = Path(__file__).resolve().parents[3] / "requirements.lock"
    return {
        "recipe": context.recipe.name,
        "git_revision": machine.get("revision"),
        "dirty": machine.get("dirty"),
        "lock_sha256": hash_file(lock) if lock.is_file() else None,
        "image": machine.get("image"),
        "machine": {key: machine[key] for key in ("python", "platform", "cores", "versions")},
        "settings": context.recipe.model_dump(mode="json"),
        "stages": stages,
    }
