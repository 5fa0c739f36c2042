"""Tests of what only a GPU can show: two minutes on one of them. Skipped without one.

`pytest tests/gpu --on-cpu` runs on a processor what can be run there, so that no line of it runs for the first time on
a machine that is lent by the minute.
"""

import pytest
from gpu_run import gpu, trained, trainings

__all__ = ["gpu", "trained", "trainings"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--on-cpu", action="store_true", help="run the tests of the GPU on a processor, as far as they go")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings are printed here and no errors: torch is the machine's own, and so is what it warns of."""
    for item in items:
        if item.path.parent.name == "gpu":
            item.add_marker(pytest.mark.filterwarnings("default"))
