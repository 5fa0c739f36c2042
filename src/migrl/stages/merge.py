"""merge: fold the LoRA adapter into the base model, and prove that it was done.

Gates: no missing or unexpected weight; on real samples the merged model's logits equal those of
base + adapter within the dtype's noise, and differ from the base's; the vision tower is untouched.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from migrl.errors import UserError
from migrl.evidence import StageContext, check_disk
from migrl.inputs import ModelInput, prepare_input
from migrl.models import load_model, load_processor, pick_device
from migrl.recipe import Recipe
from migrl.records import read_samples
from migrl.training import VISION_TOWER

CHECKED_SAMPLES = 8
PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
NOISE = {"float32": 1e-3, "bfloat16": 0.15}
"""Largest logit difference that rounding explains: about 1e-7 and 4e-3 relative, at logits up to 50 over 30 layers."""


def run(context: StageContext) -> dict[str, Any]:
    """Write `model/`, complete with processor; return the measured differences."""
    recipe = context.recipe
    adapter_stage = next(name for name in context.inputs if name != "fetch")
    base = context.inputs["fetch"] / "model"
    check_disk(context.folder, 2 * sum(path.stat().st_size for path in base.glob("*.safetensors")))
    adapter, data = context.inputs[adapter_stage] / "adapter", context.inputs["fetch"] / "data"
    return merge_adapter(recipe, base, adapter, data, context.folder / "model")


def merge_adapter(recipe: Recipe, base: Path, adapter: Path, data: Path, out: Path) -> dict[str, Any]:
    """Merge `adapter` into `base`, save to `out`, reload and check.

    Raises:
        UserError: the adapter does not fit, changes nothing, touches the vision tower, or the merge is not exact.
    """
    processor = load_processor(base, min_pixels=recipe.model.min_pixels, max_pixels=recipe.sft.max_pixels)
    samples = read_samples(data / "cot.jsonl")[:CHECKED_SAMPLES]
    items = [prepare_input(sample, data, processor, frame=recipe.model.frame, style="think") for sample in samples]
    model = load_model(base, recipe.model).to(pick_device()).eval()
    vision = {name: weight.clone() for name, weight in model.state_dict().items() if f"{VISION_TOWER}." in name}
    base_logits = compute_logits(model, processor, items)
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    adapter_logits = compute_logits(adapted, processor, items)
    merged = adapted.merge_and_unload(safe_merge=True)
    merged.save_pretrained(out)
    copy_processor(base, out)
    merged = load_model(out, recipe.model).to(pick_device()).eval()
    merged_logits = compute_logits(merged, processor, items)
    error = largest_difference(merged_logits, adapter_logits)
    change = largest_difference(merged_logits, base_logits)
    noise = NOISE[recipe.model.dtype]
    if error > noise:
        raise UserError(
            f"{out}: merged and adapter logits differ by {error:.4g}, more than {noise}; merge again in float32"
        )
    if change <= noise:
        raise UserError(f"{adapter}: the adapter changes no logit by more than {change:.4g}; train sft again")
    state = merged.state_dict()
    touched = [name for name, weight in vision.items() if not torch.equal(state[name], weight)]
    if touched:
        raise UserError(f"{out}: vision tower weight {touched[0]} changed; correct the LoRA targets")
    return {"merge_error": error, "change": change, "noise_bound": noise, "vision_weights_checked": len(vision)}


@torch.inference_mode()
def compute_logits(
    model: Qwen2_5_VLForConditionalGeneration | PeftModel, processor: Qwen2_5_VLProcessor, items: list[ModelInput]
) -> list[torch.Tensor]:
    """Logits (tokens, vocabulary) of each item's prompt, one at a time so that padding plays no part."""
    results = []
    for item in items:
        text = processor.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False)
        batch = processor(text=[text], images=[item.load_images()], return_tensors="pt").to(model.device)
        results.append(model(**batch).logits[0].float().cpu())
    return results


def largest_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Largest absolute difference over all logits."""
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


def copy_processor(source: Path, target: Path) -> None:
    """Copy tokenizer, processor and chat template files beside merged weights."""
    for name in PROCESSOR_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
