"""Generation with transformers: left padding, and results that survive a kill.

Each batch seeds its own sampling. So a run that was killed and resumed, batch by batch, writes the same completions
bit for bit on a CPU.
"""

from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from migrl.engines.batches import derive_seed
from migrl.engines.decoding_loop import decode
from migrl.errors import UserError
from migrl.models.attention import fold_heads
from migrl.models.decoding import Completion, Decoding
from migrl.models.inputs import ModelInput
from migrl.models.loading import Weights, list_vision_token_ids, load_weights
from migrl.models.size_gates import read_grids
from migrl.recipe import ModelSettings


class TransformersEngine:
    """A model on this process's device, its adapter folded in, so that all arms run the same code."""

    def __init__(self, weights: Weights, settings: ModelSettings, processor: ProcessorMixin, local_rank: int) -> None:
        self.model = load_weights(weights, settings, local_rank)
        if settings.attention == "sdpa":
            fold_heads(self.model)
        self.processor = processor
        self.config, self.dtype = self.model.config, str(self.model.dtype)
        device = self.model.device
        self.device = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

    def answer(self, batch: list[ModelInput], decoding: Decoding) -> list[list[Completion]]:
        return generate_batch(self.model, self.processor, batch, decoding)


@torch.inference_mode()
def generate_batch(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batch: list[ModelInput],
    settings: Decoding,
) -> list[list[Completion]]:
    """Completions of one batch, `settings.rollouts` a sample, in the batch's order."""
    texts = [processor.apply_chat_template(x.messages, add_generation_prompt=True, tokenize=False) for x in batch]
    images = [x.load_images() for x in batch]
    encoded = processor(text=texts, images=images, padding=True, return_tensors="pt").to(model.device)
    check_encoding(processor, batch, encoded["attention_mask"], encoded["image_grid_thw"])
    tokenizer = processor.tokenizer
    config = settings.build(
        model.generation_config.eos_token_id, tokenizer.pad_token_id, list_vision_token_ids(processor)
    )
    torch.manual_seed(derive_seed(settings.seed, batch))
    output = cast(Any, model).generate(  # the annotation has no `generate`
        **encoded, generation_config=config, custom_generate=decode, completions=settings.rollouts
    )
    new_ids = output[:, encoded["input_ids"].shape[1] :].tolist()
    ends = set(config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id])
    completions = [read_completion(tokenizer, ids, ends) for ids in new_ids]
    k = settings.rollouts
    return [completions[i * k : (i + 1) * k] for i in range(len(batch))]


def read_completion(tokenizer: PreTrainedTokenizerBase, ids: list[int], ends: set[int]) -> Completion:
    """Cut at the first end token and decode as trainers do, without special tokens."""
    stop = next((i for i, token in enumerate(ids) if token in ends), None)
    kept = ids if stop is None else ids[:stop]
    text = cast(str, tokenizer.decode(kept, skip_special_tokens=True))  # a list only for many sequences
    return Completion(text=text, tokens=len(kept) + (stop is not None), truncated=stop is None)


def check_encoding(processor: ProcessorMixin, batch: list[ModelInput], mask: torch.Tensor, grids: torch.Tensor) -> None:
    """Assert left padding, and that the processor resized every image to the size we map boxes with."""
    if not bool(mask[:, -1].all()):
        raise UserError("processor: prompts were padded on the right, completions would be blind; pad on the left")
    found = read_grids(processor, grids)
    expected = [size for item in batch for size in item.resized_sizes]
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a != b:
            raise UserError(
                f"image {index} of the batch: the processor resized to {a}, and boxes are mapped with {b}; "
                "use the pinned transformers"
            )
