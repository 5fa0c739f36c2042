"""Overhead of the teacher's client over the server's own time, at a fixed number of requests in flight.

    python perf/teacher_client.py [--requests 1920] [--slots 64] [--latency 1.0] [--images 2]

A server in a process of its own answers every request after `latency` seconds. The client does all that synthesize
does: it reads, resizes and encodes pictures of 640 x 480 px, sends them, parses replies and writes the log. With all
slots always in use the work takes requests / slots * latency seconds: what it takes longer is the overhead. The
server's CPU time competes with the client's on a machine with few cores, so this is an upper bound.
Target: at most 5 % with 64 in flight and replies of 1 s.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
from aiohttp import web
from PIL import Image

from migrl.engines.server.ask import ask_server
from migrl.engines.server.ledger import add_up
from migrl.engines.server.request import build_requests
from migrl.grounding.prompts import build_messages
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput
from migrl.recipe import ServerTeacher
from migrl.synthesis.teachers.prompts import prompt_item

STORED, SEEN = (640, 480), (644, 476)  # as smart_resize makes it of the first
PICTURES = 40
CANDIDATES = 3
REPLY = {
    "choices": [{"message": {"content": "<think>" + "word " * 300 + "</think>"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1500, "completion_tokens": 350},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1920)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--latency", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--serve", action="store_true", help="be the server")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.latency))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Start the server, ask all requests, print the figures."""
    items = [prompt_item(item, 300) for item in make_items(options.requests // CANDIDATES, options.images, folder)]
    command = [sys.executable, __file__, "--serve", "--latency", str(options.latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        teacher = ServerTeacher(engine="server", model="m", base_url=url, concurrency=options.slots)
        decoding = Decoding(teacher.max_new_tokens, teacher.temperature, rollouts=CANDIDATES)
        start = time.perf_counter()
        encoded = [build_requests(teacher, decoding, item, [0, 1, 2]) for item in items[:20]]
        each = (time.perf_counter() - start) / 20
        size = len(encoded[0][0].body)
        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        rows = ask_server(teacher, "teacher", items, decoding, folder / "replies.jsonl", folder)
        wall = time.perf_counter() - start
        ledger = add_up([row for some in rows for row in some], teacher)
        after = resource.getrusage(resource.RUSAGE_SELF)
        stats = httpx.get(f"{url}/stats", trust_env=False).json()
        server.terminate()
    count = ledger["requests"]
    ideal = count / options.slots * options.latency
    own = stats["busy"] / options.slots
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{count} requests of {size / 1e6:.2f} MB, {options.slots} slots, latency {options.latency} s")
    print(f"wall {wall:.2f} s, ideal {ideal:.2f} s: overhead {100 * (wall / ideal - 1):.2f} %")
    print(f"the server's own time, body read to reply written, {own:.2f} s: overhead {100 * (wall / own - 1):.2f} %")
    average = stats["busy"] / wall
    print(f"in flight at the server: {average:.1f} on average, {stats['most']} at most; retries {ledger['retries']}")
    print(f"client: {1000 * cpu / count:.1f} ms CPU a request; encoding a sample {1000 * each:.0f} ms")
    print(f"client: {after.ru_maxrss // 1024} MB at most, {before.ru_maxrss // 1024} MB before")


def make_items(count: int, images: int, folder: Path) -> list[ModelInput]:
    """Samples over pictures with the detail of photos."""
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
            STORED, Image.Resampling.BICUBIC
        )
        noise = rng.normal(0, 6, (STORED[1], STORED[0], 3))
        fine = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(fine).save(folder / f"{number}.jpg", quality=90)
    items = []
    for number in range(count):
        names = tuple(f"{(number + k) % PICTURES}.jpg" for k in range(images))
        sample = Sample(
            f"p:{number}", "cot", "Difference", names, "Locate it.", BoxTarget(1, (0.2, 0.2, 0.5, 0.5)), "c"
        )
        messages = build_messages("Locate it.", images, "think", "box")
        paths = tuple(folder / name for name in names)
        items.append(ModelInput(sample, paths, (STORED,) * images, (SEEN,) * images, messages, "resized_px"))
    return items


async def serve(latency: float) -> None:
    """Answer every request after `latency` seconds; print the address."""
    stats = {"busy": 0.0, "now": 0, "most": 0}
    reply = json.dumps(REPLY)

    async def complete(request: web.Request) -> web.Response:
        start = time.perf_counter()
        stats["now"] += 1
        stats["most"] = max(stats["most"], stats["now"])
        await request.read()
        await asyncio.sleep(latency)
        stats["now"] -= 1
        stats["busy"] += time.perf_counter() - start
        return web.Response(text=reply, content_type="application/json")

    async def tell(request: web.Request) -> web.Response:
        return web.json_response(stats)

    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", tell)
    app.router.add_get("/v1/stats", tell)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
