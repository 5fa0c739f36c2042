"""Uploading to a local server that speaks the Hub's protocol: nothing twice, nothing lost, and no token in any text."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hf_xet
import pytest
from hub_server import LARGE, HubServer
from huggingface_hub import constants
from pydantic import SecretStr
from run_files import ROOT, prepare
from typer.testing import CliRunner

from migrl.cli import app
from migrl.errors import UserError
from migrl.publish import Repository, UploadSettings, find_token, upload_repositories

# huggingface_hub 1.33 sends LFS parts in a way that httpx 0.28 calls old.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TOKEN = "hf_" + "aB3" * 12
KEYS = {"model": "models/owner/name", "dataset": "datasets/owner/name-data"}


@pytest.fixture(scope="module")
def repositories(made: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Repository]:
    return prepare(made, tmp_path_factory.mktemp("out"))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "store") as server:
        yield server


def upload(repositories: list[Repository], hub: HubServer, **options: Any) -> list[str]:
    lines: list[str] = []
    upload_repositories(repositories, UploadSettings(SecretStr(TOKEN), endpoint=hub.url, **options), lines.append)
    return lines


def read_large(hub: HubServer, path: Path, sha256: str, lfs: bool) -> bytes:
    """What the server's store holds of a file that was sent by LFS or by xet."""
    if lfs:
        return hub.objects[sha256]
    (info,) = hf_xet.hash_files([str(path)])
    target = hub.store.with_name("downloaded")
    access = {"endpoint": f"local://{hub.store}", "token": "xet", "token_expiry_unix_secs": 2**40}
    with hf_xet.XetSession().new_file_download_group(**access) as group:
        group.start_download_file(hf_xet.XetFileInfo(info.hash, info.file_size), str(target))
    return target.read_bytes()


@pytest.mark.parametrize("lfs", [True, False], ids=["lfs", "xet"])
def test_every_file_arrives_as_it_is_and_a_second_upload_sends_none(
    repositories: list[Repository], hub: HubServer, lfs: bool
) -> None:
    lines = upload(repositories, hub, lfs=lfs)
    assert [line.split(":")[0] for line in lines] == [f"{r.kind} repository {r.id}" for r in repositories]
    for repository in repositories:
        stored = hub.repos[KEYS[repository.kind]]
        assert stored.private and stored.commits == 1 and stored.files.keys() == repository.files.keys()
        for name, content in stored.files.items():
            path = repository.folder / name
            if name.endswith(LARGE):
                assert content == repository.files[name]["sha256"]
                content = read_large(hub, path, repository.files[name]["sha256"], lfs)
            assert content == path.read_bytes()
    sent = hub.count("PUT", "/lfs/")
    assert bool(sent) == lfs and bool(hub.count("GET", "xet-write-token")) == (not lfs)
    upload(repositories, hub, lfs=lfs)
    assert hub.count("PUT", "/lfs/") == sent and hub.count("POST", "/commit/") == len(repositories)


@pytest.mark.parametrize("lfs", [True, False], ids=["lfs", "xet"])
def test_the_token_travels_in_authorization_headers_only(
    repositories: list[Repository],
    hub: HubServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    lfs: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    upload(repositories, hub, lfs=lfs)
    carried = 0
    for request in hub.requests:
        headers = {name.lower(): value for name, value in request.headers.items()}
        carried += headers.pop("authorization", "") == f"Bearer {TOKEN}"
        rest = f"{request.path} {request.query} {headers}".encode() + request.body
        assert TOKEN.encode() not in rest
        if request.path.startswith("/lfs/") and request.method == "PUT":
            assert "authorization" not in {name.lower() for name in request.headers}
    assert carried > 5
    out, err = capfd.readouterr()
    assert TOKEN not in caplog.text + out + err


@pytest.mark.parametrize(
    ("part", "status", "advice"),
    [
        ("/api/repos/create", 401, "use a token that may write"),
        ("/commit/", 403, "use a token that may write"),
        ("/api/validate-yaml", 400, "the Hub refuses the card"),
        ("/info/lfs/objects/batch", 413, "start the same command again"),
    ],
)
def test_a_refused_upload_says_why_without_the_token(
    repositories: list[Repository], hub: HubServer, part: str, status: int, advice: str
) -> None:
    hub.refuse[part] = (status, f"you sent {TOKEN}")
    with pytest.raises(UserError, match=r"^model repository owner/name: ") as caught:
        upload(repositories, hub, lfs=True)
    error = caught.value
    assert advice in str(error) and "you sent [token]" in str(error) and TOKEN not in str(error)
    assert error.__cause__ is None and error.__context__ is None  # those would carry the request and its headers
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    ours = [frame for frame in shown.stack if "migrl" in frame.filename]
    assert ours and TOKEN not in str([frame.locals for frame in ours])


def test_an_upload_without_network_or_xet_says_what_helps(repositories: list[Repository], hub: HubServer) -> None:
    hub.refuse["xet-write-token"] = (404, "no xet here")
    with pytest.raises(UserError, match="use --lfs"):
        upload(repositories, hub)
    settings = UploadSettings(SecretStr(TOKEN), endpoint="http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"ConnectError.*start the same command again"):
        upload_repositories(repositories, settings, print)


def call_publish(made: Path, hub: HubServer, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "token").write_text(TOKEN + "\n")
    command = [str(Path(sys.executable).with_name("migrl")), "publish", "--recipe", "tiny", "--to", "owner/name"]
    places = ["--runs", made / "runs", "--results", made / "results", "--out", tmp_path / "out"]
    send = ["--yes", "--lfs", "--endpoint", hub.url, "--token-file", tmp_path / "token"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, *map(str, places), *map(str, send)], cwd=ROOT, **pipes)


def test_a_killed_upload_goes_on_where_it_ended(made: Path, hub: HubServer, tmp_path: Path) -> None:
    hub.hold = "/datasets/owner/name-data/commit/"
    process = call_publish(made, hub, tmp_path)
    try:
        assert hub.held.wait(60), process.stdout and process.stdout.read()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        killed = process.communicate()[0]
    assert hub.repos[KEYS["model"]].commits == 1 and hub.repos[KEYS["dataset"]].commits == 0
    sent = hub.count("PUT", "/lfs/")
    hub.hold = ""
    again = call_publish(made, hub, tmp_path)
    said = again.communicate(timeout=1800)[0]
    assert again.returncode == 0, said
    assert [repo.commits for repo in hub.repos.values()] == [1, 1] and hub.count("PUT", "/lfs/") == sent
    assert "dataset repository owner/name-data: holds all" in said and TOKEN not in killed + said


def test_files_of_an_earlier_publication_go_and_other_work_stays(
    repositories: list[Repository], hub: HubServer
) -> None:
    upload(repositories, hub, lfs=True)
    model = hub.repos[KEYS["model"]]
    model.files["old/model.safetensors"] = hashlib.sha256(b"old").hexdigest()
    upload(repositories, hub, lfs=True)
    assert model.files.keys() == repositories[0].files.keys()
    model.files = {".gitattributes": b"", "README.md": b"years of work"}
    with pytest.raises(UserError, match=r"holds other work \(README\.md\)"):
        upload(repositories, hub, lfs=True)
    assert model.files["README.md"] == b"years of work"


def test_no_repository_gets_anything_while_another_one_refuses(repositories: list[Repository], hub: HubServer) -> None:
    upload(repositories, hub, lfs=True)
    model, data = (hub.repos[KEYS[kind]] for kind in ("model", "dataset"))
    model.files.popitem()
    data.files, sent = {"README.md": b"years of work"}, model.commits
    with pytest.raises(UserError, match=r"^owner/name-data: holds other work"):
        upload(repositories, hub, lfs=True)
    assert model.commits == sent


def test_what_is_meant_to_be_private_is_not_put_into_a_public_repository(
    repositories: list[Repository], hub: HubServer
) -> None:
    upload(repositories, hub, lfs=True, private=False)
    assert not any(repo.private for repo in hub.repos.values())
    for private in (False, None):  # None: the server does not say
        hub.repos[KEYS["model"]].private = private
        with pytest.raises(UserError, match="exists and is public; use --public"):
            upload(repositories, hub, lfs=True)


def test_a_token_is_taken_from_its_file_and_sent_to_safe_places_only(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    token = find_token(path, "https://hub.example.org")
    assert token.get_secret_value() == TOKEN and TOKEN not in f"{token!r} {token} {UploadSettings(token)!r}"
    for endpoint in ("http://hub.example.org", "ftp://127.0.0.1", "http://localhost.example.org"):
        with pytest.raises(UserError, match="must start with https://"):
            find_token(path, endpoint)
    for endpoint in ("hub.example.org", "https://", "https://[", "https://hub:port", "https://hub?x=1", "https://a b"):
        with pytest.raises(UserError, match="is no address of a Hub"):
            find_token(path, endpoint)
    with pytest.raises(UserError, match="holds a user name or password") as caught:
        find_token(path, f"https://user:{TOKEN}@hub.example.org")
    assert TOKEN not in str(caught.value)
    with pytest.raises(UserError, match="stored login belongs to the Hub"):
        find_token(None, "https://hub.example.org")
    for content in ("", f"{TOKEN} {TOKEN}", f"{TOKEN}\x00", f"\ufeff{TOKEN}"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match="must hold one token") as caught:
            find_token(path, None)
        assert TOKEN not in str(caught.value)
    for mistaken in (TOKEN, tmp_path / "none", tmp_path):  # the first by one who types the token itself
        with pytest.raises(UserError, match="cannot be read.*it takes a file that holds the token") as caught:
            find_token(Path(mistaken), None)
        assert TOKEN not in str(caught.value)


def test_the_stored_login_goes_to_the_hub_whatever_the_environment_names(
    repositories: list[Repository], hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # what HF_ENDPOINT sets
    monkeypatch.setattr("migrl.publish.upload.HUB", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="ConnectError"):
        upload_repositories(repositories, UploadSettings(SecretStr(TOKEN)), print)
    # The library asks that place for its list of agents, without a token.
    assert hub.count("POST", "") == 0 and TOKEN not in str([request.headers for request in hub.requests])


def test_without_a_token_nothing_is_built(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no login"))
    places = ["--runs", str(made / "runs"), "--results", str(made / "results"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["publish", "--to", "owner/name", "--yes", *places])
    assert result.exit_code == 1 and result.output == "" and not (tmp_path / "out").exists()
    assert str(result.exception).startswith("no token: run `hf auth login`")
