"""Write the report: one HTML file that needs nothing else, a short Markdown twin, and the figures."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from migrl.grounding.answers import READABLE, STATUSES
from migrl.report.answers_picture import draw_answers
from migrl.report.explorer import Entry, Explorer, build_explorer
from migrl.report.forest import lay_out_forest
from migrl.report.heat import build_heat, list_pairs
from migrl.report.machine import list_code_facts
from migrl.report.markdown import write_markdown
from migrl.report.outcomes import Outcome, group_rows
from migrl.report.page import render_page, render_plot
from migrl.report.plots import draw_curves, draw_pass_rates, draw_pass_rates_after
from migrl.report.rollouts import RolloutView
from migrl.report.scores import list_score_lines, order_benchmarks, order_lines
from migrl.report.text import PAPER, flatten, order_arms
from migrl.report.words import LIST_MEANING, tell_arms, tell_many, tell_seeds, tell_tally, tell_width, tell_world
from migrl.scoring.rows import EvaluationRow


@dataclass(frozen=True)
class ReportLogs:
    """What training left behind: the logs' rows, the pass-rate histograms, the synthesis filters' counts.

    Empty or None means that the stage was not run, and the report says so. `training` are the logs by stage: `grpo`,
    `sft`, and those that other arms have for themselves. `pass_rates` is of the pool at selection, `pass_rates_after`
    compares before and after RL on some of it.
    """

    training: dict[str, list[dict[str, Any]]]
    pass_rates: dict[str, Any] | None
    filters: dict[str, Any] | None
    pass_rates_after: dict[str, Any] | None = None


def write_report(
    *,
    rows: Sequence[EvaluationRow],
    scores: dict[str, Any],
    claims: list[dict[str, Any]],
    levels: Sequence[Mapping[str, Any]],
    evaluations: Sequence[Mapping[str, Any]],
    logs: ReportLogs,
    images_root: Path,
    facts: dict[str, Any],
    out: Path,
    rollouts: RolloutView | None = None,
) -> None:
    """Write `out`/report.html, `out`/report.md and `out`/figures. Equal inputs give equal bytes.

    Args:
        rows: evaluation rows (samples.jsonl).
        scores: arm -> benchmark -> score (scores.json), in percent.
        claims: verdicts (claims.json), in percentage points.
        levels: scores that others state (levels.json), in percent.
        evaluations: how each arm was evaluated (evaluations.json).
        logs: what the training stages logged.
        images_root: the folder that the rows' image paths are relative to.
        facts: provenance; nested mappings are flattened. `recipe`, `git_revision`, `dirty` and whether
            `settings.source` is a rendered world also show at the top, `data` (`revisions`, `splits`) by the samples.
        out: folder to write into; made if needed.
        rollouts: what RL answered while it trained; None where it kept nothing.

    Raises:
        UserError: an image of a shown sample is missing or unreadable, or a sample comes twice.
    """
    seen = dict.fromkeys([*scores, *(row.arm for row in rows)])
    arms = order_arms(seen)
    lines = order_lines(claims, list_score_lines(scores, arms))
    order = order_benchmarks(claims, (row.sample.benchmark for row in rows))
    rows = sorted(rows, key=lambda row: order.index(row.sample.benchmark))
    benchmarks = list(dict.fromkeys(line.benchmark for line in lines))
    found = {row.score.status for row in rows}
    served = {one["arm"] for one in evaluations if "server" in one}
    explorer = build_explorer(rows, arms, images_root, served)
    pairs = list_pairs(claims, [arm for arm in arms if arm not in served], explorer.before, explorer.after)
    samples = group_rows(rows, arms, served)
    heat = build_heat(samples, scores, arms, pairs)
    curves = draw_curves(logs.training)
    histograms = [draw_pass_rates(logs.pass_rates)] if logs.pass_rates else []
    histograms += [draw_pass_rates_after(logs.pass_rates_after)] if logs.pass_rates_after else []

    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    draw_answers(samples, (explorer.before, explorer.after), images_root, figures / "answers.png")
    for plot in (*curves, *histograms):
        (figures / f"{plot.name}.svg").write_text(render_plot(plot), encoding="utf-8", newline="\n")

    recipe = facts.get("recipe", "unnamed")
    html = render_page(
        "report.html",
        {
            "title": f"{PAPER}, recipe {recipe}: reproduction report",
            "paper": PAPER,
            "recipe": recipe,
            "facts": facts,
            "data_facts": flatten(facts.get("data") or {}),
            "find_data": _make_finder(facts),
            "claims": claims,
            "tally": tell_tally(claims),
            "many": tell_many(claims),
            "one_seed": tell_seeds(claims),
            "world": tell_world(facts),
            "own_arms": tell_arms(facts, lines),
            "no_width": tell_width(lines),
            "list_meaning": LIST_MEANING,
            "code_facts": list_code_facts(facts),
            "levels": levels,
            "evaluations": evaluations,
            "settings": dict.fromkeys(key for one in evaluations for key in one if key not in ("arm", "seed")),
            "find_evaluation": _index_evaluations(evaluations),
            "arms": arms,
            "lines": lines,
            "benchmarks": benchmarks,
            "shown_benchmarks": order,
            "statuses": [name for name in STATUSES if name != "unanswered" or name in found],
            "readable": READABLE,
            "forest": lay_out_forest(claims),
            "heat": heat,
            "pairs": pairs,
            "find_claims": lambda name: [claim for claim in claims if name in (claim.get("benchmarks") or ())],
            "curves": curves,
            "histograms": histograms,
            "flat_rates": flatten_rates,
            "logs": logs,
            "explorer": explorer,
            "list_deciding": partial(list_deciding, explorer),
            "rollouts": rollouts,
            "tag_replies": tag_replies,
        },
        scripts=list_scripts(explorer, rollouts),
    )
    (out / "report.html").write_text(html, encoding="utf-8", newline="\n")
    markdown = write_markdown(claims, levels, lines, evaluations, facts)
    (out / "report.md").write_text(markdown, encoding="utf-8", newline="\n")


def list_scripts(explorer: Explorer, rollouts: RolloutView | None) -> list[str]:
    """The scripts of what is on the page: a run that still trains has rollouts and no samples yet."""
    found = ["rollouts.js"] if rollouts and rollouts.steps else []
    return [*found, "explorer.js"] if explorer.entries else found


def list_deciding(explorer: Explorer, claim: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """Benchmark, samples fixed and samples broken, of a claim on the two arms that outcomes compare."""
    if (claim.get("subtrahend"), claim.get("minuend")) != (explorer.before, explorer.after):
        return []
    counts = {name: Counter[Outcome]() for name in claim.get("benchmarks") or ()}
    for (name, _), outcomes in explorer.counts.items():
        if name in counts:
            counts[name].update(outcomes)
    return [(name, found["fixed"], found["broken"]) for name, found in counts.items() if found]


def tag_replies(entry: Entry) -> list[tuple[str, str, str]]:
    """What the explorer filters an entry's answers by: arm, hit or miss, parse status."""
    return [(row.arm, "hit" if row.score.hit else "miss", row.score.status) for row in entry.answers.rows]


def flatten_rates(tasks: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Mapping[str, int]]]:
    """(task, "" or "before" or "after", counts by hits) of the pass rates of each task."""
    flat: list[tuple[str, str, Mapping[str, int]]] = []
    for task, counts in tasks.items():
        if "before" in counts:
            flat += [(task, time, counts[time]) for time in ("before", "after")]
        else:
            flat.append((task, "", counts))
    return flat


def _index_evaluations(evaluations: Sequence[Mapping[str, Any]]) -> Callable[[EvaluationRow], Mapping[str, Any] | None]:
    """How the arm of a row was evaluated; None where nothing is recorded."""
    index = {(one["arm"], one.get("seed")): one for one in evaluations}
    return lambda row: index.get((row.arm, row.seed))


def _make_finder(facts: Mapping[str, Any]) -> Callable[[str], str]:
    """Benchmark -> what its data are: the SHA-256 of its records, shortened; empty where nothing is recorded."""
    splits = (facts.get("data") or {}).get("splits") or {}
    return lambda benchmark: str(splits.get(f"{benchmark}.jsonl", ""))[:16]
