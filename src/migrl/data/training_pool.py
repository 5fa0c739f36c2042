"""What is trained on, for recipes of published data: a prepared folder, MGrounding-630k, or UniVG-R1's stages.

The records are read before the pictures are fetched: MGrounding-630k's archives have 140 GB or more, and a defect of
the records, or a split without samples, should not cost that. Only the archives of the tasks that were chosen follow.
"""

import sys
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from migrl.data.download import SOURCES_FILE, Obtained, Source, load_sources, obtain
from migrl.data.layout import describe_files, link_pictures, refuse_control_tokens
from migrl.data.mgrounding import MGROUNDING
from migrl.data.picture_check import PictureCheck
from migrl.data.pool import Drops, Pool, PoolSizes, Split, count_tasks
from migrl.data.prepared_folder import MAX_FILE_BYTES
from migrl.data.univg_samples import UNIVG
from migrl.errors import UserError
from migrl.files import write_jsonl
from migrl.grounding.samples import Sample, read_samples
from migrl.plain_files import list_plain_files, refuse_large
from migrl.recipe import SINGLE_IMAGE, TRAINING_SPLITS, HubSource, PoolTraining

POOLS: dict[str, Pool] = {"mgrounding": MGROUNDING, "univg": UNIVG}
"""Of each kind of `source.training` with a published pool, how it is read."""


def link_training(training: Path, data: Path, benchmarks: Iterable[str]) -> dict[str, int]:
    """Take cot.jsonl and rl.jsonl of a prepared folder, and link the pictures beside them.

    Raises:
        UserError: a broken file, a link or another special file, a text with a token of the chat template, or a folder
            of a benchmark's name.
    """
    if not training.is_dir():
        raise UserError(
            f"source.training.path={training}: no such folder; prepare it as reproduce/README.md, Data, says, or set "
            "training to null to evaluate the base model alone"
        )
    sizes = list_plain_files(training)
    counts = {}
    for split in TRAINING_SPLITS:
        refuse_large(training / f"{split}.jsonl", sizes.get(f"{split}.jsonl", 0), MAX_FILE_BYTES)
        samples = read_samples(training / f"{split}.jsonl")
        refuse_control_tokens(training / f"{split}.jsonl", samples)
        counts[split] = write_jsonl(data / f"{split}.jsonl", [sample.to_json() for sample in samples])
        for top in sorted({image.split("/", 1)[0] for sample in samples for image in sample.images}):
            if top in benchmarks:
                raise UserError(f"{training / top}: a benchmark has this name as well; rename the folder of pictures")
            link_pictures(top, training / top, data)
    return counts


def find_pool(source: HubSource, training: PoolTraining) -> dict[str, Source]:
    """The catalogue's entries of the training data by name, with the wanted tasks' archives.

    Raises:
        UserError: the catalogue has no such entry, or a benchmark has the name of a folder of pictures.
    """
    path = source.catalog or SOURCES_FILE
    known, pool = load_sources(path), POOLS[training.kind]
    needed = [name for name, task in pool.entries.items() if task is None or task in training.all_tasks]
    for name in needed:
        if name not in known:
            raise UserError(f"{path}: has no source {name}; add it, or train from a prepared folder")
    if taken := set(pool.pictures.values()) & set(source.benchmarks):
        raise UserError(f"source.benchmarks: {min(taken)!r} is the folder of training pictures; rename it in {path}")
    return {name: keep_archives(known[name], training.tasks) for name in needed}


def keep_archives(entry: Source, tasks: Container[str]) -> Source:
    """A source without the archives of other tasks than these; the records stay."""
    kept = [file for file in entry.files if not file.unpack or Path(file.into).name in tasks]
    return entry.model_copy(update={"files": tuple(kept)})


def build_pool(
    source: HubSource,
    training: PoolTraining,
    pool: dict[str, Source],
    pictures: PictureCheck,
    forbidden: set[str | None],
) -> dict[str, Any]:
    """Fetch the records, choose the samples, fetch their pictures, and write both splits; return counts and hashes.

    The splits and the pictures are laid out in the folder that `pictures` are checked in.
    Nothing is trained on a `forbidden` picture, one that a benchmark shows (`identify_picture`).

    Raises:
        UserError: what `obtain` and the readers raise, a split without samples, or missing pictures.
    """

    def get(entry: Source) -> Obtained:
        return obtain(entry, source.downloads, offline=source.offline)

    sizes = PoolSizes(
        training.cot_per_task, training.rl_per_task, source.seed, training.all_tasks, training.broken_share
    )
    folders = {folder: name for name, folder in POOLS[training.kind].pictures.items() if name in pool}
    obtained = {name: get(keep_archives(entry, ())) for name, entry in pool.items()}
    records = {name: files.annotations for name, files in obtained.items()}
    chosen, facts = POOLS[training.kind].choose(records, sizes, forbidden)
    refuse_empty(chosen, facts)
    if short := find_short(sizes, facts["chosen"]):
        print(f"warning: source.training: fewer samples than asked for: {', '.join(short)}", file=sys.stderr)
    shown = {image for samples in chosen.values() for sample in samples for image in sample.images}
    for folder, name in folders.items():
        # The archives of the tasks whose pictures are shown: a path begins with the folder and the task.
        tasks = {path.parts[1] for path in map(PurePosixPath, shown) if path.parts[0] == folder}
        obtained[name] = get(keep_archives(pool[name], tasks))
        link_pictures(folder, obtained[name].images, pictures.folder)
    pictures.decode(shown, "the training pool")
    unusable = pictures.faults
    chosen, dropped = drop_unusable(chosen, unusable, len(shown), training.broken_share, source.downloads)
    refuse_empty(chosen, {"dropped": dropped})
    facts["chosen"] = count_tasks(chosen, sizes.tasks)
    for split, samples in chosen.items():
        write_jsonl(pictures.folder / f"{split}.jsonl", [sample.to_json() for sample in samples])
    licences = {name: repo.licence for entry in pool.values() for name, repo in entry.repos.items()}
    # What the user brings is in no repository: what the catalogue tells them about it holds the licence.
    licences |= {entry.name: entry.manual for entry in pool.values() if entry.manual}
    looked_at = {"shown": len(shown), "unusable": len(unusable), "samples_dropped": dropped}
    return {**facts, "pictures": looked_at, "licences": licences, **describe_files(*obtained.values())}


def drop_unusable(
    chosen: Mapping[Split, list[Sample]], unusable: Mapping[str, str], shown: int, share: float, downloads: Path
) -> tuple[dict[Split, list[Sample]], dict[str, Any]]:
    """The samples without those over unusable pictures, and how many these were by task and reason.

    Raises:
        UserError: more than `share` of the pictures shown are unusable, naming the first of them.
    """
    if len(unusable) > share * shown:
        reasons = list(unusable.values())
        raise UserError(
            f"{downloads}: {len(unusable)} of {shown} training pictures cannot be used: "
            f"{'; '.join(reasons[:3])}{'; ...' * (len(reasons) > 3)}; `migrl fetch --force` unpacks again; "
            "source.training.broken_share is the part that may be left out, and source.training.tasks leaves out tasks"
        )
    drops, kept = Drops(), {}
    for split, samples in chosen.items():
        kept[split] = [sample for sample in samples if not any(image in unusable for image in sample.images)]
        for task, number in (Counter(s.task for s in samples) - Counter(s.task for s in kept[split])).items():
            drops.add(task, f"unusable picture in {split}", number)
    return kept, drops.describe()


def find_short(sizes: PoolSizes, chosen: Mapping[Split, Mapping[str, int]]) -> list[str]:
    """Tasks that have fewer samples in a split than it takes, such as "cot Difference 12 of 3000".

    Stage 1 of UniVG-R1 has no questions over one picture.
    """
    return [
        f"{split} {task} {number} of {sizes.find_limit(split, task)}"
        for split, tasks in chosen.items()
        for task, number in tasks.items()
        if number < sizes.find_limit(split, task) and (split, task) != ("cot", SINGLE_IMAGE)
    ]


def refuse_empty(chosen: Mapping[Split, list[Sample]], facts: dict[str, Any]) -> None:
    """Stop before any picture is fetched if a split has no samples.

    Raises:
        UserError: naming the split, and what was dropped why.
    """
    for split, samples in chosen.items():
        if not samples:
            dropped = facts.get(split, facts)["dropped"]
            raise UserError(
                f"source.training: no sample for {split}; dropped by task and reason: {dropped}; other tasks or counts "
                "may do, else the published files are not of the form that their module's header describes"
            )
