"""report.md: the report for terminals and pull requests. Every value is inert text in it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from migrl.grounding.answers import READABLE
from migrl.markdown_table import make_table
from migrl.report.scores import ScoreLine, order_lines
from migrl.report.text import (
    BADGES,
    PAPER,
    escape_cell,
    is_number,
    name_arm,
    show_claimed,
    show_interval,
    show_percent,
    show_points,
    show_rate,
)
from migrl.report.words import (
    LIST_MEANING,
    tell_arms,
    tell_attested,
    tell_dissent,
    tell_many,
    tell_power,
    tell_seeds,
    tell_tally,
    tell_width,
    tell_world,
)

PROVENANCE = ("recipe", "git_revision", "dirty", "lock_sha256", "image")


def write_markdown(
    claims: Sequence[Mapping[str, Any]],
    levels: Sequence[Mapping[str, Any]],
    lines: Sequence[ScoreLine],
    evaluations: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> str:
    """Verdicts with their readings and power, scores with the parse ledger, levels, and provenance."""
    dirty = " (with uncommitted changes)" if facts.get("dirty") else ""
    revision = f", revision {facts['git_revision']}" if facts.get("git_revision") else ""
    title = f"# Reproduction of {PAPER}: recipe {escape_cell(facts.get('recipe', 'unnamed'))}"
    text = [f"{title}{escape_cell(revision)}{dirty}", ""]
    world = tell_world(facts)
    text += [world, ""] if world else []
    tally = ", ".join(f"{count} {verdict}" for verdict, count in tell_tally(claims))
    text += [f"**Verdicts: {escape_cell(tally)}.**", ""] if tally else []
    text += _tabulate(
        "claim | paper | expected: | delta (points): | n: | power | verdict | why",
        (_tell_claim(claim) for claim in claims),
    )
    notes = [note for note in (tell_seeds(claims), tell_many(claims)) if note]
    text += [" ".join(notes), ""] if notes else []
    readings = [row for claim in claims for row in _tell_readings(claim)]
    if readings:
        text += ["## Other readings", ""]
        text += _tabulate("claim | reading | delta (points): | n: | verdict | why", readings)
    if lines:
        text += ["## Scores", ""]
        text += _tabulate(
            "benchmark | arm | accuracy (%): | official rule: | official − strict: | n: | cut off: | parse ledger",
            map(_tell_score, order_lines(claims, lines)),
        )
        text += [
            "Accuracy is the mean over tasks, with its 95 % interval. The official rule reads the first box anywhere "
            "and does not look at the image chosen. The ledger counts completions by how they could be read; "
            f"all but {', '.join(READABLE)} are misses.",
            "",
        ]
        for note in (tell_arms(facts, lines), tell_width(lines)):
            text += [escape_cell(note), ""] if note else []
    listed = [line for line in order_lines(claims, lines) if line.detections]
    if listed:
        text += ["## Any number of boxes", ""]
        text += _tabulate("benchmark | arm | AP50: | pair accuracy (%): | n:", map(_tell_detections, listed))
        text += [LIST_MEANING, ""]
    if levels:
        text += ["## Levels that others state", ""]
        text += _tabulate(
            "benchmark | task | arm | stated: | measured: | n: | interval holds it | source",
            map(_tell_level, levels),
        )
    text += ["## Provenance", ""]
    text += [f"- {name}: {escape_cell(facts[name])}" for name in PROVENANCE if facts.get(name) is not None]
    text += [f"- {_tell_evaluation(evaluation)}" for evaluation in evaluations]
    text += ["", "Figures, samples and every setting: report.html. Check: `migrl verify`.", ""]
    return "\n".join(text)


def _tabulate(head: str, rows: Iterable[Sequence[Any]]) -> list[str]:
    return [*make_table(head, (map(escape_cell, row) for row in rows)), ""]


def _tell_claim(claim: Mapping[str, Any]) -> list[Any]:
    sign = BADGES.get(claim["verdict"], ("", ""))[0]
    return [
        claim["statement"],
        tell_attested(claim) or "–",
        show_claimed(claim["expected"]) if is_number(claim.get("expected")) else "direction",
        _tell_delta(claim),
        claim.get("n"),
        tell_power(claim) or "–",
        f"{sign} {claim['verdict']}".strip(),
        "; ".join(filter(None, (claim.get("reason"), tell_dissent(claim)))) or "–",
    ]


def _tell_readings(claim: Mapping[str, Any]) -> list[list[Any]]:
    return [
        [
            claim["id"],
            reading.get("differs") or reading["id"],
            _tell_delta(reading),
            reading.get("n"),
            reading["verdict"],
            reading.get("reason") or "–",
        ]
        for reading in claim.get("readings") or ()
    ]


def _tell_delta(record: Mapping[str, Any]) -> str:
    return f"{show_points(record.get('delta'))} {show_interval(record, show_points)}".strip()


def _tell_score(line: ScoreLine) -> list[Any]:
    score, official = line.score, line.official
    ledger = ", ".join(f"{count} {status}" for status, count in score.get("ledger", {}).items() if count)
    return [
        line.benchmark,
        name_arm(line.arm),
        f"{show_percent(score.get('macro'))} {show_interval(score, show_percent)}".strip(),
        f"{show_percent(official.get('macro'))} {show_interval(official, show_percent)}".strip(),
        show_points(line.official_gain),
        line.n,
        show_rate(score.get("truncation_rate")),
        ledger.replace("_", " ") or "–",
    ]


def _tell_detections(line: ScoreLine) -> list[Any]:
    found = line.detections
    ap50 = {"low": found.get("ap50_low"), "high": found.get("ap50_high")}
    return [
        line.benchmark,
        name_arm(line.arm),
        f"{show_percent(found.get('ap50'))} {show_interval(ap50, show_percent)}".strip(),
        f"{show_percent(found.get('pair_accuracy'))} {show_interval(found, show_percent)}".strip(),
        line.n,
    ]


def _tell_level(level: Mapping[str, Any]) -> list[Any]:
    holds = {True: "yes", False: "no"}.get(level.get("contains"), "–")  # type: ignore[arg-type]
    measured = f"{show_percent(level.get('measured'))} {show_interval(level, show_percent)}".strip()
    where = [level["benchmark"], level.get("task") or "all", name_arm(level["arm"])]
    return [*where, f"{level['stated']:g}", measured, level.get("n"), holds, level.get("source") or "–"]


def _tell_evaluation(evaluation: Mapping[str, Any]) -> str:
    seed = f", seed {evaluation['seed']}" if evaluation.get("seed") is not None else ""
    rest = {key: value for key, value in evaluation.items() if key not in ("arm", "seed")}
    return escape_cell(f"arm {evaluation['arm']}{seed}: {_list_settings(rest)}")


def _list_settings(settings: Mapping[str, Any]) -> str:
    """Keys and values; a section in brackets, without what does not apply."""
    told = {key: f"({_list_settings(value)})" if isinstance(value, dict) else value for key, value in settings.items()}
    return ", ".join(f"{key} {value}" for key, value in told.items() if value is not None)
