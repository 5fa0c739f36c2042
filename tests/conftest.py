"""What all tests share: property tests without a hurry, one thread a worker, and the longest files first."""

import os

import pytest
from hypothesis import settings

# No deadline (CI machines stall), and the same examples on every CI run.
settings.register_profile("migrl", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("migrl")

# For torch, here and in what a test starts: the workers of `make test` have a core each.
os.environ["OMP_NUM_THREADS"] = "1"

FIRST = ("test_kills.py", "test_whole_pipeline.py")
"""The longest file, and one that makes the run which others wait for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no worker is left with one at the end; files stay whole, and in order within."""
    items.sort(key=lambda item: (item.path.parent.name != "smoke", item.path.name not in FIRST))
