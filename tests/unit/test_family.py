"""Model families: a record is true of what transformers builds, and what a family does not do is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, QWEN2_VL, QWEN3_VL, write_processor
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForImageTextToText

from migrl.errors import UserError
from migrl.grounding.boxes import Frame, convert_box
from migrl.grounding.samples import Sample, parse_sample
from migrl.models.family import FAMILIES, ModelFamily, find_family, find_processor_family, read_family
from migrl.models.inputs import prepare_input
from migrl.models.loading import load_processor
from migrl.models.shapes import count_kv_bytes, count_lora_parameters, count_parameters, read_shape
from migrl.world.model import Architecture, build_config

BASE = Path(__file__).resolve().parents[2] / "reproduce" / "tiny_base"
PROCESSOR = load_processor(BASE, min_pixels=3136, max_pixels=9600)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BASE, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors", "*.md")))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda found: found.model_type)
def test_lora_adapts_the_language_model_alone_and_the_parts_have_the_weights_that_are_counted(
    architecture: Architecture, tmp_path: Path
) -> None:
    config = build_config(PROCESSOR, architecture)
    family = find_family(config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    del linear["lm_head"]
    adapted = {name for name in linear if re.fullmatch(family.lora_targets, name)}
    tower = {name for name in linear if family.is_vision(f"base_model.model.{name}.weight")}
    assert adapted and tower and adapted | tower == linear.keys() and not adapted & tower
    config.to_json_file(tmp_path / "config.json")
    shape = read_shape(tmp_path / "config.json")
    counted = count_parameters(shape)
    assert counted.vision == sum(weight.numel() for weight in model.get_submodule(family.vision_tower).parameters())
    assert counted.total == sum(weight.numel() for weight in model.parameters())
    assert count_lora_parameters(shape, 8) == 8 * sum(sum(linear[name].weight.shape) for name in adapted)
    keys = [linear[name].out_features for name in adapted if name.endswith((".k_proj", ".v_proj"))]
    assert count_kv_bytes(shape, 2) == 2 * sum(keys)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda found: found.name)
@given(
    size=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    resized=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_a_box_comes_back_from_every_frame_of_its_family(
    family: ModelFamily, size: tuple[int, int], resized: tuple[int, int], corners: list[float]
) -> None:
    sizes = {
        "original_size": size,
        "resized_size": (resized[0] * family.pixel_factor, resized[1] * family.pixel_factor),
    }
    box = (corners[0], corners[1], corners[2], corners[3])
    for frame in family.frames:
        there = convert_box(box, "unit", frame, **sizes)
        assert convert_box(there, frame, "unit", **sizes) == pytest.approx(box, abs=1e-12)


def test_the_tokens_of_every_family_here_are_tokens_of_the_tiny_base() -> None:
    for family in FAMILIES:
        ids = PROCESSOR.tokenizer.convert_tokens_to_ids(list(family.control_tokens))
        assert set(family.vision_tokens) < set(family.control_tokens) and None not in ids
        assert len(set(ids)) == len(ids)
    assert find_processor_family(PROCESSOR) is read_family(BASE)


def test_an_unknown_model_type_is_named_with_the_known_ones_and_what_to_do(folder: Path) -> None:
    change(folder / "config.json", model_type="llava")
    known = r"qwen2_5_vl \(Qwen2.5-VL\), qwen2_vl \(Qwen2-VL\), qwen3_vl \(Qwen3-VL\), .* to migrl/models/family\.py"
    with pytest.raises(UserError, match=rf"base/config\.json: model_type is 'llava', and the known ones are {known}"):
        load_processor(folder, min_pixels=3136, max_pixels=9600)


def test_of_the_known_model_types_the_nearest_is_named(folder: Path) -> None:
    change(folder / "config.json", model_type="qwen3_vl_moe")
    with pytest.raises(UserError, match="'qwen3_vl_moe'.* of which qwen3_vl is the nearest"):
        read_family(folder)


def test_a_processor_with_larger_patches_than_its_family_is_refused(folder: Path) -> None:
    path = folder / "processor_config.json"
    change(path, image_processor=json.loads(path.read_text())["image_processor"] | {"patch_size": 16})
    with pytest.raises(UserError, match="a token of 32 px, Qwen2.5-VL of 28; take its files"):
        load_processor(folder, min_pixels=3136, max_pixels=9600)


@pytest.mark.parametrize("architecture", [QWEN2_VL, QWEN3_VL], ids=lambda found: found.model_type)
def test_the_processor_of_another_version_of_the_family_is_refused(architecture: Architecture, folder: Path) -> None:
    change(folder / "config.json", model_type=architecture.model_type)
    ours = read_family(folder).processor_class
    said = rf"processor_config\.json: processor_class is 'Qwen2_5_VLProcessor', Qwen2.5-VL's, .* which has {ours}; take"
    with pytest.raises(UserError, match=said):
        load_processor(folder, min_pixels=3136, max_pixels=9600)


def test_a_limit_below_one_token_of_the_family_is_refused_with_the_least_that_is_not(tmp_path: Path) -> None:
    write_processor(tmp_path, QWEN3_VL)
    with pytest.raises(UserError, match="max_pixels=1023 is less than a token of Qwen3-VL, 32 x 32 px; use 1024 or"):
        load_processor(tmp_path, min_pixels=784, max_pixels=1023)
    load_processor(tmp_path, min_pixels=784, max_pixels=1024)


@pytest.mark.parametrize("architecture", [QWEN2_VL, QWEN3_VL], ids=lambda found: found.model_type)
def test_a_frame_that_the_model_does_not_speak_is_refused_with_those_it_does(
    architecture: Architecture, tmp_path: Path
) -> None:
    write_processor(tmp_path, architecture)
    processor = load_processor(tmp_path, min_pixels=3136, max_pixels=9600)
    (tmp_path / "a.png").touch()

    def ask(frame: Frame) -> tuple[float, ...]:
        return prepare_input(make_sample(), tmp_path, processor, frame=frame, style="think").true_box

    assert ask("permille") == (0, 0, 1000, 1000)
    name = find_processor_family(processor).name
    with pytest.raises(UserError, match=rf"model\.frame=resized_px: {name} .* in permille; set model\.frame"):
        ask("resized_px")


def make_sample() -> Sample:
    target = {"image": 1, "box_unit": [0, 0, 1, 1]}
    row = {"uid": "a", "benchmark": "b", "task": "t", "images": ["a.png"], "question": "?", "target": target}
    return parse_sample({**row, "cluster": "a", "sizes": [[56, 84]]}, "here")
