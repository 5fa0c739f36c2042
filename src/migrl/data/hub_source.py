"""Published benchmarks as a data source: fetched, counted, and written as samples with their pictures linked.

`<data>/<name>.jsonl` holds a benchmark's samples and `<data>/<name>` is a link to its pictures, which stay in the
downloads folder. What is trained on: data/training_pool.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from migrl.benchmarks import BENCHMARKS, Annotations, Benchmark
from migrl.data.download import SOURCES_FILE, Obtained, Source, find_changes, load_sources, obtain, refuse_missing
from migrl.data.layout import CONTROL_TOKENS, describe_files, link_pictures, move_images
from migrl.data.picture_check import PictureCheck
from migrl.data.pool import identify_picture
from migrl.data.training_pool import build_pool, find_pool, link_training
from migrl.errors import UserError
from migrl.files import write_jsonl
from migrl.grounding.images import MissingPictures, find_missing
from migrl.recipe import HubSource, PoolTraining, PreparedTraining


@dataclass(frozen=True)
class Inspection:
    """What `migrl fetch --check` finds out about one benchmark."""

    name: str
    version: str
    records: int
    expected: int | None
    missing: tuple[str, ...]
    changed: tuple[str, ...] = ()
    defects: dict[str, int] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not self.missing and not self.changed and self.expected in (None, self.records)


def build_hub(source: HubSource, data: Path, pictures: PictureCheck) -> dict[str, Any]:
    """Fetch every benchmark and write it below `data`; return counts, defects, hashes and revisions.

    Of the `pictures` below `data`, those of a training pool are decoded here, as some may be left out.

    Raises:
        UserError: what `obtain` and the loaders raise, a wrong number of records, or missing pictures (all named).
    """
    facts: dict[str, Any] = {"benchmarks": {}}
    data.mkdir(parents=True, exist_ok=True)
    sources = find_sources(source)
    training = source.training
    # What the user has to bring is looked at first: a lack of it should not cost a download.
    if isinstance(training, PreparedTraining):
        facts["training"] = link_training(training.path, data, source.benchmarks)
    pool = find_pool(source, training) if isinstance(training, PoolTraining) else {}
    if source.offline is not None:
        refuse_missing([*sources.values(), *pool.values()], source.offline)
    for entry in pool.values():
        if entry.manual:
            obtain(entry, source.downloads, offline=source.offline)
    shown: set[str | None] = set()
    for name, entry in sources.items():
        obtained = obtain(entry, source.downloads, offline=source.offline)
        benchmark = find_benchmark(name, entry)
        if benchmark.extract is not None:
            benchmark.extract(obtained.annotations, obtained.images)
        annotations = benchmark.load(obtained.annotations, obtained.images, name)
        inspection = inspect(name, entry, annotations, obtained.images)
        refuse_faults([inspection])
        write_benchmark(name, annotations, obtained.images, data)
        shown.update(identify_picture(image) for item in annotations.items for image in item.sample.images)
        facts["benchmarks"][name] = describe(inspection, obtained)
    if isinstance(training, PoolTraining):
        facts["training"] = build_pool(source, training, pool, pictures, shown)
    return facts


def find_sources(source: HubSource) -> dict[str, Source]:
    """The catalogue's entries of the recipe's benchmarks, in their order.

    Raises:
        UserError: a name that is none of them, or one that `migrl fetch` cannot bring into the common form.
    """
    path = source.catalog or SOURCES_FILE
    known = load_sources(path)
    for name in source.benchmarks:
        if name not in known:
            raise UserError(f"source.benchmarks: {name!r} is not in {path}; it has {', '.join(known)}")
        if known[name].benchmark not in BENCHMARKS:
            raise UserError(
                f"source.benchmarks: {name!r} is no benchmark that migrl can read; it reads {', '.join(BENCHMARKS)}, "
                f"and what says in {path} that it is read as one of these, by its key `benchmark`"
            )
    return {name: known[name] for name in source.benchmarks}


def find_benchmark(name: str, entry: Source) -> Benchmark:
    """The benchmark that reads a source; sources that differ in their file only share one."""
    return BENCHMARKS[entry.benchmark]


def inspect(name: str, entry: Source, annotations: Annotations, images: Path) -> Inspection:
    """Count records, and look for every picture that they name."""
    named = (image for item in annotations.items for image in item.sample.images)
    missing = tuple(find_missing(images, named))
    defects = {kind: len(uids) for kind, uids in annotations.defects.items()}
    records = len(annotations.items) + defects.get("no_answer", 0)
    return Inspection(name, annotations.version, records, entry.records, missing, defects=defects)


def inspect_downloads(source: HubSource) -> list[Inspection]:
    """Inspect what lies in the downloads folder, without a network.

    Raises:
        UserError: a benchmark that was never fetched, or a broken file.
    """
    inspections = []
    for name, entry in find_sources(source).items():
        base = source.downloads / entry.folder
        annotations, images = base / entry.annotations, base / entry.images
        if not annotations.exists():
            raise UserError(f"{annotations}: not there; run `migrl fetch` first")
        changed = tuple(find_changes(entry, source.downloads))
        try:
            loaded = find_benchmark(name, entry).load(annotations, images, name)
        except MissingPictures as error:
            # Boxes in pixels cannot be read without the pictures, so the records were not counted either.
            inspections.append(Inspection(name, "not read", 0, None, error.names, changed))
            continue
        inspections.append(replace(inspect(name, entry, loaded, images), changed=changed))
    return inspections


def refuse_faults(inspections: Iterable[Inspection]) -> None:
    """Stop on wrong counts or missing pictures, before anything runs on them.

    Raises:
        UserError: naming them.
    """
    for found in inspections:
        if found.missing:
            raise MissingPictures(found.name, found.missing)
        if found.changed:
            raise UserError(
                f"{found.name}: {len(found.changed)} files are not what was fetched, such as {found.changed[0]!r}; "
                "`migrl fetch --force` brings them again"
            )
        if not found.sound:
            raise UserError(
                f"{found.name}: {found.records} records, {found.expected} are expected; "
                "fetch it again, or correct `records` in the catalogue if the publisher changed it"
            )


def write_benchmark(name: str, annotations: Annotations, images: Path, data: Path) -> None:
    """Write `<data>/<name>.jsonl`, and the link to the pictures that its paths go through."""
    for item in annotations.items:
        if token := next((token for token in CONTROL_TOKENS if token in item.sample.question), None):
            raise UserError(f"{item.sample.uid}: its question holds {token}, which would break the prompt; report it")
    link_pictures(name, images, data)
    samples = move_images([item.sample for item in annotations.items], name)
    write_jsonl(data / f"{name}.jsonl", (sample.to_json() for sample in samples))


def describe(inspection: Inspection, obtained: Obtained) -> dict[str, Any]:
    """Version, counts, defects, and what the data was made from."""
    return {
        "version": inspection.version,
        "records": inspection.records,
        "defects": inspection.defects,
        **describe_files(obtained),
    }
