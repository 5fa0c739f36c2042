"""A real headless Chromium. Without one on PATH these tests are skipped, and say what to install."""

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next((found for found in map(shutil.which, NAMES) if found), None)
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on PATH; install one: apt-get install chromium")
    with sync_playwright() as playwright:
        # No sandbox: containers run as root, and the only pages opened are our own files.
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield launched
        launched.close()
