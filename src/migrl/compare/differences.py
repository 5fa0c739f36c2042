"""What two sides must have in common, and the one error that names what they have not."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from migrl.compare.sides import Side
from migrl.errors import UserError, shorten
from migrl.evidence.evaluations import EVALUATIONS, SETTING_KEYS
from migrl.grounding.samples import BoxTarget

GROUPING_KEYS = ("benchmark", "task", "cluster")
"""Keys that decide what is paired and averaged: a difference in them cannot be let through."""

ROW_KEYS = ("question", "target", "images", "sizes", "prompt_hash", "frame", "resized_sizes")
EVALUATION_KEYS = tuple(key for key in SETTING_KEYS if key not in ROW_KEYS)
ALLOWABLE = ("samples", *ROW_KEYS, "rule", "evaluations", *EVALUATION_KEYS)
"""What `--allow` takes: a difference that the output then states in its first line."""

LETTER_RULE = "strict"
"""The rule by which a run's letters are read, under either rule for its boxes."""

SHOWN_CHARS = 120


@dataclass(frozen=True)
class Difference:
    """One thing that the sides do not share: its key, and a sentence with an example of both values."""

    key: str
    text: str


def narrow_sides(a: Side, b: Side, benchmarks: Collection[str]) -> tuple[Side, Side]:
    """Both sides on the named benchmarks, or without names on all; with a peer, on those that its uids are of.

    Answers to none of A's or B's samples stay in, so that they are found as a difference.

    Raises:
        UserError: no such benchmark in A, or a peer that answered none of A's samples.
    """
    homes = {uid: row.sample.benchmark for side in (b, a) for uid, row in side.samples.items()}
    known = {row.sample.benchmark for row in a.samples.values()}
    if unknown := sorted(set(benchmarks) - known):
        raise UserError(f"--benchmark {unknown[0]}: A has no such samples; it has {', '.join(sorted(known))}")
    kept = set(benchmarks or homes.values())
    if b.is_peer:
        asked = next(uid for uid in a.samples if homes[uid] in kept)
        kept &= {row.sample.benchmark for row in b.samples.values()}
        if not kept:
            whose = f"A's of {', '.join(sorted(benchmarks))}" if benchmarks else "A's"
            other = quote(next(iter(b.replies)))
            raise UserError(f"{b.title}: none of its uids is {whose}; they are like {other}, {whose} like {asked!r}")

    def narrow(side: Side) -> Side:
        replies = {uid: reply for uid, reply in side.replies.items() if uid not in homes or homes[uid] in kept}
        return replace(side, replies=replies, samples={uid: side.samples[uid] for uid in replies if uid in homes})

    return narrow(a), narrow(b)


def find_differences(a: Side, b: Side) -> list[Difference]:
    """Every key in which the sides differ, sample by sample and in how they were evaluated."""
    shared = [uid for uid in a.samples if uid in b.samples]
    found = [*_compare_uids(a, b)]
    asked = [(uid, a.samples[uid].to_json(), b.samples[uid].to_json()) for uid in shared]
    for key in (*GROUPING_KEYS, *ROW_KEYS):
        found += _compare_key(key, [(uid, first[key], second[key]) for uid, first, second in asked])
    return [*found, *_check_peer(b, shared), *_compare_rules(a, b, shared), *_compare_evaluations(a, b)]


def _compare_uids(a: Side, b: Side) -> Iterable[Difference]:
    only = [(side.name, sorted(side.replies.keys() - other.replies.keys())) for side, other in ((a, b), (b, a))]
    texts = [f"{len(uids)} only in {name}, such as {quote(uids[0])}" for name, uids in only if uids]
    if texts:
        yield Difference("samples", "; ".join(texts))


def _compare_key(key: str, values: Sequence[tuple[str, Any, Any]]) -> Iterable[Difference]:
    unequal = [(uid, first, second) for uid, first, second in values if first != second]
    if unequal:
        uid, first, second = unequal[0]
        example = f"{uid!r}: {quote(first)} in A, {quote(second)} in B"
        yield Difference(key, f"{len(unequal)} of {len(values)} samples, such as {example}")


def _check_peer(b: Side, shared: Sequence[str]) -> Iterable[Difference]:
    """Where a peer's hits do not follow from what it read, by the run's own targets and sizes."""
    unequal = [uid for uid in shared if not b.replies[uid].follows]
    if unequal:
        text = (
            f"{len(unequal)} of {len(shared)} samples, such as {unequal[0]!r}: what the line of B holds is scored "
            "otherwise by A's target and image sizes (another version of the benchmark, or other pixel limits)"
        )
        yield Difference("target", text)


def _has_box(side: Side, uid: str) -> bool:
    return isinstance(side.samples[uid].sample.target, BoxTarget)


def _compare_rules(a: Side, b: Side, shared: Sequence[str]) -> Iterable[Difference]:
    texts = []
    if a.names_image != b.names_image and any(_has_box(a, uid) for uid in shared):
        blind, other = ("B", "A") if a.names_image else ("A", "B")
        remedy = "compare with --official" if a.names_image else "leave out --official"
        texts.append(
            f"the rule for {blind} does not look at the image that is named, the rule for {other} does; {remedy}"
        )
    letters = [b.replies[uid].rule for uid in shared if not _has_box(a, uid)]
    others = [rule for rule in letters if rule not in (None, LETTER_RULE)]
    if others:
        counts = f"{len(others)} of {len(letters)} letters of B were read by the rule {', '.join(sorted(set(others)))}"
        texts.append(f"{counts}, all of A by {LETTER_RULE}; score B's with --parser {LETTER_RULE}")
    if texts:
        yield Difference("rule", "; ".join(texts))


def _compare_evaluations(a: Side, b: Side) -> Iterable[Difference]:
    if b.is_peer:  # its note says that nothing is known
        return
    if a.evaluation is None or b.evaluation is None:
        if a.evaluation is not b.evaluation:
            known, other = ("B", "A") if a.evaluation is None else ("A", "B")
            what = "so nobody knows whether engine, precision, device and limits were the same"
            yield Difference("evaluations", f"{known} has an {EVALUATIONS} beside its rows, {other} has none, {what}")
        return
    for key in EVALUATION_KEYS:
        first, second = a.evaluation.get(key), b.evaluation.get(key)
        if first != second:
            yield Difference(key, f"{quote(first)} in A, {quote(second)} in B")


def refuse_differences(found: Sequence[Difference], allow: Collection[str]) -> list[Difference]:
    """The differences that were let through by name.

    Raises:
        UserError: naming every other difference, and how to let it through where that can be said to be fair; or a
            name in `allow` that is no difference's.
    """
    if unknown := sorted(set(allow) - set(ALLOWABLE)):
        raise UserError(f"--allow {unknown[0]}: not a difference that can be let through; {', '.join(ALLOWABLE)} are")
    refused = [difference for difference in found if difference.key not in allow]
    if refused:
        texts = "; ".join(f"{difference.key} ({difference.text})" for difference in refused)
        keys = " ".join(f"--allow {difference.key}" for difference in refused if difference.key in ALLOWABLE)
        remedy = "evaluate both on the same samples with the same settings" + (f", or say {keys}" if keys else "")
        raise UserError(f"A and B cannot be compared, they differ in {texts}; {remedy}")
    return list(found)


def quote(value: Any) -> str:
    """A value as a short text for a message; control characters are spelled out."""
    return shorten(repr(value), SHOWN_CHARS)
