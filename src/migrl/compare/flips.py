"""The page of a comparison: the table, and the samples that one side hit and the other missed, with both answers.

Which flips are shown is a rule, not a taste: for every task the first sample (by uid) that was won, then the first that
was lost, then the second of each, and so on, until the budget is spent.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from migrl.compare.pairs import Comparison, Pair
from migrl.compare.show import COUNTS, RULES, SCORES, list_cells, list_changes, list_head, show_counts, show_scores
from migrl.compare.sides import Reply, Side
from migrl.grounding.answers import READABLE
from migrl.grounding.boxes import Box, convert_box
from migrl.outputs import PAGE_MARK, write_output
from migrl.report.embed import Picture, embed_picture
from migrl.report.page import render_page
from migrl.report.shots import Part, Shot, place_true_boxes, split_completion
from migrl.report.shots import Reply as ShownReply

MAX_FLIPS = 200
PICTURE_BUDGET = 3_200_000  # base64 characters of all pictures, so that the page stays below 5 MB
_NO_TEXT = Part("omitted", "a peer's details hold no text")


@dataclass(frozen=True)
class Flip:
    """One shown sample: A's row of it, whether B won it, its pictures (none without a folder), and both answers."""

    row: Mapping[str, Any]
    won: bool
    shots: tuple[Shot, ...]
    replies: tuple[ShownReply, ShownReply]


@dataclass(frozen=True)
class Gallery:
    """The shown flips by benchmark, task and uid, the pictures they use, and how many won and lost ones there are."""

    flips: tuple[Flip, ...]
    pictures: tuple[Picture, ...]
    won: int
    lost: int

    @property
    def left_out(self) -> int:
        return self.won + self.lost - len(self.flips)


def write_flips(comparison: Comparison, path: Path, images_root: Path | None) -> None:
    """Write the page: one file without a script that requests nothing. Equal inputs give equal bytes.

    Args:
        images_root: the folder that A's image paths are relative to; None for a page without pictures.

    Raises:
        UserError: an image of a shown sample is missing or unreadable.
    """
    gallery = build_gallery(comparison, images_root)
    values = {
        "title": "Comparison: samples won and lost",
        "warning": comparison.warning,
        "head": list_head(comparison)[bool(comparison.unlike) :],
        "columns": (*SCORES, *COUNTS),
        "rows": [(*names, (*show_scores(cell), *show_counts(cell))) for *names, cell in list_cells(comparison)],
        "changes": list_changes(comparison),
        "rules": RULES,
        "gallery": gallery,
        "anchors": number_tasks(gallery.flips),
        "pictured": images_root is not None,
        "blind": not (comparison.a.names_image and comparison.b.names_image),
    }
    write_output(path, render_page("flips.html", values), "--html", PAGE_MARK)


def number_tasks(flips: Sequence[Flip]) -> dict[tuple[str, str], int]:
    """(benchmark, task) -> the place of its first shown flip, which the table links to."""
    firsts: dict[tuple[str, str], int] = {}
    for place, flip in enumerate(flips):
        firsts.setdefault((flip.row["benchmark"], flip.row["task"]), place)
    return firsts


def build_gallery(comparison: Comparison, images_root: Path | None) -> Gallery:
    """Choose flips, in the order that the rule states, and embed their pictures.

    Raises:
        UserError: as `write_flips`.
    """
    pictures: dict[str, Picture] = {}
    chosen: list[tuple[int, Flip]] = []
    places = {pair.sample["uid"]: place for place, pair in enumerate(comparison.pairs)}
    spent = 0
    for pair in order_flips(comparison.pairs):
        if len(chosen) == MAX_FLIPS:
            break
        fresh: dict[str, Picture] = {}
        if images_root is not None:
            for name, size in zip(pair.sample["images"], pair.sample["sizes"], strict=True):
                if name not in pictures and name not in fresh:
                    fresh[name] = embed_picture(images_root, name, size, f"p{len(pictures) + len(fresh)}")
        cost = sum(len(picture.data_uri) for picture in fresh.values())
        if spent + cost > PICTURE_BUDGET:
            break
        spent += cost
        pictures |= fresh
        shots = place_true_boxes(pair.sample, pictures) if images_root is not None else ()
        replies = (_show(pair.a, pair, shots, comparison.a), _show(pair.b, pair, shots, comparison.b))
        chosen.append((places[pair.sample["uid"]], Flip(pair.sample, pair.won, shots, replies)))
    chosen.sort(key=lambda entry: entry[0])
    counts = comparison.overall
    return Gallery(tuple(flip for _, flip in chosen), tuple(pictures.values()), counts.wins, counts.losses)


def order_flips(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Flips in rounds: in each the next won and the next lost sample of every benchmark's task, by uid."""
    queues: dict[tuple[str, str, bool], list[Pair]] = {}
    for pair in pairs:
        if pair.won or pair.lost:
            queues.setdefault((pair.sample["benchmark"], pair.sample["task"], pair.lost), []).append(pair)
    for some in zip_longest(*(queues[key] for key in sorted(queues))):
        yield from (pair for pair in some if pair is not None)


def _show(reply: Reply, pair: Pair, shots: Sequence[Shot], side: Side) -> ShownReply:
    said = {
        "hit": reply.hit,
        "status": reply.status,
        "target": pair.sample["target"],
        "letter": reply.letter,
        "iou": reply.iou,
        "tokens": reply.tokens,
        "truncated": reply.truncated,
    }
    parts = (_NO_TEXT,) if reply.completion is None else split_completion(reply.completion)
    return ShownReply(side.label, said, reply.status in READABLE, parts, _point(reply, pair, shots))


def _point(reply: Reply, pair: Pair, shots: Sequence[Shot]) -> Shot | None:
    """The picture that an answer points into, both boxes over it; the target's where the rule reads no image."""
    number = reply.image or pair.sample["target"].get("image")
    if reply.box_unit is None or number is None or number > len(shots):
        return None
    shot = shots[number - 1]
    size = (shot.picture.width, shot.picture.height)
    box_px: Box = convert_box(reply.box_unit, "unit", "original_px", original_size=size, resized_size=size)
    return Shot(shot.picture, number, shot.is_target, shot.true_box_px, box_px)
