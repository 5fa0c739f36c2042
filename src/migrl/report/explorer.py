"""The sample explorer: which samples the page holds, their pictures, and links that set its filters.

The choice is a rule, not a taste. Every task and outcome is a cell; cells take turns, each task with another
outcome than the one before it, and give their first sample by uid, then their second, until the page is full. They
stand in that order, so that the first page has many tasks. After the first turn every benchmark adds one sample of each
kind of unreadable answer that is not shown yet.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from urllib.parse import quote

from migrl.grounding.samples import Sample
from migrl.report.embed import Picture, embed_picture
from migrl.report.outcomes import Answers, Outcome, count_outcomes, group_rows, pick_compared
from migrl.report.shots import Reply, Shot, place_true_boxes, read_reply
from migrl.report.text import name_arm
from migrl.scoring.rows import EvaluationRow

EXACT_BUDGET = 2_900_000  # characters of samples with their exact pictures, so that the tiny report stays below 4 MB
SCALED_BUDGET = 12_000_000  # base64 characters of pictures that were scaled down: photographs
SAMPLE_CHARS, SHOT_CHARS, REPLY_CHARS = 1300, 200, 600  # markup around the texts, as measured on the tiny report
_TELLING: tuple[Outcome, ...] = ("fixed", "broken", "both_miss", "both_hit")


@dataclass(frozen=True)
class Entry:
    """One sample of the page, with a reply for each of its answers.

    `anchor` is its element id, the same in every report; `marks` are the links that lead here without the script.
    """

    anchor: str
    answers: Answers
    shots: tuple[Shot, ...]
    replies: tuple[Reply, ...]
    marks: tuple[str, ...] = ()

    @property
    def sample(self) -> Sample:
        return self.answers.sample


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


def build_explorer(
    rows: Iterable[EvaluationRow], arms: Sequence[str], images_root: Path, served: Collection[str] = ()
) -> Explorer:
    """Choose samples and embed their images.

    Args:
        rows: evaluation rows; (arm, seed, uid) is unique.
        arms: order in which answers stand side by side.
        images_root: the folder that the samples' image paths are relative to.
        served: arms that a server answers for, which no outcome compares.

    Raises:
        UserError: an image is missing, unreadable or outside `images_root`, or a row comes twice.
    """
    samples = group_rows(rows, arms, served)
    pictures: dict[str, Picture] = {}
    chosen: dict[str, Entry] = {}
    exact = scaled = 0
    for answers in choose_samples(samples):
        fresh = embed_new(answers.sample, pictures, images_root)
        entry = make_entry(answers, {**pictures, **fresh})
        photos = sum(len(picture.data_uri) for picture in fresh.values() if not picture.pixelated)
        cost = _estimate_chars(entry) + sum(len(picture.data_uri) for picture in fresh.values()) - photos
        if exact + cost > EXACT_BUDGET or scaled + photos > SCALED_BUDGET:
            break
        exact, scaled = exact + cost, scaled + photos
        pictures |= fresh
        chosen[answers.sample.uid] = entry
    shown = [answers for answers in samples if answers.sample.uid in chosen]
    entries = _mark_entries(chosen.values())
    before, after = pick_compared([arm for arm in arms if arm not in served])
    shown_counts = {key: Counter[Outcome]() for key in count_outcomes(samples)} | count_outcomes(shown)
    return Explorer(tuple(entries), tuple(pictures.values()), before, after, count_outcomes(samples), shown_counts)


def choose_samples(samples: Sequence[Answers]) -> Iterator[Answers]:
    """All samples, each once, in the order in which they are taken while there is room."""
    tasks = count_outcomes(samples)
    cells: dict[tuple[tuple[str, str], Outcome], list[Answers]]
    turns = range(len(_TELLING))
    cells = {(key, _TELLING[(place + turn) % len(turns)]): [] for turn in turns for place, key in enumerate(tasks)}
    unreadable: dict[tuple[str, str], Answers] = {}
    for answers in samples:
        cells[answers.key, answers.outcome].append(answers)
        for row in answers.rows:
            if not row.score.readable:
                unreadable.setdefault((row.sample.benchmark, row.score.status), answers)
    rounds = [[answers for answers in turn if answers is not None] for turn in zip_longest(*cells.values())]
    first = [row for turn in rounds[:1] for answers in turn for row in answers.rows]
    seen = {(row.sample.benchmark, row.score.status) for row in first}
    extra = [answers for key, answers in unreadable.items() if key not in seen]
    order = [answers for turn in (*rounds[:1], extra, *rounds[1:]) for answers in turn]
    return iter({answers.sample.uid: answers for answers in order}.values())


def embed_new(sample: Sample, known: Mapping[str, Picture], images_root: Path) -> dict[str, Picture]:
    """Image path -> picture, of a sample's images that are not known yet."""
    fresh: dict[str, Picture] = {}
    for path, size in zip(sample.images, sample.sizes, strict=True):
        if path not in known and path not in fresh:
            fresh[path] = embed_picture(images_root, path, size, f"p{len(known) + len(fresh)}")
    return fresh


def make_entry(answers: Answers, pictures: Mapping[str, Picture]) -> Entry:
    """A sample with its pictures, boxes and answers; a training seed stands beside the arm where there are several."""
    shots = place_true_boxes(answers.sample, pictures)
    several = len({row.seed for row in answers.rows} - {None}) > 1
    replies = []
    for row in answers.rows:
        seed = f", seed {row.seed}" if several and row.seed is not None else ""
        replies.append(read_reply(row, shots, name_arm(row.arm) + seed))
    return Entry(make_anchor(answers.sample.uid), answers, shots, tuple(replies))


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
        where = {"benchmark": entry.sample.benchmark, "task": entry.sample.task}
        links = [link_samples(**where), link_samples(**where, outcome=entry.answers.outcome)]
        links += [link_samples(**where, arm=row.arm) for row in entry.answers.rows]
        links.append(link_samples(benchmark=entry.sample.benchmark, outcome=entry.answers.outcome))
        marks = [link[1:] for link in dict.fromkeys(links) if link not in taken]
        taken.update(links)
        marked.append(replace(entry, marks=tuple(marks)))
    return marked


def _estimate_chars(entry: Entry) -> int:
    texts = sum(len(part.text) for reply in entry.replies for part in reply.parts)
    shots = len(entry.shots) + sum(len(reply.shots) for reply in entry.replies)
    return SAMPLE_CHARS + len(entry.sample.question) + texts + SHOT_CHARS * shots + REPLY_CHARS * len(entry.replies)
