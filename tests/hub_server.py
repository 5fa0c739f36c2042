"""A Hub for tests: a local server that speaks what huggingface_hub 1.33 asks for when it uploads.

Repositories are commits in memory. Large files come by Git LFS, or by xet into a store on disk that hf_xet itself
keeps (its `local://` form). Every request is kept, so that tests can say what was sent and what was not.
"""

import asyncio
import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

LARGE = (".safetensors", ".gz", ".png")


@dataclass
class StoredRepo:
    """Files of the newest commit: the content, or the sha256 of a large file."""

    private: bool
    files: dict[str, bytes | str] = field(default_factory=dict)
    commits: int = 0


@dataclass
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


class HubServer:
    """Start with `with HubServer(folder) as hub`. `refuse` maps a part of a path to an error (status, words);
    a request whose path holds `hold` is never answered, and sets `held`."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.repos: dict[str, StoredRepo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.refuse: dict[str, tuple[int, str]] = {}
        self.hold = ""
        self.held = threading.Event()
        self.url = ""
        self._started = threading.Event()

    def __enter__(self) -> "HubServer":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def count(self, method: str, part: str) -> int:
        """Number of requests so far with this method and this part in their path."""
        return sum(request.method == method and part in request.path for request in self.requests)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 28)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._started.set()
        self._loop.run_forever()
        waiting = asyncio.all_tasks(self._loop)
        for task in waiting:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append(Request(request.method, request.path, request.query_string, dict(request.headers), body))
        if self.hold and self.hold in request.path:
            self.held.set()
            await asyncio.sleep(3600)
        for part, (status, words) in self.refuse.items():
            if part in request.path:
                answer = {"error": words, "errors": [{"message": words}]}
                return web.json_response(answer, status=status, headers={"X-Error-Message": words})
        match request.path.strip("/").split("/"):
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                yaml.safe_load(json.loads(body)["content"].split("---")[1])
                return web.json_response({"warnings": [], "errors": []})
            case ["lfs", oid] if request.method == "PUT":
                assert hashlib.sha256(body).hexdigest() == oid
                self.objects[oid] = body
                return web.Response()
            case ["lfs", oid, "verify"]:
                return web.json_response({}, status=200 if oid in self.objects else 404)
            case [*_, "info", "lfs", "objects", "batch"]:
                return self._batch(json.loads(body))
            case ["api", ("models" | "datasets") as kind, owner, name, *rest]:
                return self._repo(f"{kind}/{owner}/{name}", rest, body)
        return web.json_response({"error": "unknown to this server"}, status=404)

    def _create(self, asked: dict[str, Any]) -> web.Response:
        kind = "datasets" if asked.get("type") == "dataset" else "models"
        repo_id = f"{asked['organization']}/{asked['name']}"
        if f"{kind}/{repo_id}" in self.repos:
            return web.json_response({"error": "it exists", "url": self._page(kind, repo_id)}, status=409)
        self.repos[f"{kind}/{repo_id}"] = StoredRepo(asked.get("visibility") == "private")
        return web.json_response({"url": self._page(kind, repo_id)})

    def _page(self, kind: str, repo_id: str) -> str:
        return f"{self.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"

    def _batch(self, asked: dict[str, Any]) -> web.Response:
        objects = []
        for wanted in asked["objects"]:
            place = f"{self.url}/lfs/{wanted['oid']}"
            missing = wanted["oid"] not in self.objects
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append({**wanted, **({"actions": actions} if missing else {})})
        return web.json_response({"transfer": "basic", "objects": objects})

    def _repo(self, key: str, rest: list[str], body: bytes) -> web.Response:
        repo = self.repos.get(key)
        if repo is None:
            return web.json_response({"error": "no such repository"}, status=404)
        kind, _, repo_id = key.partition("/")
        match rest:
            case [] | ["revision", "main"]:
                siblings = [{"rfilename": name} for name in repo.files]
                return web.json_response(
                    {"id": repo_id, "private": repo.private, "sha": f"{repo.commits:040x}", "siblings": siblings}
                )
            case ["tree", "main"]:
                tree = [{"type": "file", "path": n, "size": 1, "oid": self._oid(repo, n)} for n in repo.files]
                return web.json_response(tree)
            case ["preupload", "main"]:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        "oid": self._oid(repo, file["path"]),
                    }
                    for file in json.loads(body)["files"]
                ]
                return web.json_response({"files": files})
            case ["xet-write-token", "main"]:
                store = f"local://{self.store}"
                return web.json_response({"casUrl": store, "exp": int(time.time()) + 3600, "accessToken": "xet"})
            case ["commit", "main"]:
                self._commit(repo, [json.loads(line) for line in body.splitlines()])
                oid = f"{repo.commits:040x}"
                return web.json_response(
                    {"commitUrl": f"{self._page(kind, repo_id)}/commit/{oid}", "commitOid": oid, "success": True}
                )
        return web.json_response({"error": "unknown to this server"}, status=404)

    def _commit(self, repo: StoredRepo, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    repo.files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    repo.files[value["path"]] = value["oid"]
                case "deletedFile":
                    del repo.files[value["path"]]
        repo.commits += 1

    def _oid(self, repo: StoredRepo, name: str) -> str | None:
        content = repo.files.get(name)
        if isinstance(content, bytes):
            return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return content
