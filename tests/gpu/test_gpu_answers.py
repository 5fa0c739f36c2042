"""Greedy answers of the tiny base on the GPU: those of the processor, alone and in a batch."""

from pathlib import Path

import pytest
import torch
from gpu_run import ROOT, Trainings, load_test_recipe

from migrl.engines.batches import make_batches
from migrl.engines.transformers_engine import generate_batch
from migrl.grounding.samples import read_samples
from migrl.models.decoding import Decoding
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import load_model, load_processor, pick_device

BASE = ROOT / "reproduce/tiny_base"
# Sums in another order differ by 1e-6; two tokens as near to each other as that are rare among some thousand.
LEAST_EQUAL = 0.95


class Answers:
    """Greedy answers to every question of the test recipe's largest set."""

    def __init__(self, data: Path) -> None:
        recipe = load_test_recipe()
        self.settings = recipe.model
        self.processor = load_processor(BASE, min_pixels=recipe.model.min_pixels, max_pixels=recipe.evaluate.max_pixels)
        samples = read_samples(data / "mini_mig.jsonl") + read_samples(data / "mini_mmiu.jsonl")
        self.items = [
            prepare_input(sample, data, self.processor, frame=recipe.model.frame, style="think") for sample in samples
        ]

    def ask(self, device: torch.device, size: int) -> dict[str, str]:
        """Texts by uid, in batches of so many."""
        model = load_model(BASE, self.settings).to(device).eval()
        batches: list[list[ModelInput]] = make_batches(self.items, size)
        found: dict[str, str] = {}
        for batch in batches:
            answers = generate_batch(model, self.processor, batch, Decoding(96))
            found |= {item.sample.uid: some[0].text for item, some in zip(batch, answers, strict=True)}
        return found


@pytest.fixture(scope="module")
def answers(trainings: Trainings) -> Answers:
    return Answers(trainings.home / "fetch" / "data")


@pytest.fixture(scope="module")
def batched(answers: Answers) -> dict[str, str]:
    return answers.ask(pick_device(), 16)


def assert_equal_texts(found: dict[str, str], others: dict[str, str]) -> None:
    """As many texts are equal as rounding allows."""
    assert found.keys() == others.keys() and len(set(found.values())) > len(found) / 4
    share = sum(found[uid] == text for uid, text in others.items()) / len(found)
    print(f"{100 * share:.1f} % of {len(found)} texts are equal")
    assert share >= LEAST_EQUAL


def test_float32_answers_of_the_gpu_are_those_of_the_processor(answers: Answers, batched: dict[str, str]) -> None:
    assert_equal_texts(batched, answers.ask(torch.device("cpu"), 16))


def test_a_question_is_answered_alike_alone_and_in_a_batch(answers: Answers, batched: dict[str, str]) -> None:
    assert_equal_texts(batched, answers.ask(pick_device(), 1))
