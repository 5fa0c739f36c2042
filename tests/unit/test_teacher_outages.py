"""What a server says of all requests and what of one: an outage, an empty account, a flagged picture."""

import asyncio
import json
import socket
from pathlib import Path
from random import Random
from typing import Any

import pytest
from teacher_calls import ask_items, make_teacher, read_log
from teacher_server import TeacherServer, serve

from migrl.errors import UserError
from migrl.synthesis.teachers.client import ServerHealth, Unanswered, ask, check_reachable, open_client
from migrl.synthesis.teachers.reply import AttemptFailed, parse_reply
from migrl.synthesis.teachers.request import Request


def ask_limited(url: str, line: ServerHealth) -> Any:
    """One request to a server that limits it without end, while `line` tells of the others."""
    teacher = make_teacher(url, outage_seconds=0.05)

    async def run() -> Any:
        async with open_client(teacher, None) as client:
            text = 'Locate it\n<answer>{"image": 1, "bbox_2d": [1, 2, 3, 4]}</answer>'
            body = {"messages": [{"content": [{"text": text}]}], "seed": 0}
            request = Request("u#0", json.dumps(body).encode())
            return await ask(client, teacher, None, request, Random(0), lambda reason: None, line)

    return asyncio.run(run())


def test_a_limited_request_ends_the_run_only_if_no_other_is_answered() -> None:
    with serve(TeacherServer(always="429", always_for="Locate it")) as server:
        with pytest.raises(UserError, match="no reply for outage_seconds=0.05"):
            ask_limited(server.url, ServerHealth())
        with pytest.raises(Unanswered, match="in which others were answered: status 429") as caught:
            ask_limited(server.url, ServerHealth(replies=9, heard=float("inf")))
    assert not caught.value.refused and caught.value.spent.retries > 2


def test_a_flagged_request_is_set_aside_once_the_key_has_worked(tmp_path: Path) -> None:
    with serve(TeacherServer(always="403", always_for="Locate it, 5.")) as server:
        replies, ledger = ask_items(make_teacher(server.url, concurrency=1, unanswered=0.1), 12, tmp_path)
    assert (ledger["requests"], ledger["unanswered"]) == (22, 2)
    assert all(reply["unanswered"] for reply in replies[5])


def test_an_empty_account_ends_the_run_at_once_and_keeps_what_was_answered(tmp_path: Path) -> None:
    with serve(TeacherServer(always="no means", always_for="Locate it, 5.")) as server:
        with pytest.raises(UserError, match="status 429.*no means left.*kept"):
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


def test_a_host_that_swallows_connections_is_no_server_and_a_silent_one_is() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        teacher = make_teacher(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connect_seconds=0.5)

        async def look() -> None:
            async with open_client(teacher, None) as client:
                await check_reachable(client, teacher)

        asyncio.run(look())  # it takes the connection and says nothing
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        with pytest.raises(UserError, match="no server answers"):
            asyncio.run(look())
        for one in waiting:
            one.close()
