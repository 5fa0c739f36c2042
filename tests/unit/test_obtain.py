"""Data from a Hub on this machine: downloaded once, checked always, or taken from the user's own folder."""

import hashlib
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import snapshot_download

from migrl.data.download import Obtained, Source, download, load_sources, obtain, record
from migrl.data.download.hub import DownloadBar
from migrl.data.download.progress import hash_with_progress
from migrl.errors import UserError
from migrl.files import take_lock
from migrl.progress import Lines

FIRST, SECOND = "1" * 40, "2" * 40
REPO = "someone/data"
LARGE = bytes(range(256)) * 2000


def pack(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return data.getvalue()


FILES = {"records.json": b"[1, 2]", "images.zip": pack({"pics/a.png": b"A", "pics/b.png": b"B"}), "large.bin": LARGE}


@dataclass
class Hub:
    """What the server holds, how it misbehaves, and what it was asked."""

    address: str = ""
    commit: str = FIRST
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    refusal: tuple[int, str] | None = None
    breaks: dict[str, int] = field(default_factory=dict)  # path: bytes after which the connection ends, once
    asked: list[tuple[str, str, str]] = field(default_factory=list)


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            wanted = self.headers.get("Range", "")
            hub.asked.append((self.command, path, wanted))
            assert not self.headers.get("Authorization"), "no token of this machine may leave it"
            if hub.refusal:
                return self.answer(hub.refusal[0], b"", {"X-Error-Code": hub.refusal[1]} if hub.refusal[1] else {})
            if path.startswith("/api/"):
                tree = [{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in hub.files.items()]
                body = tree if "/tree/" in path else {"id": REPO, "sha": hub.commit}
                return self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
            name = path.removeprefix(f"/datasets/{REPO}/resolve/{hub.commit}/")
            if name not in hub.files:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            data = hub.files[name]
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": hub.commit}
            start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
            if wanted:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            if self.command == "GET" and name in hub.breaks:
                stop = hub.breaks.pop(name)
                headers["Content-Length"] = str(len(data) - start)
                self.close_connection = True
                return self.answer(206 if wanted else 200, data[start:stop], headers)
            return self.answer(206 if wanted else 200, data[start:], headers)

        do_HEAD = do_GET

    return Handler


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield hub
    server.shutdown()
    thread.join()
    server.server_close()


def describe(files: list[dict[str, Any]], *, revision: str | None = FIRST, **keys: Any) -> dict[str, Any]:
    repo = {"type": "dataset", "revision": revision, "licence": "MIT", "gated": keys.pop("gated", False), "note": "why"}
    source = {"benchmark": "mig_bench", "about": "a test", "annotations": "records.json", "images": ".", "records": 2}
    return {"repos": {REPO: repo}, "sources": {"demo": {**source, "files": files, **keys}}}


def write_source(folder: Path, data: dict[str, Any]) -> Source:
    path = folder / "sources.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_sources(path)["demo"]


def make_source(folder: Path, files: list[dict[str, Any]] | None = None, **keys: Any) -> Source:
    images = {"path": "images.zip", "unpack": True, "into": "img", "limits": {"max_files": 9, "max_bytes": 999}}
    files = files or [{"path": "records.json"}, {**images, "holds": ["pics"]}, {"path": "*.bin", "into": "more"}]
    return write_source(folder, describe([{"repo": REPO, **file} for file in files], **keys))


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {".cache", ".lock", "fetched.json"} & set(path.relative_to(folder).parts)
    }


def test_a_source_is_downloaded_checked_unpacked_and_laid_out_and_then_needs_no_network(
    hub: Hub, tmp_path: Path
) -> None:
    source, folder = make_source(tmp_path), tmp_path / "data"
    got = obtain(source, folder, endpoint=hub.address)
    assert got.annotations.read_bytes() == FILES["records.json"]
    demo = read_tree(folder / "demo")
    assert demo.pop("img/.unpacked.json")
    assert demo == {"records.json": b"[1, 2]", "img/pics/a.png": b"A", "img/pics/b.png": b"B", "more/large.bin": LARGE}
    assert {key: file.sha256 for key, file in got.files.items()} == {
        f"{REPO}/{name}": hashlib.sha256(data).hexdigest() for name, data in FILES.items()
    }
    assert got.revisions == {REPO: FIRST}
    hub.refusal = (500, "")
    assert obtain(source, folder, endpoint=hub.address) == got


def test_a_file_that_did_not_change_is_not_hashed_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []

    def count(path: Path) -> str:
        hashed.append(path.name)
        return hash_with_progress(path)

    monkeypatch.setattr(record, "hash_with_progress", count)
    source, folder = make_source(tmp_path), tmp_path / "data"
    obtain(source, folder, endpoint=hub.address)
    assert sorted(hashed) == sorted(FILES)
    obtain(source, folder, endpoint=hub.address)
    (folder / "downloads" / REPO / "records.json").touch()
    obtain(source, folder, endpoint=hub.address)
    assert hashed[3:] == ["records.json"]


def test_without_a_terminal_a_long_download_tells_how_far_it_is(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    minutes = count(step=60.0)
    monkeypatch.setattr("migrl.data.download.hub.Lines", partial(Lines, clock=lambda: next(minutes)))
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 200_000)
    obtain(make_source(tmp_path), tmp_path, endpoint=hub.address)
    told = ["downloading: 200.0 kB of 512.0 kB, 1 min 34 s left", "downloading: 400.0 kB of 512.0 kB, 34 s left"]
    assert capsys.readouterr().err.splitlines() == told
    whole = {"repo_type": "dataset", "allow_patterns": "*.bin", "endpoint": hub.address}
    snapshot_download(REPO, revision=FIRST, local_dir=tmp_path / "whole", tqdm_class=DownloadBar, **whole)
    assert capsys.readouterr().err.splitlines() == told, "as the files of a model come"


def test_a_connection_that_breaks_half_way_is_taken_up_where_it_broke(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)  # what comes in between is lost
    hub.breaks["large.bin"] = 300_000
    source = make_source(tmp_path, [{"path": "records.json"}, {"path": "large.bin"}])
    got = obtain(source, tmp_path / "data", endpoint=hub.address)
    assert got.files[f"{REPO}/large.bin"].sha256 == hashlib.sha256(LARGE).hexdigest()
    assert [ask for ask in hub.asked if ask[0] == "GET" and ask[2]] == [
        ("GET", f"/datasets/{REPO}/resolve/{FIRST}/large.bin", "bytes=300000-")
    ]


def test_a_run_killed_anywhere_ends_in_the_same_result_when_started_again(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path, revision=None)
    obtain(source, tmp_path / "whole", endpoint=hub.address)
    steps = {download: ("check_disk", "unpack_zip", "lay_out"), record: ("write_json", "hash_with_progress")}
    kills = [(module, step, number) for module, names in steps.items() for step in names for number in range(4)]
    hit = 0
    for module, step, number in kills:
        folder, calls, real = tmp_path / f"{step}-{number}", [0], getattr(module, step)

        def kill(*args: Any, real: Any = real, calls: list[int] = calls, number: int = number, **keys: Any) -> Any:
            calls[0] += 1
            if calls[0] == number + 1:
                raise KeyboardInterrupt
            return real(*args, **keys)

        with monkeypatch.context() as patch:
            patch.setattr(module, step, kill)
            try:
                obtain(source, folder, endpoint=hub.address)
            except KeyboardInterrupt:
                hit += 1
        obtain(source, folder, endpoint=hub.address)
        assert read_tree(folder) == read_tree(tmp_path / "whole"), (step, number)
    assert hit >= 12


def test_a_killed_download_is_taken_up_where_it_ended_and_other_leftovers_go(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "downloads" / REPO
    folder.mkdir(parents=True)
    kept, other = (folder / f"large.bin.{commit[:12]}.partial" for commit in (FIRST, SECOND))
    kept.write_bytes(LARGE[:300_000])
    other.write_bytes(b"of another revision")
    (folder / f"records.json.{FIRST[:12]}.partial").write_bytes(b"longer than the file itself")
    obtain(make_source(tmp_path), tmp_path / "data", endpoint=hub.address)
    assert (folder / "large.bin").read_bytes() == LARGE and (folder / "records.json").read_bytes() == b"[1, 2]"
    assert [ask[2] for ask in hub.asked if ask[0] == "GET" and ask[1].endswith("large.bin")] == ["bytes=300000-"]
    assert not list(folder.rglob("*.partial"))


def test_a_wrong_hash_or_size_names_file_both_values_and_remedy(hub: Hub, tmp_path: Path) -> None:
    right = hashlib.sha256(FILES["records.json"]).hexdigest()
    source = make_source(tmp_path, [{"path": "records.json", "sha256": "0" * 64}])
    message = rf"records\.json: sha256 is {right}, sources\.yaml says {'0' * 64}; delete the file and get it again"
    with pytest.raises(UserError, match=message):
        obtain(source, tmp_path / "data", endpoint=hub.address)
    source = make_source(tmp_path, [{"path": "records.json", "bytes": 7}])
    hub.asked.clear()
    with pytest.raises(UserError, match=r"records\.json: 6 bytes, sources\.yaml says 7"):
        obtain(source, tmp_path / "other", endpoint=hub.address)
    assert {ask[0] for ask in hub.asked} == {"HEAD"}, "seen before the download"


def test_what_the_first_fetch_found_holds_afterwards(hub: Hub, tmp_path: Path) -> None:
    source, folder = make_source(tmp_path, [{"path": "records.json"}], revision=None), tmp_path / "data"
    first = obtain(source, folder, endpoint=hub.address)
    hub.commit, hub.files["records.json"] = SECOND, b"[3, 4]"
    assert obtain(source, folder, endpoint=hub.address) == first
    assert first.revisions == {REPO: FIRST}
    hub.commit = FIRST
    shutil.rmtree(folder / "downloads")
    old = hashlib.sha256(FILES["records.json"]).hexdigest()
    with pytest.raises(UserError, match=rf"at the first fetch it was \(see .*fetched\.json\) {old}"):
        obtain(source, folder, endpoint=hub.address)


def test_a_new_pin_fetches_the_new_file(hub: Hub, tmp_path: Path) -> None:
    obtain(make_source(tmp_path, [{"path": "records.json"}]), tmp_path / "data", endpoint=hub.address)
    hub.commit, hub.files["records.json"] = SECOND, b"[3, 4]"
    source = make_source(tmp_path, [{"path": "records.json"}], revision=SECOND)
    assert obtain(source, tmp_path / "data", endpoint=hub.address).annotations.read_bytes() == b"[3, 4]"


def write_offline(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("inside", ["", REPO])
def test_an_offline_folder_gives_the_same_data_and_stays_as_it_is(inside: str, hub: Hub, tmp_path: Path) -> None:
    write_offline(tmp_path / "own" / inside)
    source = make_source(tmp_path)
    online = obtain(source, tmp_path / "online", endpoint=hub.address)
    before = read_tree(tmp_path / "own")
    hub.asked.clear()
    got = obtain(source, tmp_path / "data", offline=tmp_path / "own", endpoint=hub.address)
    assert not hub.asked and read_tree(tmp_path / "own") == before
    assert (got.files, got.revisions) == (online.files, {REPO: None})
    assert read_tree(tmp_path / "data" / "demo") == read_tree(tmp_path / "online" / "demo")


def test_all_files_missing_offline_are_listed_in_one_error(tmp_path: Path) -> None:
    own = write_offline(tmp_path / "own")
    (own / "records.json").unlink()
    (own / "large.bin").unlink()
    message = rf"own: 2 files are missing: {REPO}/records\.json, {REPO}/\*\.bin; put them there"
    with pytest.raises(UserError, match=message):
        obtain(make_source(tmp_path), tmp_path / "data", offline=own)


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "GatedRepo"), r"on request only; accept its terms \(MIT\) on its page on the Hub, then `hf auth login`"),
        ((401, "RepoNotFound"), r"no access \(status 401\).*`hf auth login`.*--offline"),
        ((403, ""), r"no access \(status 403\)"),
        ((404, "RepoNotFound"), r"no access \(status 404\)"),
        ((404, "RevisionNotFound"), rf"no revision {FIRST} of it; correct it in sources\.yaml"),
        ((404, "EntryNotFound"), r"no such file at 1{40}; correct it in sources\.yaml"),
        ((500, ""), r"the download failed \(status 500\); check the network and start again"),
    ],
)
def test_a_refusal_of_the_hub_names_repository_reason_and_remedy(
    refusal: tuple[int, str], message: str, hub: Hub, tmp_path: Path
) -> None:
    hub.refusal = refusal
    with pytest.raises(UserError, match=rf"^{REPO}.*: .*{message}"):
        obtain(make_source(tmp_path, [{"path": "records.json"}]), tmp_path / "data", endpoint=hub.address)


def test_without_a_network_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"failed \(ConnectError\); check the network .* or get the files elsewhere"):
        obtain(make_source(tmp_path), tmp_path / "data", endpoint="http://127.0.0.1:9")


def test_a_full_disk_is_seen_before_anything_is_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match="1.0 kB free, .* needed"):
        obtain(make_source(tmp_path), tmp_path / "data", endpoint=hub.address)
    assert not [ask for ask in hub.asked if ask[0] == "GET" and "/resolve/" in ask[1]]


def test_an_archive_that_cannot_be_unpacked_is_not_taken_for_the_truth(hub: Hub, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name, content in FILES.items():
        (own / name).write_bytes(content)
    (own / "images.zip").write_bytes(FILES["images.zip"][:-30])
    source = make_source(tmp_path)
    with pytest.raises(UserError, match=r"images\.zip"):
        obtain(source, tmp_path / "data", offline=own)
    (own / "images.zip").write_bytes(FILES["images.zip"])
    assert obtain(source, tmp_path / "data", offline=own).source == "demo"


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with (
        take_lock(tmp_path / ".lock", "held by nobody else"),
        pytest.raises(UserError, match="another process fetches into this folder"),
    ):
        obtain(make_source(tmp_path), tmp_path)


def test_what_has_to_be_put_there_by_hand_is_asked_for_and_then_found(tmp_path: Path) -> None:
    data = describe([], manual="Get it from its authors.", images="images")
    del data["sources"]["demo"]["files"]
    source = write_source(tmp_path, data)
    message = r"by hand: `records\.json` and `images`\. Get it from its authors\."
    with pytest.raises(UserError, match=message):
        obtain(source, tmp_path / "data")
    for place, offline in (tmp_path / "own", tmp_path / "own"), (tmp_path / "data" / "demo", None):
        (place / "images").mkdir(parents=True)
        (place / "records.json").write_bytes(b"[]")
        got: Obtained = obtain(source, tmp_path / "data", offline=offline)
        assert (got.annotations, got.images) == (place / "records.json", place / "images")
        assert list(got.files) == ["manual/demo/records.json"]
