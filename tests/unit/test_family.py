"""Model families: a record is true of what transformers builds, and what a family does not do is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from migrl.errors import UserError
from migrl.grounding.samples import parse_sample
from migrl.models.family import FAMILIES, find_family, find_processor_family, read_family
from migrl.models.inputs import prepare_input
from migrl.models.loading import load_processor
from migrl.world.model import QWEN2_5_VL, QWEN2_VL, Architecture, build_config

BASE = Path(__file__).resolve().parents[2] / "reproduce" / "tiny_base"
PROCESSOR = load_processor(BASE, min_pixels=3136, max_pixels=9600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors", "*.md")))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("architecture", [QWEN2_5_VL, QWEN2_VL], ids=lambda found: found.model_type)
def test_lora_adapts_the_language_model_alone_and_the_tower_has_the_weights_that_are_counted(
    architecture: Architecture,
) -> None:
    config = build_config(PROCESSOR, architecture)
    family = find_family(config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    adapted = {name for name in linear if re.fullmatch(family.lora_targets, name)}
    tower = {name for name in linear if family.is_vision(f"base_model.model.{name}.weight")}
    assert adapted and tower and adapted | tower == linear and not adapted & tower
    weights = sum(weight.numel() for weight in model.get_submodule(family.vision_tower).parameters())
    assert family.tower.model_validate(config.vision_config).count_parameters() == weights


def test_the_tokens_of_every_family_here_are_tokens_of_the_tiny_base() -> None:
    for family in FAMILIES:
        ids = PROCESSOR.tokenizer.convert_tokens_to_ids(list(family.control_tokens))
        assert set(family.vision_tokens) < set(family.control_tokens) and None not in ids
        assert len(set(ids)) == len(ids)
    assert find_processor_family(PROCESSOR) is read_family(BASE)


def test_an_unknown_model_type_is_named_with_the_known_ones_and_what_to_do(folder: Path) -> None:
    change(folder / "config.json", model_type="llava")
    known = r"qwen2_5_vl \(Qwen2.5-VL\), qwen2_vl \(Qwen2-VL\); .* to migrl/models/family\.py"
    with pytest.raises(UserError, match=rf"base/config\.json: model_type is 'llava', and the known ones are {known}"):
        load_processor(folder, min_pixels=3136, max_pixels=9600)


def test_a_processor_with_larger_patches_than_its_family_is_refused(folder: Path) -> None:
    path = folder / "processor_config.json"
    change(path, image_processor=json.loads(path.read_text())["image_processor"] | {"patch_size": 16})
    with pytest.raises(UserError, match="a token of 32 px, Qwen2.5-VL of 28; take its files"):
        load_processor(folder, min_pixels=3136, max_pixels=9600)


def test_a_frame_that_the_model_does_not_speak_is_refused_with_those_it_does(folder: Path) -> None:
    change(folder / "config.json", model_type="qwen2_vl")
    processor = load_processor(folder, min_pixels=3136, max_pixels=9600)
    target = {"image": 1, "box_unit": [0, 0, 1, 1]}
    row = {"uid": "a", "benchmark": "b", "task": "t", "images": ["a.png"], "question": "?", "target": target}
    sample = parse_sample({**row, "cluster": "a", "sizes": [[56, 84]]}, "here")
    (folder / "a.png").touch()
    assert prepare_input(sample, folder, processor, frame="permille", style="think").true_box == (0, 0, 1000, 1000)
    with pytest.raises(UserError, match=r"model\.frame=resized_px: Qwen2-VL .* in permille; set model\.frame"):
        prepare_input(sample, folder, processor, frame="resized_px", style="think")
