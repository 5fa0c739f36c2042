"""What the training stages do to the model before a trainer has it."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, QWEN2_5_VL, QWEN2_VL, write_untrained
from peft import get_peft_model
from PIL import Image

from migrl.models.family import find_family
from migrl.models.loading import load_model, load_processor
from migrl.recipe import LoraSettings, ModelSettings
from migrl.training.trainer import check_trainable, freeze_vision_tower, make_lora_config


@dataclass
class Learned:
    """How often the tower's first layer was run, whether its mergers' outputs want gradients, and the adapter's."""

    passes: int
    wanting: list[bool]
    gradients: dict[str, torch.Tensor]


def learn(folder: Path, *, frozen: bool, reentrant: bool | None) -> Learned:
    """One backward pass of a fresh adapter; without checkpointing if `reentrant` is None."""
    model = load_model(folder, ModelSettings(path=str(folder), dtype="float32", attention="sdpa", min_pixels=3136))
    if frozen:
        freeze_vision_tower(model)
    torch.manual_seed(0)
    adapted = get_peft_model(
        model, make_lora_config(LoraSettings(rank=4, alpha=8, dropout=0.0), find_family(model.config))
    )
    if reentrant is not None:
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    passed, wanting = [], []
    tower = model.model.visual
    tower.blocks[0].attn.register_forward_hook(lambda *_: passed.append(1))
    for merger in (tower.merger, *getattr(tower, "deepstack_merger_list", ())):
        merger.register_forward_hook(lambda module, given, output: wanting.append(output.requires_grad))
    batch = encode_two_pictures(folder)
    adapted.train()(**batch, labels=batch["input_ids"]).loss.backward()
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert check_trainable(adapted) == sum(weight.numel() for weight in trained.values())
    return Learned(len(passed), wanting, {name: weight.grad for name, weight in trained.items()})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {architecture.model_type: tmp_path_factory.mktemp("model") for architecture in ARCHITECTURES}
    for architecture in ARCHITECTURES:
        write_untrained(found[architecture.model_type], architecture)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda found: found.model_type)
@pytest.mark.parametrize("reentrant", [False, True], ids=["zero2", "zero3"])
def test_the_frozen_tower_is_run_once_and_without_gradients_and_the_adapter_learns_the_same(
    reentrant, architecture, folders
):
    plain, frozen = (
        learn(folders[architecture.model_type], frozen=some is not None, reentrant=some) for some in (None, reentrant)
    )
    assert frozen.passes == 1 and not any(frozen.wanting)
    assert len(frozen.wanting) == 1 + len(architecture.vision.get("deepstack_visual_indexes", ()))
    assert any(gradient.abs().max() > 0 for gradient in frozen.gradients.values())
    for name, gradient in frozen.gradients.items():
        assert torch.equal(gradient, plain.gradients[name]), name


@pytest.mark.parametrize("architecture", [QWEN2_5_VL, QWEN2_VL], ids=lambda found: found.model_type)
@pytest.mark.parametrize("reentrant", [False, True], ids=["zero2", "zero3"])
def test_checkpointing_alone_would_run_the_tower_of_some_families_twice(reentrant, architecture, folders):
    open_tower = learn(folders[architecture.model_type], frozen=False, reentrant=reentrant)
    assert open_tower.passes == 2 and all(open_tower.wanting)


def encode_two_pictures(folder):
    processor = load_processor(folder, min_pixels=3136, max_pixels=9600)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "image 1"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    pictures = [Image.new("RGB", (56, 56), color) for color in ("red", "blue")]
    return processor(text=[text], images=pictures, return_tensors="pt")
