"""Sentences that the page and report.md say about a claim, so that both say the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from migrl.recipe.arms import describe_changes
from migrl.report.scores import ScoreLine
from migrl.report.text import BADGES, is_number, show_claimed, show_p, show_points
from migrl.scoring.detections import MEANING

Claim = Mapping[str, Any]

LIST_MEANING = f"Accuracy counts an answer that finds every box at IoU 0.5 and no other. {MEANING}"
_RENDERED = "Rendered shapes and a tiny model: this shows the direction only; the paper's own numbers were not run."
_ONE_SEED = "One training run: intervals cover the choice of samples, not of the training seed."
_NO_WIDTH = (
    "An interval without width, such as [0.0, 0.0]: within each task every sample was hit, or every one missed. "
    "Drawing among them again shows no spread, which does not mean that there is none."
)


def tell_world(facts: Mapping[str, Any]) -> str:
    """What a run on rendered pictures cannot show; empty for published data."""
    source = (facts.get("settings") or {}).get("source") or {}
    return _RENDERED if source.get("kind") == "world" else ""


def tell_arms(facts: Mapping[str, Any], lines: Sequence[ScoreLine]) -> str:
    """What the arms of the recipe's own are; empty where none was evaluated."""
    own = (facts.get("settings") or {}).get("arms") or {}
    arms = [arm for arm in dict.fromkeys(line.arm for line in lines) if arm in own]
    told = "; ".join(f"{arm}: {describe_changes(own[arm])}" for arm in arms)
    return f"Arms of this recipe's own: {told}." if told else ""


def tell_tally(claims: Sequence[Claim]) -> list[tuple[str, int]]:
    """How many claims got each verdict, best verdict first; verdicts that nobody got are left out."""
    counts = Counter(claim["verdict"] for claim in claims)
    order = [*BADGES, *(verdict for verdict in counts if verdict not in BADGES)]
    return [(verdict, counts[verdict]) for verdict in order if counts[verdict]]


def tell_power(claim: Claim) -> str:
    """What the run could have shown at its size; empty if nothing is known."""
    power = claim.get("power")
    if not power:
        return ""
    if is_number(power.get("claimed")) and is_number(claim.get("expected")):
        return f"would show {show_claimed(claim['expected'])} in {_show_share(power['claimed'])} of runs"
    return f"can show ≥ {power['detectable']:.1f}" if is_number(power.get("detectable")) else ""


def tell_dissent(claim: Claim) -> str:
    """Which other readings, of those that could be judged, come to another verdict; empty if none does."""
    judged = [reading["verdict"] for reading in claim.get("readings") or () if reading["verdict"] != "not run"]
    others = tell_tally([{"verdict": verdict} for verdict in judged if verdict != claim["verdict"]])
    return "; ".join(
        f"{count} of {len(judged)}{'' if place else ' other readings'}: {verdict}"
        for place, (verdict, count) in enumerate(others)
    )


def tell_details(claim: Claim) -> list[tuple[str, str]]:
    """What stands behind a verdict, as (word, sentence) pairs; what was not measured is left out."""
    points = [("reason", claim["reason"])] if claim.get("reason") else []
    if is_number(claim.get("p_value")):
        adjusted = f", {show_p(claim['p_adjusted'])} after Holm" if is_number(claim.get("p_adjusted")) else ""
        points.append(("p of no difference", f"{show_p(claim['p_value'])}{adjusted}"))
    if equivalence := claim.get("equivalence"):
        inner = f"[{show_points(equivalence['low'])}, {show_points(equivalence['high'])}]"
        sentence = f"{show_points(equivalence['difference'])} from the claimed number, 90 % interval {inner}"
        if is_number(equivalence.get("within")):
            sentence += f"; equal to it within ±{equivalence['within']:.1f} points (two one-sided tests at 5 %)"
        points.append(("equivalence", sentence))
    if power := claim.get("power"):
        points.append(("power", _tell_whole_power(claim, power)))
    if reference := claim.get("reference"):
        points.append(("reference runs", _tell_reference(reference)))
    seeds = claim.get("seeds") or 1
    if seeds > 1:
        points.append(("training seeds", f"{seeds}; the interval is over seeds and samples"))
    if claim.get("clusters") and claim["clusters"] != claim.get("n"):
        points.append(("image sets", f"{claim['clusters']} behind {claim['n']} samples; they are what is resampled"))
    return points


def tell_many(claims: Sequence[Claim]) -> str:
    """What it means that several claims were judged at once; empty for one alone."""
    run = [claim for claim in claims if is_number(claim.get("p_adjusted"))]
    if len(run) < 2:
        return ""
    kept = sum(claim["p_adjusted"] < 0.05 for claim in run)
    return (
        f"Each verdict is of its claim alone; {len(run)} were judged together. After Holm's correction for that, "
        f"{kept} of them differ from 0 at 5 %."
    )


def tell_seeds(claims: Sequence[Claim]) -> str:
    """What the intervals leave out where there was one training run; empty with several, and without a run."""
    seeds = {claim.get("seeds") or 1 for claim in claims if is_number(claim.get("delta"))}
    return _ONE_SEED if 1 in seeds else ""


def tell_width(lines: Sequence[ScoreLine]) -> str:
    """What an interval without width means, where a score has one; else empty."""
    scores = [score for line in lines for score in (line.score, line.official)]
    flat = (is_number(score.get("low")) and score["low"] == score.get("high") for score in scores)
    return _NO_WIDTH if any(flat) else ""


def tell_attested(claim: Claim) -> str:
    """The versions of the paper that state a claim, with the places; empty if none is named."""
    return ", ".join(f"{version} {place}".strip() for version, place in (claim.get("attested") or {}).items())


def tell_choice(record: Mapping[str, Any]) -> str:
    """What a claim or a reading averages, and how: benchmarks, tasks, averaging, rule, and which pairs."""
    words = [", ".join(record.get("benchmarks") or ())]
    tasks = record.get("tasks")
    words.append("all tasks" if tasks is None else f"tasks {', '.join(tasks)}")
    words += [f"{record['averaging']} average"] if record.get("averaging") else []
    words += [f"{record['rule']} rule"] if record.get("rule") else []
    words += ["readable pairs"] if record.get("pairs") == "readable" else []
    return " · ".join(word for word in words if word)


def _tell_whole_power(claim: Claim, power: Mapping[str, Any]) -> str:
    basis = {"measured": "measured on these samples", "design": f"by the design {power.get('design')}"}
    words = []
    if is_number(power.get("detectable")):
        words.append(f"a true {show_points(power['detectable'])} would be shown above 0 in 95 % of runs")
    if is_number(power.get("claimed")) and is_number(claim.get("expected")):
        share = _show_share(power["claimed"])
        words.append(f"the claimed {show_claimed(claim['expected'])} would be called reproduced in {share}")
    if is_number(power.get("standard_error")):
        words.append(
            f"standard error {power['standard_error']:.2f}, {basis.get(power.get('basis', ''), 'basis unknown')}"
        )
    return "; ".join(words)


def _tell_reference(reference: Mapping[str, Any]) -> str:
    deltas = ", ".join(show_points(delta) for delta in reference.get("deltas") or ())
    text = f"deltas {deltas}"
    if is_number(reference.get("prediction_low")) and is_number(reference.get("prediction_high")):
        where = "inside it" if reference.get("inside") else "outside it"
        low, high = show_points(reference["prediction_low"]), show_points(reference["prediction_high"])
        text += f"; 95 % prediction interval for a new run [{low}, {high}], this run lies {where}"
    return text


def _show_share(share: float) -> str:
    """A probability in whole percent; never 0 or 100 % unless it is."""
    if 0.995 <= share < 1:
        return "over 99 %"
    return "under 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"
