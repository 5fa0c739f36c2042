"""MuirBench: 12 multi-image tasks as multiple choice, with an unanswerable twin of each question. An extra.

Source      Hub dataset MUIRBENCH/MUIRBENCH (arXiv 2406.09411), `data/test-*.parquet`, 2,600 items, 11,264 images.
Version     one.
Licence     CC-BY-4.0.
Target      a letter. Twins (`counterpart_idx`) share a cluster.
Scorer      `eval/utils/postprocess.py` (MMMU's): bracketed letter, spaced letter, option text, else a random letter.
Different   no random letter: such a reply is a miss, and counted. The official figure is higher by the share of those
            replies over the number of options. Placeholders of pictures in question and options become "Image N".
Checked     against the format's description; no real file was at hand.
"""

from pathlib import Path

from migrl.benchmarks.benchmark import Annotations, Benchmark, Item
from migrl.benchmarks.fields import Record, is_list, open_record
from migrl.benchmarks.letter_parsers import MUIRBENCH_PARSERS
from migrl.benchmarks.parquet import list_parquet, pick_suffix, read_pictures, read_rows, write_picture
from migrl.grounding.samples import ChoiceTarget, Sample
from migrl.progress import track

KEYS = ("idx", "task", "question", "options", "answer", "counterpart_idx", "image_list")
COUNTS = {"test": 2600}
PLACEHOLDER = "<image>"
MAX_OPTIONS = 26


def load_muirbench(annotations: Path, images: Path, name: str = "muirbench") -> Annotations:
    """Every item of the test files; uids are `<name>:<idx>`. Images are not opened.

    Raises:
        UserError: a broken file or record, naming file, index and key.
    """
    columns: dict[str, str | None] = dict.fromkeys(KEYS)
    columns["image_list"] = "list.element.path"
    items: list[Item] = []
    seen: set[str] = set()
    for path in list_parquet(annotations, "test-*.parquet"):
        for index, row in enumerate(read_rows(path, columns)):
            record = open_record(path, index, row, KEYS)
            item = _parse_row(record, name)
            if item.sample.uid in seen:
                raise record.fail("idx", f"{row['idx']!r} comes twice")
            seen.add(item.sample.uid)
            items.append(item)
    return Annotations("test", tuple(items))


def _parse_row(record: Record, name: str) -> Item:
    idx, options = record.text("idx"), record.texts("options")
    if not idx.isalnum():
        raise record.fail("idx", f"{idx!r} must be letters and digits")
    if len(options) > MAX_OPTIONS:
        raise record.fail("options", f"{len(options)} options have no letters")
    answer = record.text("answer").strip()
    if len(answer) != 1 or not 0 <= ord(answer) - ord("A") < len(options):
        raise record.fail("answer", f"{answer!r} is no letter of {len(options)} options")
    pictures = record.data["image_list"]
    if not is_list(pictures) or not pictures:
        raise record.fail("image_list", "must be a list of pictures")
    images = tuple(f"{idx}_{number}{pick_suffix(picture)}" for number, picture in enumerate(pictures, 1))
    text = "\n".join(
        [record.text("question"), *(f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options))]
    )
    if text.count(PLACEHOLDER) > len(images):
        raise record.fail("image_list", f"{len(images)} pictures for {text.count(PLACEHOLDER)} placeholders")
    for number in range(1, text.count(PLACEHOLDER) + 1):
        text = text.replace(PLACEHOLDER, f"Image {number}", 1)
    twin = str(record.data["counterpart_idx"] or idx)
    sample = Sample(
        f"{name}:{idx}",
        name,
        record.text("task"),
        images,
        text,
        ChoiceTarget(answer, len(options)),
        cluster=min(idx, twin),
    )
    return Item(sample, choices=options)


def extract_pictures(annotations: Path, images: Path) -> int:
    """Write every picture of the test files below `images`; return how many."""
    count = 0
    for path in track(list_parquet(annotations, "test-*.parquet"), "writing pictures"):
        for idx, _, pictures in read_pictures(path, ["image_list"], "idx"):
            for number, picture in enumerate(pictures, 1):
                name = f"{idx}_{number}{pick_suffix(picture)}"
                write_picture(images, name, picture, f"{path}, idx {idx!r}, picture {number}")
                count += 1
    return count


MUIRBENCH = Benchmark("muirbench", load_muirbench, MUIRBENCH_PARSERS, COUNTS, extract=extract_pictures)
