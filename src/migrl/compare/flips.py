"""The page of a comparison: the table, and the samples that one side hit and the other missed, with both answers.

Which flips are shown is a rule, not a taste: for every task the first sample (by uid) that was won, then the first that
was lost, then the second of each, and so on, until the budget is spent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from migrl.compare.pairs import Comparison, Pair
from migrl.compare.show import COLUMNS, RULES, list_cells, list_changes, list_head, show_cell
from migrl.compare.sides import Reply
from migrl.grounding.boxes import convert_box
from migrl.grounding.samples import BoxTarget
from migrl.outputs import PAGE_MARK, write_output
from migrl.report.embed import Picture
from migrl.report.explorer import embed_new
from migrl.report.page import render_page
from migrl.report.shots import Part, Shot, place_predicted_boxes, place_true_boxes, split_completion
from migrl.report.shots import Reply as ShownReply
from migrl.scoring.rows import ScoredRow

MAX_FLIPS = 200
PICTURE_BUDGET = 3_200_000  # base64 characters of all pictures, so that the page stays below 5 MB


@dataclass(frozen=True)
class Flip:
    """One shown sample: the pair, its pictures (none without a folder), and both answers."""

    pair: Pair
    shots: tuple[Shot, ...]
    replies: tuple[ShownReply, ShownReply]


def write_flips(
    comparison: Comparison,
    path: Path,
    images_root: Path | None,
    *,
    limit: int = MAX_FLIPS,
    budget: int = PICTURE_BUDGET,
) -> None:
    """Write the page: one file without a script that requests nothing. Equal inputs give equal bytes.

    Args:
        images_root: the folder that A's image paths are relative to; None for a page without pictures.
        limit: how many samples it shows at most.
        budget: base64 characters of its pictures.

    Raises:
        UserError: an image of a shown sample is missing or unreadable.
    """
    pictures: dict[str, Picture] = {}
    chosen: list[Pair] = []
    for pair in order_flips(comparison.pairs):
        fresh = {} if images_root is None else embed_new(pair.sample, pictures, images_root)
        budget -= sum(len(picture.data_uri) for picture in fresh.values())
        if len(chosen) == limit or budget < 0:
            break
        pictures |= fresh
        chosen.append(pair)
    shown = {pair.sample.uid for pair in chosen}
    labels = (comparison.a.label, comparison.b.label)
    values = {
        "title": "Comparison: samples won and lost",
        "warning": comparison.warning,
        "head": list_head(comparison)[bool(comparison.unlike) :],
        "columns": COLUMNS,
        "rows": [(*names, show_cell(cell)) for *names, cell in list_cells(comparison)],
        "changes": list_changes(comparison),
        "rules": RULES,
        "overall": comparison.overall,
        "flips": [make_flip(pair, pictures, labels) for pair in comparison.pairs if pair.sample.uid in shown],
        "pictures": list(pictures.values()),
        "pictured": images_root is not None,
        "blind": not (comparison.a.names_image and comparison.b.names_image),
    }
    write_output(path, render_page("flips.html", values), "--html", PAGE_MARK)


def order_flips(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Flips in rounds: in each the next won and the next lost sample of every benchmark's task, by uid."""
    queues: dict[tuple[str, str, bool], list[Pair]] = {}
    for pair in pairs:
        if pair.won or pair.lost:
            queues.setdefault((pair.sample.benchmark, pair.sample.task, pair.lost), []).append(pair)
    for some in zip_longest(*(queues[key] for key in sorted(queues))):
        yield from (pair for pair in some if pair is not None)


def make_flip(pair: Pair, pictures: Mapping[str, Picture], labels: tuple[str, str]) -> Flip:
    """A pair as the page shows it; without pictures only in words."""
    shots = place_true_boxes(pair.sample, pictures) if pictures else ()
    a, b = (_show(reply, pair, shots, label) for reply, label in zip((pair.a, pair.b), labels, strict=True))
    return Flip(pair, shots, (a, b))


def _show(reply: Reply, pair: Pair, shots: Sequence[Shot], label: str) -> ShownReply:
    target, score = pair.sample.target, reply.score
    parts: tuple[Part, ...] = (Part("omitted", "a peer's details hold no text"),)
    if reply.completion is not None:
        parts = split_completion(reply.completion)
    named = [(one.image, one.boxes["unit"]) for one in score.found or ()]
    if score.boxes and isinstance(target, BoxTarget):
        named = [(score.image or target.image, score.boxes["unit"])]  # the target's where the rule reads no image
    if shots:
        sizes = [(shot.picture.width, shot.picture.height) for shot in shots]
        named = [
            (image, convert_box(box, "unit", "original_px", original_size=size, resized_size=size))
            for image, box in named
            for size in (sizes[image - 1],)
        ]
    row = ScoredRow(pair.sample, score, reply.truncated, reply.tokens)
    return ShownReply(label, row, parts, place_predicted_boxes(shots, named))
