"""Teacher behind an OpenAI-compatible server: many requests in flight, every reply kept as soon as it is there.

Pictures are encoded ahead of the requests in threads, so that a free place is filled at once; what is encoded and not
yet sent is bounded by the number of places. Replies reach a log in the order in which they come and are sorted by uid
in the end: neither the order nor the number of places decides anything, and a run that was killed asks only for what
is missing.
"""

import asyncio
import os
import sys
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from migrl.files import ProgressLog, hash_json
from migrl.models.inputs import ModelInput
from migrl.recipe import Recipe, ServerTeacher
from migrl.running.stage import read_manifest
from migrl.running.watch.signals import stop_if_asked
from migrl.synthesis.teachers.bar import Bar
from migrl.synthesis.teachers.client import ServerHealth, Unanswered, ask, check_reachable, open_client, read_key
from migrl.synthesis.teachers.ledger import add_up
from migrl.synthesis.teachers.prompts import hash_teacher_prompts
from migrl.synthesis.teachers.request import Request, build_requests, name_request
from migrl.synthesis.teachers.teacher import Reply
from migrl.synthesis.teachers.unanswered import FailedRequests

REPLIES = "replies"
Missing = tuple[ModelInput, list[int]]
Row = dict[str, Any]


def find_replies(recipe: Recipe, home: Path) -> Path:
    """The log of a server's replies below `home` (`runs/<recipe>`), named by all that decides a reply.

    It lies outside the stage's folder, which a changed filter or a new start with --force throws away: replies cost
    money. To have them written anew, delete the file.
    """
    asked = [
        recipe.synthesize.teacher.model_dump(mode="json"),
        hash_teacher_prompts(),
        recipe.synthesize.max_thought_words,
        recipe.synthesize.seed,
        [recipe.model.frame, recipe.model.min_pixels, recipe.sft.max_pixels],
        read_manifest(home / "fetch")["digest"],
    ]
    return home / REPLIES / f"{hash_json(asked)[:16]}.jsonl"


def ask_server(
    teacher: ServerTeacher, items: list[ModelInput], replies: Path, home: Path, *, candidates: int, seed: int
) -> tuple[list[list[Reply]], dict[str, Any]]:
    """Replies for each item, in order, and the ledger. Goes on with the log `replies` that an earlier run left.

    `home` is where the run is asked to stop (watch/signals.py).

    Raises:
        UserError: no server, a key that it refuses, too long an outage, or too many requests without a reply; what was
            answered is kept.
    """
    key = read_key(teacher.key_file) if teacher.key_file else None
    replies.parent.mkdir(exist_ok=True)
    log = ProgressLog(replies)
    try:
        if todo := list_missing(items, candidates, log):
            aside = FailedRequests(teacher, len(items) * candidates)
            asyncio.run(ask_missing(teacher, key, todo, log, home, seed, aside))
            if aside.rows:
                print(f"warning: {aside.describe()}", file=sys.stderr)
    finally:
        log.close()
    rows = [[log.rows[name_request(item, k)] for k in range(candidates)] for item in items]
    ledger = add_up([row for some in rows for row in some], teacher)
    return [[row["reply"] for row in some] for some in rows], ledger


def list_missing(items: list[ModelInput], candidates: int, log: ProgressLog) -> list[Missing]:
    """Items with the numbers of their candidates that are not in the log; items that are complete are left out."""
    missing = [(item, [k for k in range(candidates) if name_request(item, k) not in log]) for item in items]
    return [(item, numbers) for item, numbers in missing if numbers]


async def ask_missing(
    teacher: ServerTeacher,
    key: str | None,
    todo: list[Missing],
    log: ProgressLog,
    home: Path,
    seed: int,
    aside: FailedRequests,
) -> None:
    """Ask every missing request, at most `concurrency` at a time, and append each reply to the log.

    Ends early with what has been answered if the server refuses all or too much, or if the run under `home` is asked to
    stop.
    """
    ready: asyncio.Queue[Request | None] = asyncio.Queue(maxsize=teacher.concurrency)
    finished: asyncio.Queue[Row | None] = asyncio.Queue()
    pending = iter(todo)
    line = ServerHealth(len(log.rows))

    async def encode() -> None:
        for item, numbers in pending:
            for request in await asyncio.to_thread(build_requests, teacher, item, numbers, seed):
                await ready.put(request)

    async def work() -> None:
        while (request := await ready.get()) is not None:
            rng = Random(f"{seed}/{request.name}")
            try:
                reply, spent = await ask(client, teacher, key, request, rng, bar.count_failure, line)
            except Unanswered as error:
                aside.add(request.name, error)
                bar.pass_over()
                continue
            finished.put_nowait({"uid": request.name, "reply": reply, "spent": asdict(spent)})
            aside.count_reply()
            bar.count_reply(reply)
            if writer.done():
                writer.result()  # raises what stopped it, such as a full disk

    missing = sum(len(numbers) for _, numbers in todo)
    async with open_client(teacher, key) as client:
        await check_reachable(client, teacher)
        with Bar("asking the teacher", len(log.rows), len(log.rows) + missing) as bar:
            writer = asyncio.create_task(write_rows(finished, log))
            try:
                async with asyncio.TaskGroup() as group:
                    guard = group.create_task(heed_requests_to_stop(home, log))
                    encoders = [group.create_task(encode()) for _ in range(count_encoders())]
                    workers = [group.create_task(work()) for _ in range(teacher.concurrency)]
                    await asyncio.wait(encoders)
                    for _ in workers:
                        await ready.put(None)
                    await asyncio.wait(workers)
                    guard.cancel()
                for row in aside.rows:
                    finished.put_nowait(row)
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors
            finally:
                finished.put_nowait(None)
                await writer


def count_encoders() -> int:
    """Threads that encode pictures: more than the cores, or than a few, would take Python's lock from the sending."""
    return min(4, len(os.sched_getaffinity(0)))


async def heed_requests_to_stop(home: Path, log: ProgressLog) -> None:
    """Look every second, for a reply may take minutes and a scheduler waits for less.

    Raises:
        Stopped: a signal was caught since the stage began.
    """
    while True:
        await asyncio.sleep(1)
        stop_if_asked(home, f"{len(log.rows)} replies of the teacher")


async def write_rows(finished: asyncio.Queue[Row | None], log: ProgressLog) -> None:
    """Append rows to the log until a None comes. Rows that wait together go to the disk together, in a thread."""
    ended = False
    while not ended:
        rows = [await finished.get()]
        while not finished.empty():
            rows.append(finished.get_nowait())
        ended = rows[-1] is None
        if whole := [row for row in rows if row is not None]:
            await asyncio.to_thread(log.append, whole)
