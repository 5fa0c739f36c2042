"""Many requests in flight at once, each reply kept as soon as it is there.

Requests are built (pictures are encoded) ahead in threads, so that a free worker slot is filled at once; what is built
and not yet sent is bounded by the number of slots. Neither the order of the replies nor the number of slots decides
anything.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from migrl.engines.server.client import ChatServer
from migrl.engines.server.figures import Figures
from migrl.engines.server.retries import Request, Unanswered, ask
from migrl.engines.server.unanswered import FailedRequests
from migrl.progress import show_progress
from migrl.running.progress_log import ProgressLog
from migrl.running.watch.signals import stop_if_asked

MAX_THREADS = 4  # that encode pictures: more, or more than the cores, would take Python's lock from the sending
KEEP_SECONDS = 0.1  # replies that come together are written together


async def ask_all(
    server: ChatServer,
    builders: Sequence[Callable[[], list[Request]]],
    log: ProgressLog,
    home: Path,
    failed: FailedRequests,
) -> None:
    """Ask every request of `builders`, at most `concurrency` at a time, and append each reply to the log.

    Raises:
        UserError: the server refuses all, or too much; what has been answered is kept.
        Stopped: the run under `home` is asked to stop; likewise.
    """
    ready: asyncio.Queue[Request | None] = asyncio.Queue(maxsize=server.settings.concurrency)
    rows: list[dict[str, Any]] = []  # answered, and not yet in the log
    writing = threading.Lock()
    waiting = iter(builders)

    async def build() -> None:
        for builder in waiting:
            for request in await asyncio.to_thread(builder):
                await ready.put(request)

    async def work() -> None:
        while (request := await ready.get()) is not None:
            try:
                reply, spent = await ask(server, request, figures.count_failure)
            except Unanswered as error:
                failed.add(request.name, error)
                figures.tell(advance=1)
            else:
                told = {"base_url": server.settings.base_url, **reply.pop("served_by")}
                rows.append({"uid": request.name, "reply": reply, "spent": asdict(spent), "served_by": told})
                failed.count_reply()
                figures.count_reply(reply)

    def keep() -> None:
        with writing:
            new = rows.copy()
            del rows[: len(new)]  # others may have come meanwhile
            if new:
                log.append(new)

    async def watch() -> None:
        while True:
            await asyncio.sleep(KEEP_SECONDS)
            await asyncio.to_thread(keep)  # a slow disk must not hold up the sending
            stop_if_asked(home, f"{len(log.rows)} replies")

    with show_progress("asking the server", failed.total, len(log.rows)) as progress:
        figures = Figures(progress, len(log.rows))
        try:
            async with server, asyncio.TaskGroup() as group:
                watcher = group.create_task(watch())
                async with asyncio.TaskGroup() as workers:
                    for _ in range(server.settings.concurrency):
                        workers.create_task(work())
                    async with asyncio.TaskGroup() as threads:
                        for _ in range(min(MAX_THREADS, len(os.sched_getaffinity(0)))):
                            threads.create_task(build())
                    for _ in range(server.settings.concurrency):
                        await ready.put(None)
                watcher.cancel()
            rows.extend(failed.rows)
        except BaseExceptionGroup as errors:
            raise find_first(errors) from errors
        finally:
            keep()


def find_first(error: BaseException) -> BaseException:
    """The first error in groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
