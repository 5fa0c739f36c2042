"""A real headless Chromium, and the report that it opens. Without one on PATH these tests are skipped, and say why."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from report_rows import LOGS, make_rollouts, make_rows, make_scores, write
from watched import Watched, make_hostile

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")  # while it is open, playwright's event loop runs in this thread, and no other can
def browser() -> Iterator[Browser]:
    path = next((found for found in map(shutil.which, NAMES) if found), None)
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on PATH; install one: apt-get install chromium")
    with sync_playwright() as playwright:
        # No sandbox: containers run as root, and the only pages opened are our own files.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    rows = make_rows(folder / "images", more=30) + make_hostile(folder / "images")
    write(
        folder,
        rows,
        logs=replace(LOGS, training={"sft": LOGS.training["sft"]}),
        scores=make_scores(("region", "more")),
        rollouts=make_rollouts(folder),
    )
    return folder / "out/report.html"


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Opens `file` with `address` behind it; the options are those of a browser context."""
    opened: list[Watched] = []

    def start(file: Path, address: str = "", **options: Any) -> Watched:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | options))
        watched = Watched(context.new_page())
        page, faults, own = watched.page, watched.faults, file.resolve().as_uri()
        page.set_default_timeout(5000)
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(("data:", own)) else faults.append(f"request: {asked.url}"),
        )
        page.goto(own + address)
        opened.append(watched)
        return watched

    yield start
    for watched in opened:
        watched.check()
        watched.page.context.close()
