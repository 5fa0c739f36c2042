"""A server on this machine as a teacher and as an arm: sound, misbehaving, refusing; killed and resumed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from smoke_run import ROOT, FinishedRun, call_migrl, start
from teacher_server import PASSING, TeacherServer, serve

from migrl.cli import main

KEY = "sk-Never/Shown_0123456789"
EVIDENCE = ("cot.jsonl", "candidates.jsonl", "filters.json")


@dataclass(frozen=True)
class Fetched:
    """A fetched test recipe, and what synthesize makes of it with a sound server."""

    runs: Path
    reference: Path

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.runs, folder / "runs", symlinks=True)
        return folder / "runs"


def list_arguments(url: str, runs: Path, key_file: Path, **more: object) -> list[str]:
    teacher = {
        "engine": "server",
        "model": "tiny-teacher",
        "base_url": url,
        "key_file": str(key_file),
        "backoff_seconds": 0.02,
        "reply_seconds": 3,
        "concurrency": 8,
        "price_per_million_input": 2.0,
        "price_per_million_output": 8.0,
        **more,
    }
    return ["synthesize", "--recipe", "test", "--runs", str(runs), f"synthesize.teacher={json.dumps(teacher)}"]


def write_key(folder: Path) -> Path:
    path = folder / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


def read_facts(runs: Path) -> dict:
    return json.loads((runs / "test/synthesize/manifest.json").read_text())["facts"]


def find_key(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def call_here(arguments: list[str]) -> int | str | None:
    """The command in this process, which has loaded torch already; returns what it ends with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["migrl", *arguments])
        try:
            main()
        except SystemExit as end:
            return end.code
    return 0


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Fetched:
    folder = tmp_path_factory.mktemp("teacher")
    assert not call_here(["fetch", "--recipe", "test", "--runs", str(folder / "runs")])
    shutil.copytree(folder / "runs", folder / "sound")
    with serve(TeacherServer()) as server:
        assert not call_here(list_arguments(server.url, folder / "sound", write_key(folder)))
    return Fetched(folder / "runs", folder / "sound")


def test_a_misbehaving_server_costs_retries_and_changes_nothing(fetched: Fetched, tmp_path: Path) -> None:
    runs = fetched.copy(tmp_path)
    with serve(TeacherServer(faults=PASSING)) as server:
        result = call_migrl(*list_arguments(server.url, runs, write_key(tmp_path), concurrency=24, reply_seconds=2))
    assert result.returncode == 0, result.stderr
    assert all(server.met[fault] for fault in PASSING), server.met
    for name in EVIDENCE:
        assert (runs / "test/synthesize" / name).read_bytes() == (
            fetched.reference / "test/synthesize" / name
        ).read_bytes(), name
    facts, sound = read_facts(runs), read_facts(fetched.reference)
    ledger = facts["teacher"]["ledger"]
    assert ledger["requests"] == 120 and ledger["retries"] == sum(server.attempts.values()) - 120
    assert sound["teacher"]["ledger"]["retries"] == 0
    assert ledger["wasted_prompt_tokens"] == 7 * server.met["no choices"]
    tokens_in = ledger["prompt_tokens"] + ledger["wasted_prompt_tokens"]
    tokens_out = ledger["completion_tokens"] + ledger["wasted_completion_tokens"]
    assert ledger["cost"] == pytest.approx((2.0 * tokens_in + 8.0 * tokens_out) / 1e6, abs=1e-4)
    assert server.keys == {f"Bearer {KEY}"}
    assert not find_key(runs) and KEY not in result.stdout + result.stderr


def test_what_the_server_teaches_wrongly_is_caught_and_counted(fetched: Fetched) -> None:
    facts = read_facts(fetched.reference)
    assert all(facts["rejected"][name] for name in ("parse", "iou", "leak")) and facts["truncated"]
    assert facts["candidates"] == 120 and facts["kept"] == 32
    lines = (fetched.reference / "test/synthesize/candidates.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["family"] for row in rows} == set(facts["families"]) >= {"difference", "tracking", "region"}
    truncated = [c for row in rows for c in row["candidates"] if c["truncated"]]
    assert len(truncated) == facts["truncated"] and {c["rejected"] for c in truncated} == {"parse"}


def test_killed_and_resumed_it_asks_only_for_what_is_missing(fetched: Fetched, tmp_path: Path) -> None:
    runs = fetched.copy(tmp_path)
    with serve(TeacherServer(delay=0.3)) as server:
        arguments = list_arguments(server.url, runs, write_key(tmp_path))
        command = [str(Path(sys.executable).with_name("migrl")), *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 120
        while len(server.answered) < 40:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        second = call_here(arguments)  # would ask, and pay for, the same requests
        assert isinstance(second, str) and "another run is at work there" in second
        told = [Path(f"/proc/{process.pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        assert KEY.encode() not in b"".join(told)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (log,) = (runs / "test/replies").iterdir()
    kept = log.read_bytes().count(b"\n")
    assert 20 < kept <= len(server.answered) < 120
    with log.open("ab") as file:
        file.write(b'{"uid": "torn')
    with serve(TeacherServer()) as server:
        result = call_migrl(*list_arguments(server.url, runs, write_key(tmp_path), concurrency=3))
    assert result.returncode == 0, result.stderr
    assert len(server.bodies) == 120 - kept and server.most_in_flight <= 3
    for name in EVIDENCE:
        assert (runs / "test/synthesize" / name).read_bytes() == (
            fetched.reference / "test/synthesize" / name
        ).read_bytes(), name
    with serve(TeacherServer()) as server:  # replies cost money: another filter asks for none of them again
        assert not call_here(
            [*list_arguments(server.url, runs, write_key(tmp_path)), "synthesize.max_thought_words=60"]
        )
        assert len(server.bodies) == 120  # what a prompt says is another question
        assert not call_here([*list_arguments(server.url, runs, write_key(tmp_path)), "synthesize.min_iou=0.5"])
        assert len(server.bodies) == 120


def test_a_refused_key_ends_with_one_error_that_does_not_show_it(
    fetched: Fetched, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = fetched.copy(tmp_path)
    path = write_key(tmp_path)
    path.chmod(0o644)
    with serve(TeacherServer(refuse=401)) as server:
        error = call_here(list_arguments(server.url, runs, path))
    shown = "".join(capfd.readouterr())
    assert isinstance(error, str) and error.startswith("error: ")
    assert "status 401" in error and "teacher.key_file" in error
    assert "[key]" in error and "\x1b" not in error
    assert f"chmod 600 {path}" in shown
    assert len(server.bodies) <= 8
    assert not find_key(runs) and KEY not in shown + error


def test_a_dry_run_prints_the_bill_and_sends_nothing(
    fetched: Fetched, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve(TeacherServer()) as server:
        assert not call_here([*list_arguments(server.url, fetched.runs, write_key(tmp_path)), "--dry-run"])
    shown = capfd.readouterr().out
    tokens, bill = re.search(r"input tokens +([\d,]+)", shown), re.search(r"bill.*?at most +([\d.]+)", shown, re.S)
    assert tokens and bill and re.search(r"requests +120", shown)
    expected = (2.0 * int(tokens[1].replace(",", "")) + 8.0 * 120 * 1024) / 1e6
    assert float(bill[1]) == pytest.approx(expected, abs=0.01)
    assert not server.bodies and not (fetched.runs / "test/synthesize.partial").exists()


def test_a_teacher_with_weights_here_is_fetched_and_asked(tmp_path: Path) -> None:
    teacher = "{engine: transformers, model: reproduce/tiny_base, dtype: float32, max_new_tokens: 8, temperature: 1.0}"
    settings = ["--recipe", "test", "--runs", str(tmp_path), "source.cot_per_task=1", f"synthesize.teacher={teacher}"]
    assert not call_here(["fetch", *settings])
    fetched = json.loads((tmp_path / "test/fetch/manifest.json").read_text())
    assert fetched["facts"]["teacher"] == {"model": "reproduce/tiny_base", "revision": None}
    assert (tmp_path / "test/fetch/teacher/model.safetensors").is_file()
    assert fetched["recipe"]["teacher"]["model"] == "reproduce/tiny_base"
    assert not call_here(["synthesize", *settings])
    facts = read_facts(tmp_path)
    assert facts["candidates"] == 30 and sum(facts["rejected"].values()) + facts["kept"] == 30
    ledger = facts["teacher"]["ledger"]
    assert 30 <= ledger["completion_tokens"] <= 240 and ledger["unreported"] == 0
    rows = [json.loads(line) for line in (tmp_path / "test/synthesize/candidates.jsonl").read_text().splitlines()]
    assert sum(c["truncated"] for row in rows for c in row["candidates"]) == facts["truncated"] > 0


def test_a_served_arm_stands_in_the_report_and_is_asked_nothing_twice(
    finished: FinishedRun, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs, results, key = tmp_path / "runs", tmp_path / "results", write_key(tmp_path)
    shutil.copytree(finished.runs, runs, symlinks=True)

    def list_words(command: str, url: str) -> list[str]:
        server = {"engine": "server", "model": "gpt", "base_url": url, "key_file": str(key), "backoff_seconds": 0.02}
        server |= {"concurrency": 4, "unanswered": 0.1, "extensions": []}
        server |= {"price_per_million_input": 2.0, "price_per_million_output": 8.0}
        arms = [f"arms={json.dumps({'gpt': server})}", "evaluate.arms=[base, gpt]"]
        return [command, "--recipe", "test", "--runs", str(runs), *arms]

    with serve(TeacherServer(delay=0.2)) as first:
        process = start(*list_words("reproduce", first.url), "--results", results)
        assert process.wait_until(lambda: len(first.answered) >= 20)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (log,) = (runs / "test/replies").iterdir()
    kept = log.read_bytes().count(b"\n")
    assert not call_here([*list_words("evaluate", "http://localhost:1/v1"), "--dry-run"])
    assert "arm gpt, gpt at http://localhost:1/v1: nothing was sent" in (shown := capfd.readouterr().out)
    assert re.search(rf"{kept} more are answered already", shown) and re.search(r"bill +[\d.]+", shown)
    with serve(TeacherServer(always="400", always_for="seen from behind")) as second:
        result = call_migrl(*list_words("reproduce", second.url), "--results", results)
        assert result.returncode == 0, result.stderr
        facts = json.loads((runs / "test/evaluate/manifest.json").read_text())["facts"]
        assert 12 <= kept <= 24 and len(second.bodies) == facts["samples"] - kept
        assert not call_here([*list_words("evaluate", second.url), "--force"])
        assert len(second.bodies) == facts["samples"] - kept
    unanswered, ledger = second.met["400"], facts["servers"]["gpt"]
    assert unanswered > 0 and ledger["unanswered"] == facts["ledger"]["gpt"]["unanswered"] == unanswered
    assert ledger["requests"] == facts["samples"] - unanswered and ledger["cost"] > 0
    entries = {entry["arm"]: entry for entry in json.loads((results / "test/evaluations.json").read_text())}
    assert entries["gpt"]["device"] == ", ".join(sorted([first.url, second.url])) and entries["gpt"]["weights"] is None
    assert entries["gpt"]["server"]["models"] == ["tiny-2026"] and entries["base"]["device"] == "cpu"
    report = (results / "test/report.md").read_text()
    assert re.search(rf"mini_\w+ \| gpt \|.* {unanswered} unanswered", report) and "served at http://" in report
    assert call_migrl("verify", results / "test").returncode == 0
    assert not find_key(runs) and not find_key(results) and str(key) not in (results / "test/manifest.json").read_text()
