"""What the training stages do to the model before a trainer has it."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from PIL import Image

from migrl.models.family import find_family
from migrl.models.loading import load_model, load_processor
from migrl.recipe import LoraSettings, ModelSettings
from migrl.training.trainer import freeze_vision_tower, make_lora_config

BASE = Path(__file__).resolve().parents[2] / "reproduce" / "tiny_base"


@pytest.mark.parametrize("reentrant", [False, True], ids=["zero2", "zero3"])
def test_the_frozen_tower_is_run_once_and_without_gradients_and_the_adapter_learns_the_same(reentrant):
    passes, gradients = {}, {}
    for frozen in (False, True):
        model = load_model(BASE, ModelSettings(path=str(BASE), dtype="float32", attention="sdpa", min_pixels=3136))
        if frozen:
            freeze_vision_tower(model)
        torch.manual_seed(0)
        adapted = get_peft_model(
            model, make_lora_config(LoraSettings(rank=4, alpha=8, dropout=0.0), find_family(model.config))
        )
        adapted.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        passed = []
        model.model.visual.blocks[0].attn.register_forward_hook(lambda *_, seen=passed: seen.append(1))
        outputs = []
        model.model.visual.merger.register_forward_hook(lambda module, given, out, seen=outputs: seen.append(out))
        batch = encode_two_pictures()
        adapted.train()(**batch, labels=batch["input_ids"]).loss.backward()
        assert outputs[0].requires_grad is not frozen
        passes[frozen] = len(passed)
        gradients[frozen] = {name: weight.grad for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert passes == {False: 2, True: 1}  # checkpointing runs what it passes through backwards a second time
    assert any(gradient.abs().max() > 0 for gradient in gradients[True].values())
    for name, gradient in gradients[True].items():
        assert torch.equal(gradient, gradients[False][name]), name


def encode_two_pictures():
    processor = load_processor(BASE, min_pixels=3136, max_pixels=9600)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "image 1"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    pictures = [Image.new("RGB", (56, 56), color) for color in ("red", "blue")]
    return processor(text=[text], images=pictures, return_tensors="pt")
