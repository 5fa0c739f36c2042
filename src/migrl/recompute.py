"""Results done again from their raw completions: scores, tables, verdicts and levels, and where they differ.

Needs no model and no GPU. A difference is a sentence. What cannot be read, and arms that cannot be compared, are
differences too: the sentence then is the refusal, and what follows from it is left out.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.progress import Progress

from migrl.claims import CLAIMS_FILE, Claim, load_claims, load_levels, select_claims
from migrl.errors import UserError
from migrl.evaluations import EVALUATIONS, Evaluation, check_rows_fit, read_evaluations
from migrl.evidence import MANIFEST
from migrl.recipe import Recipe
from migrl.references import load_references
from migrl.report.measurements import render_measurements
from migrl.scores import Row, compute_scores, load_rows, name_arm, rescore_row
from migrl.verdicts import judge_claims, judge_levels

SAMPLES = "samples.jsonl.gz"
STORED: dict[str, type] = {"scores": dict, "claims": list, "levels": list, "references": dict}
"""What stands beside the rows, a JSON file each: the first three follow from them."""
SCORED_KEYS = ("status", "image", "boxes", "letter", "iou", "hit")
ARM_STAGES = {"base": "fetch", "sft": "merge", "sft_direct": "merge_direct"}
"""The stage that made an arm's weights; those of `rl...` are made by `grpo...`."""
TABLE_TOLERANCE = 2e-4
MANY_ROWS = 8_000  # about what is scored, averaged and judged in five seconds
_REMEDY = "restore the folder or run the report stage again"


def recompute_run(folder: Path, references: Path, claims_file: Path = CLAIMS_FILE) -> tuple[str, list[str]]:
    """What was done again in a folder of measured results, in words, and every difference.

    Args:
        references: the reference runs of all recipes; where the recipe has none there, the stored ones are taken.

    Raises:
        UserError: a file without which nothing can be done again is missing, torn or of another form.
    """
    manifest = read_object(folder / MANIFEST, dict)
    try:
        recipe = Recipe.model_validate(manifest.get("settings"))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("settings", *first["loc"]))
        raise UserError(f"{folder / MANIFEST}: key {key!r}: {first['msg']}; {_REMEDY}") from error
    if recipe.claims == "none":
        return recompute_costs(folder)
    rows = load_rows(folder / SAMPLES)
    stored = {name: read_object(folder / f"{name}.json", kind) for name, kind in STORED.items()}

    differences: list[str] = []
    evaluations = collect(differences, lambda: read_evaluations(folder / EVALUATIONS)) or []
    if evaluations:
        collect(differences, lambda: check_rows_fit(evaluations, rows))
        differences += compare_weights(evaluations, manifest.get("stages", {}), recipe)
    claims = select_claims(load_claims(claims_file), recipe.claims)
    levels = load_levels(claims_file) if recipe.claims == "paper" else ()
    deltas = stored["references"].get("deltas")
    rescored: list[Row] = []
    follow: dict[str, Callable[[], Any]] = {
        "scores": lambda: compute_scores(rescored),
        "claims": lambda: judge_claims(
            claims, rescored, deltas if isinstance(deltas, dict) else {}, resamples=recipe.resamples
        ),
        "levels": lambda: judge_levels(levels, rescored),
    }
    if (references / folder.name).is_dir():
        follow["references"] = lambda: load_references(references / folder.name, recipe)
    with Progress(transient=True, disable=len(rows) < MANY_ROWS) as progress:
        bar = progress.add_task(f"checking {folder.name}", total=len(rows) * (1 + len(follow)))
        for row in rows:
            rescored.append(rescore_row(row))
            for key in SCORED_KEYS:
                place = f"{SAMPLES}, {name_arm(row)}, sample {row['uid']!r}: {key}"
                differences += compare(row[key], rescored[-1][key], place)
            progress.advance(bar)
        for name, make in follow.items():
            again = collect(differences, make)
            if again is not None:
                differences += compare(stored[name], again, f"{name}.json")
            progress.advance(bar, len(rows))
    what = f"{len(rows):,} completions scored again, {len(claims)} claims and {len(levels)} levels judged again"
    # Rows that cannot be compared are refused more than once.
    return f"{what}, {len(evaluations)} evaluations compared", list(dict.fromkeys(differences))


def collect(differences: list[str], check: Callable[[], Any]) -> Any:
    """What a check gives; its refusal becomes a difference."""
    try:
        return check()
    except UserError as error:
        differences.append(str(error))
        return None


def compare_weights(evaluations: Sequence[Evaluation], stages: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    """A sentence for each arm whose weights are not those of the stage that the manifest names."""
    for entry in evaluations:
        arm, seed = entry["arm"], entry["seed"]
        stage = ARM_STAGES.get(arm, "grpo" + arm.removeprefix("rl"))
        place = stage if seed in (None, recipe.grpo.seed) else f"seed_{seed}/{stage}"
        digest = stages.get(place, {}).get("digest")
        if entry["weights"] != digest:
            where = f"{EVALUATIONS}, {name_arm(entry)}: weights"
            yield f"{where}: {entry['weights']} stored, stage {place} of the manifest made {digest}"


def recompute_costs(folder: Path) -> tuple[str, list[str]]:
    """The same for a folder of a recipe without claims, which holds what its stages cost."""
    text = render_measurements(read_object(folder / "measurements.json", dict))
    same = (folder / "report.md").read_bytes() == text.encode()
    differences = [] if same else ["report.md: is not what measurements.json gives"]
    return "measured costs and no claim, report.md written again", differences


def recompute_not_run(folder: Path, claims_file: Path = CLAIMS_FILE) -> tuple[str, list[str]]:
    """The same for a folder that only states claims: with nothing measured, no number may stand there."""
    judged = read_object(folder / "claims.json", list)
    due = find_due_claims(judged, claims_file)
    if not due:
        return "not run", [f"claims.json: holds no claim of {claims_file.name}"]
    differences = list(compare(judged, judge_claims(due, []), "claims.json"))
    levels = folder / "levels.json"
    if levels.exists():
        again = judge_levels(load_levels(claims_file), [])
        differences += compare(read_object(levels, list), again, levels.name)
    return f"not run; {len(due)} claims say so, and there is no number to check", differences


def find_due_claims(judged: list[Any], claims_file: Path) -> list[Claim]:
    """Every claim of the recipe whose claims a folder holds: a claim left out is a difference."""
    claims = load_claims(claims_file)
    ids = {entry.get("id") for entry in judged if isinstance(entry, dict)}
    recipes = {claim.recipe for claim in claims if claim.id in ids}
    return [claim for claim in claims if claim.recipe in recipes]


def recompute_reference(folder: Path) -> tuple[str, list[str]]:
    """The same for one reference run, of which scores and claims are kept: macro deltas follow from the tables.

    A table's percentages are rounded to four decimals, so two of them differ by the delta within TABLE_TOLERANCE.
    """
    scores, entries = read_object(folder / "scores.json", dict), read_object(folder / "claims.json", list)
    differences, count = [], 0
    for number, entry in enumerate(entries):
        if entry.get("delta") is None or entry.get("averaging", "macro") != "macro":
            continue
        if entry.get("tasks") or entry.get("rule", "strict") != "strict":
            continue
        try:
            means = [average_tasks(scores[entry[arm]], entry["benchmarks"]) for arm in ("minuend", "subtrahend")]
            delta = means[0] - means[1]
        except (KeyError, TypeError, ZeroDivisionError) as error:
            differences.append(f"claims.json[{number}]: scores.json has not what it compares ({error!r})")
            continue
        count += 1
        if abs(delta - entry["delta"]) > TABLE_TOLERANCE:
            differences.append(f"claims.json[{number}].delta: {entry['delta']} stored, {delta:.4f} by scores.json")
    return f"{count} deltas follow from the scores", differences


def average_tasks(scores: Mapping[str, Any], benchmarks: Sequence[str]) -> float:
    """Mean accuracy over the tasks of some benchmarks, percent."""
    values = [task["accuracy"] for name in benchmarks for task in scores[name]["tasks"].values()]
    return float(sum(values) / len(values))


def compare(stored: Any, again: Any, where: str) -> Iterator[str]:
    """One sentence for each place where two JSON values differ; true is not 1 here."""
    if isinstance(stored, dict) and isinstance(again, dict):
        for key in sorted(stored.keys() | again.keys()):
            if key not in again:
                yield f"{where}.{key}: stored, but does not follow from the samples"
            elif key not in stored:
                yield f"{where}.{key}: missing"
            else:
                yield from compare(stored[key], again[key], f"{where}.{key}")
    elif isinstance(stored, list | tuple) and isinstance(again, list | tuple):
        if len(stored) != len(again):
            yield f"{where}: {len(stored)} entries stored, {len(again)} recomputed"
        for number, (old, new) in enumerate(zip(stored, again, strict=False)):
            yield from compare(old, new, f"{where}[{number}]")
    elif stored != again or isinstance(stored, bool) != isinstance(again, bool):
        yield f"{where}: {json.dumps(stored)} stored, {json.dumps(again)} recomputed"


def read_object(path: Path, kind: type) -> Any:
    """Decoded JSON of the given type.

    Raises:
        UserError: the file is missing, torn, or holds another type.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {_REMEDY}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: torn or not JSON ({error}); {_REMEDY}") from error
    if not isinstance(data, kind):
        raise UserError(f"{path}: must be a JSON {kind.__name__}, not {type(data).__name__}; {_REMEDY}")
    return data
