"""Generation with transformers: sorted batches, left padding, and results that survive a kill.

Batches are formed once from all inputs, sorted by image area and text length, and each batch seeds
its own sampling. So a run that was killed and resumed, batch by batch, writes the same completions
bit for bit on a CPU.
"""

import hashlib
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from migrl.errors import UserError
from migrl.models.decoding import Completion, Decoding
from migrl.models.inputs import ModelInput
from migrl.models.loading import list_vision_token_ids
from migrl.models.size_gates import read_grids


def make_batches(inputs: list[ModelInput], size: int, pixels: int | None = None) -> list[list[ModelInput]]:
    """Fixed batches of inputs of similar length: less padding, and the same batches on resume.

    The longest come first: if the device's memory does not suffice, that shows in the first minute.
    A batch has at most `size` inputs and, where `pixels` is given, at most so many pixels in all: memory grows with
    pixels, and an input may have two pictures or thirty.
    """

    def count_pixels(item: ModelInput) -> int:
        return sum(width * height for width, height in item.resized_sizes)

    batches: list[list[ModelInput]] = []
    total = 0
    for item in sorted(inputs, key=lambda item: (count_pixels(item), len(item.sample.question), item.sample.uid)):
        total += count_pixels(item)
        if not batches or len(batches[-1]) == size or (pixels is not None and total > pixels):
            batches.append([])
            total = count_pixels(item)
        batches[-1].append(item)
    return batches[::-1]


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
    output = cast(Any, model).generate(**encoded, generation_config=config)  # the annotation has no `generate`
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


def derive_seed(seed: int, batch: list[ModelInput]) -> int:
    """Seed of a batch's sampling, from the stage seed and the batch's content."""
    text = "|".join([str(seed), *(item.sample.uid for item in batch)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
