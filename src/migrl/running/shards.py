"""Generation spread over processes: each works through every n-th batch and keeps a log of its own.

Batches are formed once, from all inputs (engines/batches.py), and each seeds its own sampling. So what a batch
yields depends neither on the number of processes nor on which of them has it, and the logs, merged by uid, are the same
whatever was killed and resumed on the way, also with another number of processes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from migrl.errors import UserError
from migrl.models.inputs import ModelInput
from migrl.progress import track
from migrl.running.progress_log import ProgressLog, read_log
from migrl.running.stage import PROGRESS, StageContext
from migrl.running.watch.signals import stop_if_asked
from migrl.running.watch.watchdog import watch_progress
from migrl.running.worker import Rank

Rows = list[dict[str, Any]]
Worker = Callable[[list[ModelInput]], Rows]


def work_through(
    context: StageContext,
    name: str,
    rank: Rank,
    batches: list[list[ModelInput]],
    make_worker: Callable[[], Worker],
    label: str,
) -> None:
    """Do this rank's batches that are not in any log yet, a row per input.

    `make_worker` loads what generation needs, and is called only if there is something to do; the worker it returns
    gives a batch's rows, in order, each with its `uid`.
    """
    folder = context.folder
    done = read_progress(folder, name)
    mine = batches[rank.index :: rank.count]
    todo = [batch for batch in mine if any(item.sample.uid not in done for item in batch)]
    if not todo:
        return
    (folder / PROGRESS).mkdir(exist_ok=True)
    log = ProgressLog(folder / PROGRESS / f"{name}.{rank.index}.jsonl")
    shared = f"{label} (process 1 of {rank.count})" if rank.count > 1 else label
    try:
        work = make_worker()
        stop_if_asked(folder.parent, f"loading for {label}")
        shown = track(todo, shared, count=len) if rank.index == 0 else todo
        with watch_progress(folder, context.recipe.watch, rank.index) as tick:
            for number, batch in enumerate(shown, 1):
                log.append([row for row in work(batch) if row["uid"] not in done])
                tick()
                stop_if_asked(folder.parent, f"{label}, batch {number} of {len(todo)}")
    finally:
        log.close()


def read_progress(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Rows of all processes' logs by uid."""
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / PROGRESS).glob(f"{name}.*.jsonl")):
        rows |= read_log(path)
    return rows


def merge_progress(folder: Path, name: str, uids: Iterable[str]) -> Rows:
    """The finished rows in the order of `uids`.

    Raises:
        UserError: a row is missing.
    """
    rows = read_progress(folder, name)
    try:
        return [rows[uid] for uid in uids]
    except KeyError as error:
        raise UserError(f"{folder / PROGRESS}: no row for {error}; run its stage again") from error
