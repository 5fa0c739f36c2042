"""The sample explorer: which samples the page holds, their pictures, and links that set its filters.

The choice is a rule, not a taste. Every task and outcome is a cell; cells take turns, each giving its
first sample by uid, then its second, until the page is full. After the first turn every benchmark adds
one sample of each kind of unreadable answer that is not shown yet.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from urllib.parse import quote

from migrl.report.embed import Picture, embed_picture
from migrl.report.outcomes import Outcome, Sample, count_outcomes, group_rows, pick_compared
from migrl.report.shots import Reply, Row, Shot, place_true_boxes, read_reply
from migrl.report.text import name_arm
from migrl.scoring.tables import is_readable

EXACT_BUDGET = 2_900_000  # characters of samples with their exact pictures, so that the tiny report stays below 4 MB
SCALED_BUDGET = 12_000_000  # base64 characters of pictures that were scaled down: photographs
SAMPLE_CHARS, SHOT_CHARS, REPLY_CHARS = 1300, 200, 600  # markup around the texts, as measured on the tiny report
_TELLING: tuple[Outcome, ...] = ("fixed", "broken", "both_miss", "both_hit")


@dataclass(frozen=True)
class Entry:
    """One sample of the page. `row` is any of its rows, for what they share: uid, task, question, target.

    `anchor` is its element id, the same in every report; `marks` are the links that lead here without the script.
    """

    anchor: str
    row: Row
    outcome: Outcome
    shots: tuple[Shot, ...]
    replies: tuple[Reply, ...]
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Explorer:
    """The chosen samples, their pictures, the two arms that outcomes compare, and how many there are.

    `counts` and `shown` map (benchmark, task) to the number of samples of each outcome: all, and those on the page.
    """

    entries: tuple[Entry, ...]
    pictures: tuple[Picture, ...]
    before: str
    after: str
    counts: Mapping[tuple[str, str], Mapping[Outcome, int]]
    shown: Mapping[tuple[str, str], Mapping[Outcome, int]]

    @property
    def total(self) -> int:
        """How many samples were evaluated."""
        return sum(sum(cell.values()) for cell in self.counts.values())


def build_explorer(rows: Iterable[Row], arms: Sequence[str], images_root: Path) -> Explorer:
    """Choose samples and embed their images.

    Args:
        rows: evaluation sample rows; (arm, seed, uid) is unique.
        arms: order in which answers stand side by side.
        images_root: the folder that the rows' image paths are relative to.

    Raises:
        UserError: an image is missing, unreadable or outside `images_root`, or a row comes twice.
    """
    samples = group_rows(rows, arms)
    pictures: dict[str, Picture] = {}
    chosen: dict[str, Entry] = {}
    exact = scaled = 0
    for sample in choose_samples(samples):
        fresh = embed_new(sample.rows[0], pictures, images_root)
        entry = make_entry(sample, {**pictures, **fresh})
        photos = sum(len(picture.data_uri) for picture in fresh.values() if not picture.pixelated)
        cost = _estimate_chars(entry) + sum(len(picture.data_uri) for picture in fresh.values()) - photos
        if exact + cost > EXACT_BUDGET or scaled + photos > SCALED_BUDGET:
            break
        exact, scaled = exact + cost, scaled + photos
        pictures |= fresh
        chosen[sample.uid] = entry
    shown = [sample for sample in samples if sample.uid in chosen]
    tasks = {key: place for place, key in enumerate(count_outcomes(samples))}
    shown.sort(key=lambda sample: (tasks[sample.key], _TELLING.index(sample.outcome)))
    entries = _mark_entries([chosen[sample.uid] for sample in shown])
    before, after = pick_compared(arms)
    shown_counts = {key: Counter[Outcome]() for key in count_outcomes(samples)} | count_outcomes(shown)
    return Explorer(tuple(entries), tuple(pictures.values()), before, after, count_outcomes(samples), shown_counts)


def choose_samples(samples: Sequence[Sample]) -> Iterator[Sample]:
    """All samples, each once, in the order in which they are taken while there is room."""
    cells: dict[tuple[tuple[str, str], Outcome], list[Sample]] = {}
    for key in count_outcomes(samples):
        cells |= {(key, outcome): [] for outcome in _TELLING}
    unreadable: dict[tuple[str, str], Sample] = {}
    for sample in samples:
        cells[sample.key, sample.outcome].append(sample)
        for row in sample.rows:
            if not is_readable(row):
                unreadable.setdefault((row["benchmark"], row["status"]), sample)
    rounds = [[sample for sample in turn if sample is not None] for turn in zip_longest(*cells.values())]
    seen = {(row["benchmark"], row["status"]) for turn in rounds[:1] for sample in turn for row in sample.rows}
    extra = [sample for key, sample in unreadable.items() if key not in seen]
    order = [sample for turn in (*rounds[:1], extra, *rounds[1:]) for sample in turn]
    return iter({sample.uid: sample for sample in order}.values())


def embed_new(row: Row, known: Mapping[str, Picture], images_root: Path) -> dict[str, Picture]:
    """Image path -> picture, of a sample's images that are not known yet."""
    fresh: dict[str, Picture] = {}
    for path, size in zip(row["images"], row["sizes"], strict=True):
        if path not in known and path not in fresh:
            fresh[path] = embed_picture(images_root, path, size, f"p{len(known) + len(fresh)}")
    return fresh


def make_entry(sample: Sample, pictures: Mapping[str, Picture]) -> Entry:
    """A sample with its pictures, boxes and answers; a training seed stands beside the arm where there are several."""
    row = sample.rows[0]
    shots = place_true_boxes(row, pictures)
    several = len({one.get("seed") for one in sample.rows if one.get("seed") is not None}) > 1
    replies = []
    for one in sample.rows:
        seed = f", seed {one['seed']}" if several and one.get("seed") is not None else ""
        replies.append(read_reply(one, shots, name_arm(one["arm"]) + seed))
    return Entry(make_anchor(sample.uid), row, sample.outcome, shots, tuple(replies))


def make_anchor(uid: str) -> str:
    """The element id of a sample: the same in every report that shows it, whatever its uid is made of."""
    return f"sample-{hashlib.sha256(uid.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def link_samples(**filters: str) -> str:
    """The link that opens the explorer with these filters set, such as `#samples?benchmark=mini_mig&task=region`."""
    query = "&".join(f"{key}={quote(value, safe='', errors='replace')}" for key, value in filters.items())
    return f"#samples?{query}"


def _mark_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Entries with the links that each is the first to answer: so every link leads somewhere without the script."""
    taken: set[str] = set()
    marked = []
    for entry in entries:
        where = {"benchmark": entry.row["benchmark"], "task": entry.row["task"]}
        links = [link_samples(**where), link_samples(**where, outcome=entry.outcome)]
        links += [link_samples(**where, arm=reply.row["arm"]) for reply in entry.replies]
        marks = [link[1:] for link in dict.fromkeys(links) if link not in taken]
        taken.update(links)
        marked.append(Entry(entry.anchor, entry.row, entry.outcome, entry.shots, entry.replies, tuple(marks)))
    return marked


def _estimate_chars(entry: Entry) -> int:
    texts = sum(len(part.text) for reply in entry.replies for part in reply.parts)
    shots = len(entry.shots) + sum(reply.shot is not None for reply in entry.replies)
    return SAMPLE_CHARS + len(entry.row["question"]) + texts + SHOT_CHARS * shots + REPLY_CHARS * len(entry.replies)
