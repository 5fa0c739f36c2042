"""The tiny base: its weights are the committed ones, and its training still follows the recorded path."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from migrl.files import hash_file
from migrl.models.family import read_family
from migrl.world.base import BaseTraining, train_base
from migrl.world.corpus import draw_corpus
from migrl.world.tokenizer import ANSWER_TOKENS, build_processor

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "reproduce" / "tiny_base"

# One product rounds by 2^-8 in bfloat16, and 20 steps carry it on: the bounds below are that reasoning,
# not yet a measurement over machines and thread counts. A run on the recording machine is equal.
MAX_DEVIATION = 0.10
MEAN_DRIFT = 0.03


def test_the_committed_weights_are_the_ones_the_recipes_name() -> None:
    for recipe in ("tiny", "test"):
        named = yaml.safe_load((ROOT / "reproduce/recipes" / f"{recipe}.yaml").read_text())["model"]["sha256"]
        assert named == {"model.safetensors": hash_file(BASE / "model.safetensors")}


@pytest.mark.parametrize("phase", ["see", "speak", "bind", "look-up", "choose"])
def test_the_first_steps_of_training_follow_the_recorded_losses(
    phase: str, trajectory: tuple[dict[str, list[float]], dict[str, list[float]]]
) -> None:
    found, recorded = (torch.tensor(losses[phase]) for losses in trajectory)
    deviation = (found - recorded).abs() / recorded
    assert len(found) == len(recorded) == 20
    assert float(deviation.max()) < MAX_DEVIATION
    assert abs(float((found - recorded).mean() / recorded.mean())) < MEAN_DRIFT


def test_the_tokenizer_learned_anew_is_the_committed_one(tmp_path: Path) -> None:
    build_processor(draw_corpus(BaseTraining().seed), tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (BASE / "tokenizer.json").read_text()


@pytest.fixture(scope="module")
def trajectory(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    threads = torch.get_num_threads()
    found = train_base(BaseTraining(), tmp_path_factory.mktemp("base"), stop_after=20)
    torch.set_num_threads(threads)
    return found, json.loads((BASE / "first_losses.json").read_text())


def test_answer_tags_survive_the_decoding_that_trainers_use() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    text = '<think>Image 1: red circle.</think><answer>{"image": 1, "bbox_2d": [1, 22, 103, 40]}</answer>'
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert all(len(tokenizer(tag).input_ids) == 1 for tag in ANSWER_TOKENS)
    ids = tokenizer.convert_tokens_to_ids(list(read_family(BASE).vision_tokens))
    assert tokenizer.unk_token_id not in ids
    assert "red" not in tokenizer.decode(ids, skip_special_tokens=True)


def test_any_text_encodes_and_decodes() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    text = "Zürich 東京 \u202e 12.5 {}[]"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
