"""What bounds one GRPO step on this machine: prefill, decoding, and the training pass, by attention kernel.

    python perf/rollout_step.py reproduce/tiny_base runs/tiny/fetch/data/rl.jsonl

Prints seconds for 16 prompts x 8 rollouts. Compare kernels before changing `model.attention`.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, GenerationConfig

from migrl.grounding.samples import read_samples
from migrl.models.inputs import prepare_input
from migrl.models.loading import list_vision_token_ids, load_processor
from migrl.world.tokenizer import MAX_PIXELS, MIN_PIXELS

KERNELS = {"sdpa": "sdpa", "eager text, sdpa vision": {"text_config": "eager", "vision_config": "sdpa"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--micro", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    processor = load_processor(arguments.model, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    samples = read_samples(arguments.data)
    picked = samples[:: max(1, len(samples) // arguments.prompts)][: arguments.prompts]
    root = arguments.data.parent
    once = [prepare_input(s, root, processor, frame="resized_px", style="think") for s in picked]
    items = [item for item in once for _ in range(arguments.group)]
    texts = [processor.apply_chat_template(x.messages, add_generation_prompt=True, tokenize=False) for x in items]
    start = time.perf_counter()
    batch = processor(text=texts, images=[x.load_images() for x in items], padding=True, return_tensors="pt")
    print(f"processor {time.perf_counter() - start:.2f} s, prompts {tuple(batch['input_ids'].shape)}")
    model = AutoModelForImageTextToText.from_pretrained(arguments.model)
    for name, kernel in KERNELS.items():
        model.set_attn_implementation(kernel)
        for cache in (None, "static"):
            config = GenerationConfig(
                max_new_tokens=arguments.tokens,
                min_new_tokens=arguments.tokens,
                do_sample=True,
                suppress_tokens=list_vision_token_ids(processor),
                pad_token_id=processor.tokenizer.pad_token_id,
                eos_token_id=processor.tokenizer.eos_token_id,
                cache_implementation=cache,
            )
            start = time.perf_counter()
            with torch.no_grad():
                output = model.generate(**batch, generation_config=config)
            print(f"{name}, {cache or 'dynamic'} cache: generate {time.perf_counter() - start:.2f} s")
        start = time.perf_counter()
        with torch.no_grad():
            model(**batch, logits_to_keep=1)
        print(f"{name}: prefill alone {time.perf_counter() - start:.2f} s")
        train_once(model, batch, output, arguments.micro, name)


def train_once(model: torch.nn.Module, batch: dict, output: torch.Tensor, micro: int, name: str) -> None:
    """Forward and backward over prompts and completions, as the trainer does."""
    for parameter in model.model.visual.parameters():
        parameter.requires_grad_(False)
    new = output.shape[1] - batch["input_ids"].shape[1]
    counts = (batch["input_ids"] == model.config.image_token_id).sum(1) * 4
    patches = torch.split(batch["pixel_values"], counts.tolist())
    images = torch.split(batch["image_grid_thw"], [int(c) for c in count_images(batch)])
    start = time.perf_counter()
    for first in range(0, len(output), micro):
        rows = slice(first, first + micro)
        mask = torch.cat([batch["attention_mask"][rows], torch.ones_like(output[rows, -new:])], 1)
        types = torch.cat([batch["mm_token_type_ids"][rows], torch.zeros_like(output[rows, -new:])], 1)
        logits = model(
            input_ids=output[rows],
            attention_mask=mask,
            mm_token_type_ids=types,
            pixel_values=torch.cat(patches[rows]),
            image_grid_thw=torch.cat(images[rows]),
            logits_to_keep=new + 1,
        ).logits
        logits[:, :-1].log_softmax(-1).gather(2, output[rows, -new:, None]).mean().backward()
    print(f"{name}: train, micro-batch {micro}: {time.perf_counter() - start:.2f} s")


def count_images(batch: dict) -> list[int]:
    """Images of each row, from the vision start tokens' number of separate runs."""
    is_image = batch["mm_token_type_ids"] == 1
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    return starts.sum(1).tolist()


if __name__ == "__main__":
    main()
