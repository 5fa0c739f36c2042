"""What a server says of all requests and what of one: an outage, an empty account, a flagged picture."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from teacher_calls import ask_items, make_teacher, read_log
from teacher_server import TeacherServer, serve

from migrl.engines.server.client import ChatServer
from migrl.engines.server.reply import AttemptFailed, parse_reply
from migrl.engines.server.retries import Request, Unanswered, ask
from migrl.errors import UserError


def ask_limited(url: str, last_reply: float) -> Any:
    """One request to a server that limits it without end, and that answered another at `last_reply`."""

    async def run() -> Any:
        server = ChatServer(make_teacher(url, outage_seconds=0.05), "section", None)
        server.last_reply = last_reply
        async with server:
            text = 'Locate it\n<answer>{"image": 1, "bbox_2d": [1, 2, 3, 4]}</answer>'
            body = {"messages": [{"content": [{"text": text}]}], "seed": 0}
            return await ask(server, Request("u#0", json.dumps(body).encode()), lambda reason: None)

    return asyncio.run(run())


def test_a_limited_request_ends_the_run_only_if_no_other_is_answered() -> None:
    with serve(TeacherServer(always="429", always_for="Locate it")) as server:
        with pytest.raises(UserError, match="no reply for outage_seconds=0.05"):
            ask_limited(server.url, last_reply=0.0)
        with pytest.raises(Unanswered, match="in which others were answered: status 429") as caught:
            ask_limited(server.url, last_reply=float("inf"))
    assert not caught.value.refused and caught.value.spent.retries > 2


def test_a_flagged_request_is_set_aside_once_the_key_has_worked(tmp_path: Path) -> None:
    with serve(TeacherServer(always="403", always_for="Locate it, 5.")) as server:
        replies, ledger = ask_items(make_teacher(server.url, concurrency=1, unanswered=0.1), 12, tmp_path)
    assert (ledger["requests"], ledger["unanswered"]) == (22, 2)
    assert all(reply["unanswered"] for reply in replies[5])


def test_an_empty_account_ends_the_run_at_once_and_keeps_what_was_answered(tmp_path: Path) -> None:
    with serve(TeacherServer(always="no means", always_for="Locate it, 5.")) as server:
        with pytest.raises(UserError, match="status 429.*quota is used up.*kept"):
            ask_items(make_teacher(server.url, concurrency=1), 12, tmp_path)
    assert server.met["no means"] == 1 and len(read_log(tmp_path)) == len(server.answered)


@pytest.mark.parametrize(
    ("data", "outage"),
    [
        ({"error": {"code": 502, "message": "upstream"}}, True),
        ({"error": {"code": 408, "message": "late"}, "choices": []}, False),
        ({"choices": [{"message": {"content": "<think>half"}, "finish_reason": "error"}]}, False),
    ],
)
def test_an_error_that_comes_with_status_200_is_no_reply(data: dict[str, Any], outage: bool) -> None:
    with pytest.raises(AttemptFailed) as caught:
        parse_reply(json.dumps(data).encode(), None)
    assert caught.value.outage == outage and not caught.value.refused


def test_a_host_that_swallows_connections_is_no_server_and_a_silent_one_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        teacher = make_teacher(url, connect_seconds=0.3, reply_seconds=3, retries=0, concurrency=1, unanswered=0)
        with pytest.raises(UserError, match="no whole reply within reply_seconds"):
            ask_items(teacher, 1, tmp_path)  # it takes the connection and says nothing
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        with pytest.raises(UserError, match="no server answers.*ConnectionTimeoutError.*base_url"):
            ask_items(teacher, 1, tmp_path)
        for one in waiting:
            one.close()


def test_nothing_of_the_environment_reaches_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-another")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-for-another")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-for-another\nX-Secret: for-another")
    monkeypatch.setenv("HTTP_PROXY", "http://localhost:1")
    with serve(TeacherServer()) as server:
        ask_items(make_teacher(server.url), 1, tmp_path)
    assert server.keys == {""} and "for-another" not in str(server.headers)
