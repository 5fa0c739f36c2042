"""An OpenAI-compatible server on this machine that teaches the tiny world or answers its questions badly, and
misbehaves as it is told to.

What it says depends on the prompt and the seed alone, some of it wrong on purpose; how it behaves on the way there (its
`faults`) depends on the request and on how often it came before. So a client that does its work gets the same replies
from a sound server and from a broken one.
"""

import asyncio
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from aiohttp import web

PASSING = ("slow", "429", "500", "torn", "disconnect", "huge", "no choices", "error object")
"""Faults that do not come back when the request is sent again."""


@dataclass
class TeacherServer:
    """`faults` is what the first attempts of a request meet, one chosen by its hash; then it is answered.

    `delay` is the time of every good reply; `refuse` a status that all requests get, `always` a fault that all attempts
    of requests whose question holds `always_for` meet.
    """

    faults: Sequence[str] = ()
    delay: float = 0.0
    refuse: int | None = None
    always: str = ""
    always_for: str = ""
    url: str = ""
    attempts: Counter[str] = field(default_factory=Counter)
    answered: list[str] = field(default_factory=list)
    met: Counter[str] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self.respond(request)
        finally:
            self.in_flight -= 1

    async def respond(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw)
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self.keys.add(request.headers.get("Authorization", ""))
        name = hashlib.sha256(raw).hexdigest()
        self.attempts[name] += 1
        if self.refuse is not None:
            echo = f"no access for {request.headers.get('Authorization')}\x1b[31m"
            return web.json_response({"error": {"message": echo}}, status=self.refuse)
        fault = ""
        if self.always and self.always_for in body["messages"][0]["content"][-1]["text"]:
            fault = self.always
        elif self.faults and self.attempts[name] <= 1 + int(name[0], 16) % 2:
            fault = self.faults[int(name[1:6], 16) % len(self.faults)]
        self.met[fault] += 1
        reply = write_reply(body)
        match fault:
            case "slow":
                await asyncio.sleep(30)
            case "429":
                return web.Response(status=429, text="too many", headers={"Retry-After": "0"})
            case "400":
                return web.json_response({"error": {"message": "too many images"}}, status=400)
            case "403":
                return web.json_response({"error": {"code": 403, "message": "your input was flagged"}}, status=403)
            case "no means":
                error = {"code": "insufficient_quota", "message": "check your plan and billing details"}
                return web.json_response({"error": error}, status=429)
            case "500":
                return web.Response(status=500, text="<html>broken</html>")
            case "torn":
                return web.Response(text=json.dumps(reply)[:-40], content_type="application/json")
            case "disconnect":
                assert request.transport is not None
                request.transport.abort()
            case "huge":
                return web.Response(text="{" + " " * (1 << 21) + "}")
            case "no choices":
                return web.json_response({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
            case "error object":
                return web.json_response({"error": {"message": "upstream is overloaded"}})
        await asyncio.sleep(self.delay)
        self.answered.append(name)
        return web.json_response(reply)

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/models."""
        return web.json_response({"data": []})


def write_reply(body: dict[str, Any]) -> dict[str, Any]:
    """What a teacher says: mostly sound, and by the seed a wrong box, a leak, a broken form, or a cut thought.

    Asked a benchmark's question, which tells no answer, it always says the same.
    """
    text = body["messages"][0]["content"][-1]["text"]
    told = re.findall(r"^<answer>.*</answer>$", text, re.M)
    if not told:
        answer = "(A)" if "one letter" in text else '{"image": 1, "bbox_2d": [4, 4, 40, 40]}'
        return write_choice(text, f"<think>It is there.</think><answer>{answer}</answer>", "stop")
    answer = told[-1]
    image = int(re.findall(r'"image": (\d+)', answer)[-1])
    words = [f"look{digit}" for digit in str(body["seed"])[-4:]]
    thought = f"Image {image} shows {' '.join(words)}."
    reason = "stop"
    match body["seed"] % 8:
        case 0:
            answer = f'<answer>{{"image": {image}, "bbox_2d": [0, 0, 2, 2]}}</answer>'
        case 1:
            thought += " The given box shows it."
        case 2:
            answer = answer.replace("</answer>", "")
        case 3:
            answer, reason = "", "length"
    return write_choice(text, f"<think>{thought}</think>{answer}", reason)


def write_choice(text: str, content: str, reason: str) -> dict[str, Any]:
    """A reply with its counts, and the names that the server gives itself."""
    usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(content.split())}
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": reason}],
        "usage": usage,
        "model": "tiny-2026",
        "system_fingerprint": "fp_1",
    }


@contextmanager
def serve(server: TeacherServer, port: int = 0) -> Iterator[TeacherServer]:
    """Run a server in a thread, at a free port or the given one; its address is in `url`."""
    ready = threading.Event()
    ends: list[Callable[[], object]] = []

    async def run() -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/chat/completions", server.complete)
        app.router.add_get("/v1/models", server.list_models)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        stop = asyncio.Event()
        ends.append(partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        ends[0]()
        thread.join()
