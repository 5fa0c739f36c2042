"""Results done again from their raw completions: scores, tables, verdicts, levels, `report.md`; and where they differ.

`report.html` and the figures hold the benchmarks' pictures, which are not kept: nothing here makes them again. Needs no
model and no GPU. A difference is a sentence. What cannot be read, and arms that cannot be compared, are
differences too: the sentence then is the refusal, and what follows from it is left out.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from migrl.claims.claims import CLAIMS_FILE, Claim, load_claims, load_levels, select_claims, select_levels
from migrl.claims.references import check_deltas, load_references
from migrl.claims.verdicts import judge_claims, judge_levels
from migrl.errors import UserError
from migrl.evidence.diff import REMEDY, collect, compare, compare_text, read_object
from migrl.evidence.evaluations import EVALUATIONS, SERVER, Evaluation, read_evaluations
from migrl.evidence.measurements import CARDS, MEASUREMENTS, PAGE, render_measurements
from migrl.evidence.not_run import render_not_run
from migrl.evidence.rows_fit import check_rows_fit
from migrl.evidence.seal import TREE, list_files
from migrl.files import explain_fault
from migrl.progress import show_progress
from migrl.recipe import Recipe, load_recipe
from migrl.report.markdown import write_markdown
from migrl.report.scores import list_score_lines
from migrl.report.text import order_arms
from migrl.running.stage import MANIFEST, join_weights
from migrl.scoring.comparable import ComparableRows, index_rows
from migrl.scoring.rows import EvaluationRow, load_rows, name_arm, rescore_row
from migrl.scoring.scores import compute_scores

SAMPLES = "samples.jsonl.gz"
RECIPES = CLAIMS_FILE.parent / "recipes"
STORED: dict[str, type] = {"scores": dict, "claims": list, "levels": list, "references": dict}
"""What stands beside the rows, a JSON file each: the first three follow from them."""
TABLE_TOLERANCE = 2e-4
JUDGED_FILES = ("claims.json", "levels.json", "references.json", "scores.json", EVALUATIONS, SAMPLES, "samples.jsonl")
"""What a folder of measured costs cannot hold, for nothing there would be checked by its rows."""
PARTS_FILES = (MEASUREMENTS, PAGE)
NOT_RUN_FILES = ("README.md", "claims.json", "levels.json")


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
        raise UserError(f"{folder / MANIFEST}: {explain_fault(error, 'settings')}; {REMEDY}") from error
    differences = list(check_name(folder, recipe))
    if recipe.claims == "none":
        done, found = recompute_costs(folder)
        return done, differences + found
    rows = load_rows(folder / SAMPLES)
    stored = {name: read_object(folder / f"{name}.json", kind) for name, kind in STORED.items()}

    differences += compare_coverage(rows, manifest, recipe)
    evaluations = collect(differences, lambda: read_evaluations(folder / EVALUATIONS))
    if evaluations is not None:
        collect(differences, lambda: check_rows_fit(evaluations, rows))
        differences += compare_weights(evaluations, manifest, recipe)
    claims = select_claims(load_claims(claims_file), recipe.claims)
    levels = select_levels(load_levels(claims_file), recipe.claims)
    deltas = collect(differences, lambda: check_deltas(stored["references"].get("deltas"), "references.json"))
    follow: dict[str, Callable[[ComparableRows], Any]] = {
        "scores": compute_scores,
        "claims": lambda rows: judge_claims(claims, rows, deltas, resamples=recipe.resamples),
        "levels": lambda rows: judge_levels(levels, rows),
    }
    if (references / folder.name).is_dir():
        follow["references"] = lambda _: load_references(references / folder.name, recipe)
    made: dict[str, Any] = {"evaluations": evaluations}
    with show_progress(f"checking {folder.name}", len(rows) * (1 + len(follow)), quick=True) as progress:
        rescored = []
        for number, row in enumerate(rows, 1):
            rescored.append(rescore_row(row))
            differences += compare_scoring(row, rescored[-1])
            progress.tell(number)
        indexed = collect(differences, partial(index_rows, rescored, recipe.served))
        for passes, (name, make) in enumerate(follow.items(), 2):
            made[name] = None if indexed is None else collect(differences, partial(make, indexed))
            if made[name] is not None:
                differences += compare(stored[name], made[name], f"{name}.json")
            progress.tell(passes * len(rows))
    if None not in made.values():
        page = render_page(made["scores"], made["claims"], made["levels"], made["evaluations"], manifest)
        differences += compare_text(folder / PAGE, page, "the samples and the manifest give")
    what = f"{len(rows):,} completions scored again, {len(claims)} claims and {len(levels)} levels judged again"
    what += f", {len(evaluations or ())} evaluations compared, {PAGE} written again; other files by hash alone"
    return what, differences


def compare_scoring(row: EvaluationRow, again: EvaluationRow) -> Iterator[str]:
    """A sentence for each part of a row's score that its completion does not give."""
    if row.score != again.score:
        stored, made = row.score.to_json(), again.score.to_json()
        for key in stored:
            yield from compare(stored[key], made[key], f"{SAMPLES}, {row.who}, sample {row.sample.uid!r}: {key}")


def check_name(folder: Path, recipe: Recipe) -> Iterator[str]:
    """A sentence if a folder of a tree has not the name of its recipe; a copy elsewhere may have any."""
    folder = folder.resolve()
    if (folder.parent / TREE).exists() and folder.name != recipe.name:
        yield f"{MANIFEST}: key 'settings.name' is {recipe.name!r}, the folder's name {folder.name!r}"


def compare_coverage(rows: Sequence[EvaluationRow], manifest: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    """A sentence for each arm and seed of the recipe whose rows are not as many as stage evaluate answered.

    Rows of an arm or seed that the recipe has not are named too. With the number the benchmarks are all there.
    """
    seeds: Sequence[int | None] = [recipe.grpo.seed, *recipe.seeds] if recipe.seeds else [None]
    due = {(arm, seed) for arm in recipe.evaluate.arms for seed in (seeds if recipe.is_trained(arm) else [None])}
    counts = Counter((row.arm, row.seed) for row in rows)
    for arm, seed in sorted(due | counts.keys(), key=str):
        where = f"{SAMPLES}, {name_arm(arm, seed)}"
        place, stage = find_stage(manifest, "evaluate", seed, recipe)
        facts = stage.get("facts")
        answered = facts.get("samples") if isinstance(facts, dict) else None
        if (arm, seed) not in due:
            yield f"{where}: the manifest's settings (evaluate.arms, seeds) have no such arm"
        elif counts[arm, seed] != answered:
            yield f"{where}: {counts[arm, seed]} rows, stage {place} of the manifest answered {answered} samples"


def find_stage(manifest: Mapping[str, Any], name: str, seed: int | None, recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The place of a stage of a training seed, and what the manifest holds of it: nothing if it is missing."""
    place = name if seed in (None, recipe.grpo.seed) else f"seed_{seed}/{name}"
    stages = manifest.get("stages")
    stage = stages.get(place) if isinstance(stages, dict) else None
    return place, stage if isinstance(stage, dict) else {}


def compare_weights(evaluations: Sequence[Evaluation], manifest: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    """A sentence for each arm whose weights are not those of the stages that the manifest names."""
    for entry in evaluations:
        if entry["arm"] not in recipe.evaluate.arms:
            continue  # its rows are named
        arm, who = recipe.find_arm(entry["arm"]), name_arm(entry["arm"], entry["seed"])
        if (entry["engine"] == SERVER) != (arm.server is not None):
            yield f"{EVALUATIONS}, {who}: engine: {entry['engine']} stored, the manifest's settings say otherwise"
        if arm.server is not None:
            continue  # nobody here has its weights
        adapted = arm.pool is not None and recipe.with_arm(arm.name).grpo.lora is not None
        places = ("fetch", *arm.weights)[-2 if adapted else -1 :][::-1]
        stages = [find_stage(manifest, name, None if name == "fetch" else entry["seed"], recipe) for name in places]
        made, *under = hashes = [stage.get("weights") for _, stage in stages]
        known = None if None in hashes else join_weights(under[0], made) if under else made
        if entry["weights"] != known:
            where = f"{EVALUATIONS}, {who}: weights"
            yield f"{where}: {entry['weights']} stored, stage {stages[0][0]} of the manifest made {known}"


def render_page(
    scores: Mapping[str, Any],
    claims: Sequence[Mapping[str, Any]],
    levels: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Evaluation],
    facts: Mapping[str, Any],
) -> str:
    """`report.md` from what stands beside it; `facts` is the manifest."""
    return write_markdown(claims, levels, list_score_lines(scores, order_arms(scores)), evaluations, facts)


def recompute_costs(folder: Path) -> tuple[str, list[str]]:
    """The same for a folder of a recipe without claims, which holds what its stages cost."""
    text = render_measurements(read_object(folder / MEASUREMENTS, dict))
    differences = list(compare_text(folder / PAGE, text, f"{MEASUREMENTS} gives"))
    for name in JUDGED_FILES:
        if (folder / name).exists():
            differences.append(f"{name}: cannot lie here, the manifest's settings.claims is 'none'")
    return f"measured costs and no claim, {PAGE} written again", differences


def recompute_parts(folder: Path) -> tuple[str, list[str]]:
    """The same for a folder of parts that were measured alone, beside which no stage's figures can stand."""
    data = read_object(folder / MEASUREMENTS, dict)
    differences = list(compare_text(folder / PAGE, render_measurements(data), f"{MEASUREMENTS} gives"))
    if set(data) != {CARDS}:
        differences.append(
            f"{MEASUREMENTS}: holds more than {CARDS!r}, and no {MANIFEST} says what the rest is made of"
        )
    differences += [f"{name}: belongs to no such folder" for name in list_files(folder) if name not in PARTS_FILES]
    return f"measured parts and no claim, {PAGE} written again", differences


def recompute_calibration(folder: Path) -> tuple[str, list[str]]:
    """The same for the calibration's table; its simulation takes minutes and is not done again."""
    from migrl.claims.calibration.write import render_table  # loads what a simulation needs

    text = render_table(read_object(folder / "table.json", dict))
    return "table.md written again", list(compare_text(folder / "table.md", text, "table.json gives"))


def recompute_not_run(folder: Path, claims_file: Path = CLAIMS_FILE) -> tuple[str, list[str]]:
    """The same for a folder that only states claims: with nothing measured, no number may stand there."""
    judged = read_object(folder / "claims.json", list)
    due = find_due_claims(judged, claims_file)
    if not due:
        return "not run", [f"claims.json: holds no claim of {claims_file.name}"]
    nothing = ComparableRows({})
    entries = judge_claims(due, nothing)
    levels = judge_levels(select_levels(load_levels(claims_file), due[0].recipe), nothing)
    differences = list(compare(judged, entries, "claims.json"))
    stored = collect(differences, lambda: read_object(folder / "levels.json", list))
    if stored is not None:
        differences += compare(stored, levels, "levels.json")
    others = [name for name in list_files(folder) if name not in NOT_RUN_FILES]
    differences += [f"{name}: belongs to no folder of a recipe that was not run" for name in others]
    done = f"not run; {len(due)} claims say so, and there is no number to check"
    path = RECIPES / f"{folder.resolve().name}.yaml"
    if not path.is_file():
        return f"{done}; README.md by its hash alone, for {path.name} is no recipe here", differences
    page = render_not_run(load_recipe(path), entries, levels)
    differences += compare_text(folder / "README.md", page, f"`migrl not-run --recipe {path.stem}` writes")
    return f"{done}; README.md written again", differences


def find_due_claims(judged: list[Any], claims_file: Path) -> list[Claim]:
    """Every claim of the recipe whose claims a folder holds: a claim left out is a difference."""
    claims = load_claims(claims_file)
    ids = {entry.get("id") for entry in judged if isinstance(entry, dict)}
    recipes = {claim.recipe for claim in claims if claim.id in ids}
    return [claim for claim in claims if claim.recipe in recipes]


def recompute_answers(folder: Path) -> tuple[str, list[str]]:
    """The same for answers that only engines are compared by: they give their scores, by the settings beside them."""
    rows, differences = load_rows(folder / SAMPLES), list[str]()
    for row in rows:
        differences += compare_scoring(row, rescore_row(row))
    collect(differences, lambda: check_rows_fit(read_evaluations(folder / EVALUATIONS), rows))
    return f"{len(rows):,} completions scored again", differences


def recompute_reference(folder: Path) -> tuple[str, list[str]]:
    """The same for one reference run: its completions give the scores, and macro deltas follow from these tables.

    A table's percentages are rounded to four decimals, so two of them differ by the delta within TABLE_TOLERANCE. Runs
    of older code have no completions; their scores are taken as they are.
    """
    scores, entries = read_object(folder / "scores.json", dict), read_object(folder / "claims.json", list)
    differences: list[str] = []
    count, scored = 0, "no completions kept"
    if (folder / SAMPLES).exists():
        rows = load_rows(folder / SAMPLES)
        again = [rescore_row(row) for row in rows]
        for row, other in zip(rows, again, strict=True):
            differences += compare_scoring(row, other)
        differences += compare(scores, compute_scores(index_rows(again)), "scores.json")
        scored = f"{len(rows):,} completions scored again"
    for number, entry in enumerate(entries):
        try:
            if entry.get("delta") is None or entry.get("averaging", "macro") != "macro":
                continue
            if entry.get("tasks") or (entry.get("rule", "strict"), entry.get("pairs", "all")) != ("strict", "all"):
                continue
            means = [average_tasks(scores[entry[arm]], entry["benchmarks"]) for arm in ("minuend", "subtrahend")]
            delta = means[0] - means[1]
            alike = abs(delta - entry["delta"]) <= TABLE_TOLERANCE
        except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
            differences.append(f"claims.json[{number}]: scores.json has not what it compares ({error!r})")
            continue
        count += 1
        if not alike:  # no number is like NaN
            differences.append(f"claims.json[{number}].delta: {entry['delta']} stored, {delta:.4f} by scores.json")
    return f"{scored}, {count} deltas follow from the scores", differences


def average_tasks(scores: Mapping[str, Any], benchmarks: Sequence[str]) -> float:
    """Mean accuracy over the tasks of some benchmarks, percent."""
    values = [task["accuracy"] for name in benchmarks for task in scores[name]["tasks"].values()]
    return float(sum(values) / len(values))
