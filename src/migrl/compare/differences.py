"""What two sides must have in common, and the one error that names what they have not."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from migrl.answers import READABLE
from migrl.boxes import compute_iou
from migrl.compare.peer import IOU_SLACK, shorten
from migrl.compare.sides import Reply, Side
from migrl.errors import UserError
from migrl.evaluations import OWN_KEYS
from migrl.scores import Row
from migrl.tables import has_box

GROUPING_KEYS = ("benchmark", "task", "cluster")
"""Keys that decide what is paired and averaged: a difference in them cannot be let through."""

SAMPLE_KEYS = ("question", "target", "images", "sizes")
SETTING_KEYS = ("prompt_hash", "frame", "resized_sizes")
EVALUATION_KEYS = (
    "engine",
    "attention",
    "dtype",
    "device",
    "style",
    "min_pixels",
    "max_pixels",
    "max_new_tokens",
    "decoding",
    "prompts",
)
ALLOWABLE = ("samples", *SAMPLE_KEYS, *SETTING_KEYS, "rule", *EVALUATION_KEYS)
"""What `--allow` takes: a difference that the output then states in its first line."""


@dataclass(frozen=True)
class Difference:
    """One thing that the sides do not share: its key, and a sentence with an example of both values."""

    key: str
    text: str


def narrow_sides(a: Side, b: Side, benchmarks: Collection[str]) -> tuple[Side, Side]:
    """Both sides on the named benchmarks, or without names on all; with a peer, on those that its uids are of.

    Raises:
        UserError: no such benchmark in A, or a peer that answered none of A's samples.
    """
    known = {row["benchmark"] for row in a.samples.values()}
    if unknown := sorted(set(benchmarks) - known):
        raise UserError(f"--benchmark {unknown[0]}: A has no such samples; it has {', '.join(sorted(known))}")
    kept = set(benchmarks) or known
    if not b.samples:
        kept &= {row["benchmark"] for uid, row in a.samples.items() if uid in b.replies}
        if not kept:
            example, other = next(iter(a.samples)), next(iter(b.replies))
            raise UserError(f"{b.title}: none of its uids is A's; they are like {shorten(other)}, A's like {example!r}")
        return _keep(a, lambda row: row["benchmark"] in kept), b
    if not benchmarks:
        return a, b
    return (
        _keep(a, lambda row: row["benchmark"] in kept),
        _keep(b, lambda row: row["benchmark"] in kept),
    )


def _keep(side: Side, belongs: Callable[[Row], bool]) -> Side:
    samples = {uid: row for uid, row in side.samples.items() if belongs(row)}
    return replace(side, samples=samples, replies={uid: side.replies[uid] for uid in samples})


def find_differences(a: Side, b: Side) -> list[Difference]:
    """Every key in which the sides differ, sample by sample and in how they were evaluated."""
    found = [*_compare_uids(a, b)]
    shared = [uid for uid in a.samples if uid in b.replies]
    if b.samples:
        for key in (*GROUPING_KEYS, *SAMPLE_KEYS, *SETTING_KEYS):
            found += _compare_key(key, [(uid, a.samples[uid][key], b.samples[uid][key]) for uid in shared])
    else:
        found += _check_peer(a, b, shared)
    if a.names_image != b.names_image and any(has_box(a.samples[uid]) for uid in shared):
        blind, other = ("B", "A") if a.names_image else ("A", "B")
        remedy = "compare with --official" if a.names_image else "leave out --official"
        text = f"the rule for {blind} does not look at the image that is named, the rule for {other} does; {remedy}"
        found.append(Difference("rule", text))
    return [*found, *_compare_evaluations(a, b)]


def _compare_uids(a: Side, b: Side) -> Iterable[Difference]:
    only = [(side.name, sorted(side.replies.keys() - other.replies.keys())) for side, other in ((a, b), (b, a))]
    texts = [f"{len(uids)} only in {name}, such as {shorten(uids[0])}" for name, uids in only if uids]
    if texts:
        yield Difference("samples", "; ".join(texts))


def _compare_key(key: str, values: Sequence[tuple[str, Any, Any]]) -> Iterable[Difference]:
    unequal = [(uid, first, second) for uid, first, second in values if first != second]
    if unequal:
        uid, first, second = unequal[0]
        example = f"{uid!r}: {shorten(first)} in A, {shorten(second)} in B"
        yield Difference(key, f"{len(unequal)} of {len(values)} samples, such as {example}")


def _check_peer(a: Side, b: Side, shared: Sequence[str]) -> Iterable[Difference]:
    """Where a peer's hits do not follow from what it read, by the run's own targets and sizes."""
    unequal = [uid for uid in shared if not _follows(b.replies[uid], a.samples[uid], b.names_image)]
    if unequal:
        text = (
            f"{len(unequal)} of {len(shared)} samples, such as {unequal[0]!r}: what the line of B holds is scored "
            "otherwise by A's target and image sizes (another version of the benchmark, or other pixel limits)"
        )
        yield Difference("target", text)


def _follows(reply: Reply, row: Row, names_image: bool) -> bool:
    target = row["target"]
    if reply.iou is None:
        return reply.hit == (reply.status in READABLE and reply.letter == target["letter"])
    iou = 0.0 if reply.box_unit is None else compute_iou(reply.box_unit, tuple(target["box_unit"]))
    if names_image and reply.image != target["image"] and target.get("image_trusted", True):
        iou = 0.0
    # Without the image on the line, a rule that knows it may still have refused the box for being on another one.
    return abs(reply.iou - iou) <= IOU_SLACK or (not names_image and reply.iou == 0)


def _compare_evaluations(a: Side, b: Side) -> Iterable[Difference]:
    if a.evaluation is None or b.evaluation is None:
        return
    keys = (a.evaluation.keys() | b.evaluation.keys()) - {*OWN_KEYS, "frame"}  # the rows say the frame themselves
    for key in sorted(keys):
        first, second = a.evaluation.get(key), b.evaluation.get(key)
        if first != second:
            yield Difference(key, f"{shorten(first)} in A, {shorten(second)} in B")


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
