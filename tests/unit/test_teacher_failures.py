"""The client of a server that misbehaves: what is asked again, what is given up and kept, and what is never told."""

import asyncio
import errno
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from teacher_calls import ask_items, make_teacher, read_log
from teacher_server import TeacherServer, serve

from migrl.engines.server.client import ChatServer, parse_retry_after
from migrl.engines.server.reply import MAX_REPLY_BYTES, AttemptFailed, Spent, parse_reply
from migrl.engines.server.retries import Request, Unanswered, ask
from migrl.errors import UserError
from migrl.recipe import ServerTeacher
from migrl.running.api_key import read_key
from migrl.running.progress_log import ProgressLog
from migrl.running.watch.signals import Stopped

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = "sk-Never/Shown"
GOOD = json.dumps({"choices": [{"message": {"content": "sound"}}]})


def write_http(body: str | bytes, status: str = "200 OK", headers: str = "") -> bytes:
    raw = body.encode() if isinstance(body, str) else body
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(raw)}\r\n{headers}\r\n".encode() + raw


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
ECHO = json.dumps({"error": f"no access for {KEY}"}).replace("/", "\\/")
RAW_FAULTS = {
    "nothing": (b"", "ServerDisconnected"),
    "no HTTP": (f"HTTP/9 {KEY}\x1b[31m\r\n\r\n".encode(), r"ClientResponseError.*\[key\]"),
    "a long header": (write_http("", headers="X: " + "a" * 100_000 + "\r\n"), "ClientResponseError"),
    "a broken header": (write_http("", headers=f"X {KEY}: \0\r\n"), r"ClientResponseError.*\[key\]"),
    "half a body": (write_http(GOOD)[:-9], "ClientPayloadError"),
    "a broken chunk": (CHUNKED + b"zz\r\n" + KEY.encode(), "ClientResponseError|ClientPayloadError"),
    "endless chunks": (CHUNKED + CHUNK * 400, f"more than {MAX_REPLY_BYTES} bytes"),
    "gzip unasked": (write_http(b"\x1f\x8b\x08\0\0", headers="Content-Encoding: gzip\r\n"), "torn or not JSON"),
    "latin-1": (write_http('{"choices": "é"}'.encode("latin-1")), "torn or not JSON"),
    "another shape": (write_http('[{"choices": 1}]'), "without choices"),
    "no choices": (write_http('{"choices": []}'), "without choices"),
    "text in parts": (write_http('{"choices": [{"message": {"content": ["a"]}}]}'), "content is no text"),
    "an escaped key": (write_http(ECHO, "500 Oh"), r"status 500.*\[key\]"),
    "a key in UTF-16": (write_http(KEY.encode("utf-16"), "503 Busy", "Retry-After: -1\r\n"), r"status 503.*\[key\]"),
    "a year too far": (write_http("x", "429 Slow", "Retry-After: Mon, 01 Jan 99999999999 00:00:00 GMT\r\n"), "429"),
}


@contextmanager
def serve_raw(answers: list[bytes], hold: float = 0.0) -> Iterator[str]:
    """A server that sends each of `answers` to one connection, reads no request beyond its head, and holds the
    connection for `hold` seconds; yields its address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def work() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                try:
                    connection.sendall(answer)
                    time.sleep(hold)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass
                except OSError:
                    continue  # the client has seen enough

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        thread.join(20)
        listener.close()


def ask_once(teacher: ServerTeacher, body: bytes = b"{}") -> tuple[dict[str, Any], Spent, list[str]]:
    """One request's reply, what it took, and the reasons of the attempts that failed."""
    reasons: list[str] = []

    async def run() -> tuple[dict[str, Any], Spent]:
        server = ChatServer(teacher, "section", KEY)
        async with server:
            return await ask(server, Request("u#0", body), reasons.append)

    return *asyncio.run(run()), reasons


@pytest.mark.parametrize("fault", RAW_FAULTS)
def test_a_broken_answer_is_asked_for_again_and_never_shows_the_key(fault: str) -> None:
    answer, told = RAW_FAULTS[fault]
    closing = write_http(GOOD, headers="Connection: close\r\n")
    with serve_raw([answer, closing]) as url:
        reply, spent, reasons = ask_once(make_teacher(url))
    assert reply["completion"] == "sound" and spent.retries == 1
    (reason,) = reasons
    assert re.search(told, reason), reason
    assert KEY not in reason.replace("\\", "") and reason.isprintable()


def test_an_answer_that_drips_or_never_comes_is_given_up_in_time() -> None:
    drip = CHUNKED + b"1\r\n{\r\n"
    with serve_raw([b"", drip], hold=0.6) as url:
        with pytest.raises(Unanswered, match="2 attempts.*no whole reply within reply_seconds=0.3") as caught:
            ask_once(make_teacher(url, retries=1, reply_seconds=0.3))
    assert not caught.value.refused


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # openai sends bytes, however many
def test_a_server_that_refuses_before_it_has_read_the_request_is_understood() -> None:
    refusal = write_http(ECHO, "401 Unauthorized")
    with serve_raw([refusal]) as url, pytest.raises(UserError, match=r"status 401.*\[key\].*key_file"):
        ask_once(make_teacher(url), body=b" " * 6_000_000)


def test_the_key_does_not_follow_a_redirect() -> None:
    with serve(TeacherServer()) as other:
        moved = write_http("", "307 Moved", f"Location: {other.url}/chat/completions\r\n")
        with serve_raw([moved]) as url, pytest.raises(UserError, match="status 307.*base_url.*not followed"):
            ask_once(make_teacher(url))
    assert not other.bodies and not other.keys


def test_the_wait_that_a_server_asks_for_is_kept() -> None:
    slow = write_http("x", "429 Slow", "Retry-After: 0.3\r\n")
    with serve_raw([slow, write_http(GOOD, headers="Connection: close\r\n")]) as url:
        start = time.monotonic()
        ask_once(make_teacher(url))
        assert time.monotonic() - start > 0.29


@given(st.integers(-(10**6), 10**6))
def test_a_time_to_retry_is_read_as_seconds_or_as_a_date(seconds: int) -> None:
    date = format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)
    assert parse_retry_after(date, NOW) == max(0, seconds)
    assert parse_retry_after(str(abs(seconds)), NOW) == abs(seconds)


@example("Mon, 01 Jan 99999999999 00:00:00 GMT")
@example("-5")
@given(st.text())
def test_no_retry_header_breaks_the_client(text: str) -> None:
    assert parse_retry_after(text, NOW) >= 0


REPLY_KEYS = ("choices", "message", "content", "finish_reason", "usage", "prompt_tokens", "completion_tokens")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(REPLY_KEYS), inner, max_size=4),
)


@given(st.binary() | JSON.map(lambda data: json.dumps(data).encode()))
def test_no_reply_breaks_the_client(raw: bytes) -> None:
    try:
        reply = parse_reply(raw, "key")
    except AttemptFailed:
        return
    assert isinstance(reply["completion"], str)


def test_a_reply_is_read_with_its_tokens_and_without_what_cannot_be_kept() -> None:
    data = {
        "choices": [{"message": {"content": "a \ud800 b sk-secret c"}, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": -1},
    }
    reply = parse_reply(json.dumps(data).encode(), "sk-secret")
    assert (reply["completion"], reply["truncated"], reply["filtered"]) == ("a ? b [key] c", True, False)
    assert (reply["prompt_tokens"], reply["completion_tokens"]) == (12, None)
    data["choices"][0] = {"message": {"content": None}, "finish_reason": "content_filter"}
    reply = parse_reply(json.dumps(data).encode(), None)
    assert (reply["completion"], reply["truncated"], reply["filtered"]) == ("", False, True)
    data["choices"][0]["message"]["content"] = "I see none of it."
    assert parse_reply(json.dumps(data).encode(), "none")["completion"] == "I see none of it."  # not much of a key
    for raw in (b"{" + b" " * MAX_REPLY_BYTES + b"}", b"[" * 100_000, b'{"choices": [{"mess'):
        with pytest.raises(AttemptFailed):
            parse_reply(raw, None)


def test_a_key_file_is_checked_and_its_content_never_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key"
    with pytest.raises(UserError, match="key_file"):
        read_key(path, "section")
    for content in ("", "two words", "two\nlines", "schlüssel"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(UserError) as caught:
            read_key(path, "section")
        assert not content or content not in str(caught.value)
    path.write_text("sk-1\n")
    path.chmod(0o640)
    assert read_key(path, "section") == "sk-1" and f"chmod 600 {path}" in capsys.readouterr().err
    path.chmod(0o600)
    assert read_key(path, "section") == "sk-1" and not capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 402, 403, 404, 302])
def test_a_key_or_an_address_that_is_refused_ends_it_at_once(status: int, tmp_path: Path) -> None:
    with serve(TeacherServer(refuse=status)) as server, pytest.raises(UserError) as caught:
        ask_items(make_teacher(server.url), 8, tmp_path)
    assert max(server.attempts.values()) == 1 and len(server.bodies) <= 4
    assert f"status {status}" in str(caught.value)


def test_where_no_server_is_it_ends_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no server answers"):
        ask_items(make_teacher(retries=50, backoff_seconds=30), 1, tmp_path)


def test_a_sample_that_fails_too_often_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    with serve(TeacherServer(always="500", always_for="Locate it, 5.")) as server:
        with pytest.raises(UserError, match=r"sample s:5#[01].*3 attempts.*status 500.*kept"):
            ask_items(make_teacher(server.url, retries=2, unanswered=0), 12, tmp_path)
    kept = read_log(tmp_path)
    assert 8 <= len(kept) <= len(server.answered)
    with serve(TeacherServer()) as server:
        replies, ledger = ask_items(make_teacher(server.url), 12, tmp_path)
    assert len(server.bodies) == 24 - len(kept)
    assert [len(some) for some in replies] == [2] * 12 and ledger["requests"] == 24


def test_slots_are_all_used_and_never_more(tmp_path: Path) -> None:
    with serve(TeacherServer(delay=0.1)) as server:
        ask_items(make_teacher(server.url, concurrency=7), 14, tmp_path)
    assert server.most_in_flight == 7


def test_asked_to_stop_it_keeps_what_was_answered(tmp_path: Path) -> None:
    def stop_after_the_first_reply() -> None:
        while not (tmp_path / "replies.jsonl").exists() or not read_log(tmp_path):
            time.sleep(0.05)
        (tmp_path / ".stop-SIGTERM").touch()

    threading.Thread(target=stop_after_the_first_reply, daemon=True).start()
    with serve(TeacherServer(delay=0.3)) as server, pytest.raises(Stopped) as caught:
        ask_items(make_teacher(server.url), 200, tmp_path)
    assert caught.value.exit_code == 143
    assert 0 < len(read_log(tmp_path)) < 400


def test_a_full_disk_stops_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(log: ProgressLog, rows: list[dict[str, Any]]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ProgressLog, "append", fail)
    with serve(TeacherServer(delay=0.3)) as server, pytest.raises(OSError, match="No space left"):
        ask_items(make_teacher(server.url), 200, tmp_path)
    assert len(server.bodies) < 400


def test_samples_that_a_server_does_not_take_are_counted_and_stop_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(TeacherServer(always="400", always_for="Locate it, 5.")) as server:
        replies, ledger = ask_items(make_teacher(server.url, unanswered=0.1), 12, tmp_path)
        assert len(server.bodies) == 24
        assert ask_items(make_teacher(server.url), 12, tmp_path) == (replies, ledger)
        assert len(server.bodies) == 24
    assert (ledger["requests"], ledger["unanswered"], ledger["unreported"]) == (22, 2, 0)
    assert all(reply["unanswered"] and reply["completion"] == "" for reply in replies[5])
    assert not any(reply.get("unanswered") for reply in replies[4])
    assert "warning: 2 requests are left without a reply, the first: sample s:5#" in capsys.readouterr().err


@pytest.mark.parametrize(("fault", "remedy"), [("400", "max_new_tokens"), ("500", "look after the server")])
def test_a_server_that_takes_nothing_stops_the_asking_and_nothing_is_given_up(
    fault: str, remedy: str, tmp_path: Path
) -> None:
    with serve(TeacherServer(always=fault, always_for="Locate it")) as server:
        with pytest.raises(UserError, match=f"status {fault}.*unanswered=1 allows 100.*{remedy}"):
            ask_items(make_teacher(server.url, retries=0, unanswered=1), 50, tmp_path)
    assert not read_log(tmp_path)
    assert len(server.bodies) < 70 if fault == "400" else len(server.bodies) < 20
    with serve(TeacherServer()) as server:
        ask_items(make_teacher(server.url), 50, tmp_path)
        assert len(server.bodies) == 100


def test_an_outage_is_waited_for_and_costs_no_attempts(tmp_path: Path) -> None:
    results: list[Any] = []
    with serve(TeacherServer(delay=0.05)) as first:
        teacher = make_teacher(first.url, retries=1, backoff_seconds=0.1)
        thread = threading.Thread(target=lambda: results.append(ask_items(teacher, 40, tmp_path)))
        thread.start()
        while len(first.answered) < 20:
            time.sleep(0.01)
    time.sleep(1.5)
    with serve(TeacherServer(), port=int(first.url.split(":")[2].removesuffix("/v1"))) as second:
        thread.join(60)
    ((replies, ledger),) = results
    assert ledger["requests"] == 80 and ledger["unanswered"] == 0 and ledger["retries"] >= 8
    assert 40 <= len(second.bodies) < 80 and len(replies) == 40


def test_an_outage_that_lasts_ends_it_with_a_remedy(tmp_path: Path) -> None:
    with serve(TeacherServer(always="429", always_for="Locate it")) as server:
        with pytest.raises(UserError, match="outage_seconds=0.2.*status 429.*concurrency.*kept"):
            ask_items(make_teacher(server.url, outage_seconds=0.2), 2, tmp_path)
