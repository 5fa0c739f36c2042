"""What the tests of the GPU share: whether there is one, tiny data, and trainings on it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from migrl.pipeline import run_pipeline
from migrl.recipe import Recipe, load_recipe
from migrl.running.stage import StageContext
from migrl.stages import grpo, sft

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="session")
def gpu(request: pytest.FixtureRequest) -> bool:
    """Whether there is a GPU; without one every test is skipped."""
    found = torch.cuda.is_available()
    if not found and not request.config.getoption("--on-cpu", default=False):
        pytest.skip("no GPU here: torch.cuda.is_available() is False")
    return found


@dataclass(frozen=True)
class Trainings:
    """Tiny data, and trainings on it that run beside each other: they wait for Python more than for the GPU."""

    home: Path
    dtype: str

    def make_context(self, name: str, place: str, *settings: str) -> StageContext:
        """A stage's context; RL starts from the base model, on the whole pool."""
        inputs = {stage: self.home / stage for stage in ("fetch", "synthesize")}
        if name.startswith("grpo"):
            del inputs["synthesize"]
        folder = self.home / f"{place}.partial"
        folder.mkdir(exist_ok=True)
        return StageContext(name, load_test_recipe(f"model.dtype={self.dtype}", *settings), inputs, folder)

    def start(self, work: Callable[[], Any]) -> "Future[Any]":
        """Do it in a thread of its own."""
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


def load_test_recipe(*settings: str) -> Recipe:
    return load_recipe(ROOT / "reproduce/recipes/test.yaml", list(settings))


@pytest.fixture(scope="session")
def trainings(gpu: bool, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """The test recipe's data and its cold start's samples."""
    runs = tmp_path_factory.mktemp("gpu")
    for stage in ("fetch", "synthesize"):
        run_pipeline(load_test_recipe(), runs, only=stage)
    # Without a GPU the trainer takes bfloat16 only where DeepSpeed is off.
    return Trainings(runs / "test", "bfloat16" if gpu else "float32")


@pytest.fixture(scope="session")
def trained(trainings: Trainings) -> dict[tuple[str, str], "Future[StageContext]"]:
    """SFT and GRPO in bfloat16 under ZeRO-2 and ZeRO-3, all at once."""

    def run(name: str, level: str) -> Callable[[], StageContext]:
        stage = sft if name == "sft" else grpo
        context = trainings.make_context(name, f"{name}_{level}", f"{name.partition('_')[0]}.parallel={level}")

        def train() -> StageContext:
            stage.run(context)
            return context

        return train

    names = ("sft", "grpo_no_cold_start")
    return {(name, level): trainings.start(run(name, level)) for name in names for level in ("zero2", "zero3")}
