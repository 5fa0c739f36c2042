"""merge: fold the LoRA adapter into the base model, and prove that it was done.

Gates: no missing or unexpected weight; on real samples the merged model's logits equal those of
base + adapter within the dtype's noise, and differ from the base's by more; the vision tower is untouched.
"""

import gc
import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, ProcessorMixin

from migrl.errors import OutOfMemory, UserError
from migrl.grounding.samples import read_samples
from migrl.models.family import find_family
from migrl.models.inputs import ModelInput, prepare_input
from migrl.models.loading import copy_small_files, load_for_inference, load_processor, save_model
from migrl.recipe import Recipe
from migrl.running.metering import measure_memory, release_memory
from migrl.running.stage import StageContext, check_disk
from migrl.running.watch.watchdog import watch_loading

CHECKED_SAMPLES = 8
CHECKED_TOKENS = 256  # of each prompt's end: all logits of a long prompt are gigabytes
NOISE = {"float32": 1e-4, "bfloat16": 0.06}
"""Difference of logits that rounding explains: root mean square, relative to that of the logits. The largest one would
grow with their number. 28 layers of width 1024 with random weights gave 0.028 in bfloat16, the largest 0.16."""


def run(context: StageContext) -> dict[str, Any]:
    """Write `model/`, complete with processor; return the measured differences."""
    recipe = context.recipe
    adapter_stage = next(name for name in context.inputs if name != "fetch")
    base = context.inputs["fetch"] / "model"
    check_disk(context.folder, sum(path.stat().st_size for path in base.glob("*.safetensors")))
    adapter, data = context.inputs[adapter_stage] / "adapter", context.inputs["fetch"] / "data"
    try:
        with watch_loading(context.folder, recipe.watch):
            facts = merge_adapter(recipe, base, adapter, data, context.folder / "model")
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(context.name, str(error)) from error
    performance = measure_memory()
    release_memory()
    return facts | {"performance": performance}


def merge_adapter(recipe: Recipe, base: Path, adapter: Path, data: Path, out: Path) -> dict[str, Any]:
    """Merge `adapter` into `base`, save to `out`, reload and check.

    Raises:
        UserError: the adapter does not fit, changes nothing, touches the vision tower, or the merge is not exact.
    """
    processor = load_processor(base, min_pixels=recipe.model.min_pixels, max_pixels=recipe.sft.max_pixels)
    samples = read_samples(data / "cot.jsonl")[:CHECKED_SAMPLES]
    items = [prepare_input(sample, data, processor, frame=recipe.model.frame, style="think") for sample in samples]
    model = load_for_inference(base, recipe.model)
    state, family = model.state_dict(), find_family(model.config)
    vision = {name: weight.to("cpu", copy=True) for name, weight in state.items() if family.is_vision(name)}
    base_logits = compute_logits(model, processor, items)
    adapted = PeftModel.from_pretrained(model, adapter).eval()
    adapter_logits = compute_logits(adapted, processor, items)
    save_model(adapted.merge_and_unload(safe_merge=True), out)
    copy_small_files(base, out)
    del state, model, adapted
    gc.collect()  # they refer to each other, and two models need twice the memory
    merged = load_for_inference(out, recipe.model)
    merged_logits = compute_logits(merged, processor, items)
    error = measure_difference(merged_logits, adapter_logits)
    change = measure_difference(merged_logits, base_logits)
    noise = NOISE[recipe.model.dtype]
    if error > noise:
        raise UserError(
            f"{out}: merged and adapter logits differ by {error:.4g} of their size, more than {noise}; merge again in "
            "float32"
        )
    if change <= 2 * error:
        raise UserError(
            f"{adapter}: the adapter changes the logits by {change:.4g} of their size, and rounding by {error:.4g}; "
            "train sft again"
        )
    state = merged.state_dict()
    touched = [name for name, weight in vision.items() if not torch.equal(state[name].cpu(), weight)]
    if touched:
        raise UserError(f"{out}: vision tower weight {touched[0]} changed; correct the LoRA targets")
    return {"merge_error": error, "change": change, "noise_bound": noise, "vision_weights_checked": len(vision)}


@torch.inference_mode()
def compute_logits(
    model: PreTrainedModel | PeftModel, processor: ProcessorMixin, items: list[ModelInput]
) -> list[torch.Tensor]:
    """Logits (last tokens, vocabulary) of each item's prompt, one at a time so that padding plays no part."""
    results = []
    for item in items:
        text = processor.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False)
        batch = processor(text=[text], images=[item.load_images()], return_tensors="pt").to(model.device)
        results.append(model(**batch, logits_to_keep=CHECKED_TOKENS).logits[0].float().cpu())
    return results


def measure_difference(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Root mean square of the difference, relative to that of `b`; a shift of all of a token's logits means nothing."""

    def sum_squares(logits: torch.Tensor) -> float:
        return float((logits - logits.mean(-1, keepdim=True)).square().sum(dtype=torch.float64))

    difference = sum(sum_squares(x - y) for x, y in zip(a, b, strict=True))
    return math.sqrt(difference / sum(sum_squares(y) for y in b))
