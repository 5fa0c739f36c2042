"""What vLLM needs on a processor, for it and for the commands that tests start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

# vLLM's own, of torch's interfaces that it loads.
WARNINGS = ("DeprecationWarning", "FutureWarning", "UserWarning")
# As it loads a model, the build for processors packs the weights of linear layers anew and drops the original, which
# the next weights of a training could not be read into. vLLM calls this plugin in each of its processes.
PLUGIN = """
import torch

def register():
    from vllm.model_executor.layers import utils

    def keep(layer, remove_weight):
        layer.cpu_linear = torch.nn.functional.linear

    utils.dispatch_cpu_unquantized_gemm = keep
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for kind in WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{kind}"))


@pytest.fixture(scope="session")
def vllm_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the build for processors asks for; one process, so that its errors are seen here."""
    pytest.importorskip("vllm", reason="vLLM is not installed; `nox -s vllm` runs these tests")
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "keep_weights.py").write_text(PLUGIN)
    info = folder / "keep_weights-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keep-weights\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nkeep_weights = keep_weights:register\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
        yield
