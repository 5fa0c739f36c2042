"""Published benchmarks as a data source: fetched, counted, and written as samples with their pictures linked.

`<data>/<name>.jsonl` holds a benchmark's samples and `<data>/<name>` is a link to its pictures, which stay in the
downloads folder. Training samples come from MGrounding-630k or from a prepared folder.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from migrl.benchmarks import BENCHMARKS, Annotations, Benchmark
from migrl.data.mgrounding import PoolSizes, choose_samples, identify_picture
from migrl.data.world_source import TRAINING_SPLITS
from migrl.errors import UserError
from migrl.pictures import MissingPictures, find_missing
from migrl.recipe import HubSource, MgroundingTraining, PreparedTraining
from migrl.records import Sample, read_samples, write_jsonl
from migrl.sources import SOURCES_FILE, Obtained, Source, find_changes, load_sources, obtain, refuse_missing

CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|image_pad|>", "<|video_pad|>")
"""Tokens of the chat template; a question that holds one would be another prompt than it seems."""


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


def build_hub(source: HubSource, data: Path) -> dict[str, Any]:
    """Fetch every benchmark and write it below `data`; return counts, defects, hashes and revisions.

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
    pool = find_pool(source, training) if isinstance(training, MgroundingTraining) else None
    if source.offline is not None:
        refuse_missing([*sources.values(), *([pool] if pool else [])], source.offline)
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
    if isinstance(training, MgroundingTraining) and pool is not None:
        facts["training"] = build_pool(source, training, pool, data, shown)
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
        if known[name].benchmark == "mgrounding":
            raise UserError(f"source.benchmarks: {name!r} is for training; name it in source.training")
        if known[name].benchmark == "mc_bench":
            raise UserError("source.benchmarks: 'mc_bench' asks for any number of boxes; score it with `migrl score`")
    return {name: known[name] for name in source.benchmarks}


def find_benchmark(name: str, entry: Source) -> Benchmark:
    """The benchmark that reads a source; sources that differ in their file only share one."""
    return BENCHMARKS[name if name in BENCHMARKS else entry.benchmark]


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
    write_samples(data / f"{name}.jsonl", [item.sample for item in annotations.items], name)


def link_pictures(name: str, images: Path, data: Path) -> None:
    """Make `<data>/<name>` a link to a folder of pictures, or to a single one."""
    (data / name).unlink(missing_ok=True)
    (data / name).symlink_to(images.resolve())


def write_samples(path: Path, samples: Iterable[Sample], folder: str) -> None:
    """Write samples whose images lie below `folder`."""
    moved = (replace(sample, images=tuple(f"{folder}/{image}" for image in sample.images)) for sample in samples)
    write_jsonl(path, (sample.to_json() for sample in moved))


def describe(inspection: Inspection, obtained: Obtained) -> dict[str, Any]:
    """Version, counts, defects, and what the data was made from."""
    return {
        "version": inspection.version,
        "records": inspection.records,
        "defects": inspection.defects,
        **describe_files(obtained),
    }


def describe_files(obtained: Obtained) -> dict[str, Any]:
    """Hashes and sizes of a source's files, and the revisions they are of."""
    files = {name: asdict(file) for name, file in obtained.files.items()}
    return {"files": files, "revisions": obtained.revisions}


def link_training(training: Path, data: Path, benchmarks: Iterable[str]) -> dict[str, int]:
    """Take cot.jsonl and rl.jsonl of a prepared folder, and link the pictures beside them.

    Raises:
        UserError: a broken file, or pictures in a folder that has a benchmark's name.
    """
    if not training.is_dir():
        raise UserError(
            f"source.training.path={training}: no such folder; prepare it as README, Data, says, or set training to "
            "null to evaluate the base model alone"
        )
    counts = {}
    for split in TRAINING_SPLITS:
        samples = read_samples(training / f"{split}.jsonl")
        counts[split] = write_jsonl(data / f"{split}.jsonl", [sample.to_json() for sample in samples])
        for top in sorted({image.split("/", 1)[0] for sample in samples for image in sample.images}):
            if top in benchmarks:
                raise UserError(f"{training / top}: a benchmark has this name as well; rename the folder of pictures")
            link_pictures(top, training / top, data)
    return counts


def find_pool(source: HubSource, training: MgroundingTraining) -> Source:
    """The catalogue's entry of the training data, with the archives of the wanted tasks only.

    Raises:
        UserError: the catalogue has no such entry.
    """
    path = source.catalog or SOURCES_FILE
    for entry in load_sources(path).values():
        if entry.benchmark == "mgrounding":
            wanted = [file for file in entry.files if not file.unpack or Path(file.into).name in training.tasks]
            return entry.model_copy(update={"files": tuple(wanted)})
    raise UserError(f"{path}: no source has benchmark: mgrounding; add it, or train from a prepared folder")


def build_pool(
    source: HubSource, training: MgroundingTraining, entry: Source, data: Path, forbidden: set[str | None]
) -> dict[str, Any]:
    """Fetch MGrounding-630k, choose its samples, and write both splits with their pictures linked.

    Nothing is trained on a `forbidden` picture, one that a benchmark shows (`identify_picture`).

    Raises:
        UserError: what `obtain` and the reader raise, or missing pictures (all named).
    """
    obtained = obtain(entry, source.downloads, offline=source.offline)
    sizes = PoolSizes(training.cot_per_task, training.rl_per_task, source.seed, training.tasks)
    chosen, facts = choose_samples(obtained.annotations, sizes, forbidden)
    named = (image for samples in chosen.values() for sample in samples for image in sample.images)
    if missing := find_missing(obtained.images, named):
        raise MissingPictures(entry.name, missing)
    link_pictures(entry.name, obtained.images, data)
    for split, samples in chosen.items():
        write_samples(data / f"{split}.jsonl", samples, entry.name)
    return {**facts, **describe_files(obtained)}
