"""The rehearsal as a data source: drawn pictures, texts of a stated length, random weights of a real architecture.

It is for measuring what the paper recipe costs, never for results. Tokenizer and processor are those of the tiny base:
its ids all lie below the real vocabulary, so the weights keep their real size, and the config's special ids are set to
the tiny base's. Ids above the tokenizer's decode to nothing, so completions are nearly empty texts. The end token is
one of about 150,000 equally likely ones, so nearly all completions run to the limit: the worst case in time and memory.
"""

import json
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from migrl.errors import UserError
from migrl.files import find_from_root, write_jsonl
from migrl.grounding.samples import BoxTarget, Sample
from migrl.models.family import get_family, read_family
from migrl.models.folder import read_config
from migrl.models.loading import choose_kernels, pick_device, read_processor, save_model
from migrl.recipe import RehearsalSource
from migrl.running.metering import release_memory
from migrl.running.stage import check_disk

BENCHMARK = "rehearsal"
WORDS = (
    "the",
    "red",
    "circle",
    "left",
    "of",
    "blue",
    "square",
    "near",
    "large",
    "green",
    "star",
    "in",
    "every",
    "picture",
)
CELL = 32  # px; colours change over about this distance, so that a picture is a few tens of kB


def build_rehearsal(source: RehearsalSource, processor_folder: Path, data: Path) -> dict[str, Any]:
    """Write the splits cot, rl and rehearsal (to evaluate) with pictures under `data`; return counts."""
    tokenizer = read_processor(processor_folder).tokenizer
    pictures = cycle(draw_pictures(source, data))
    image_counts = cycle(source.images)
    rng = Random(source.seed)
    counts = {}
    splits = {"cot": source.cot_samples, "rl": source.rl_samples, BENCHMARK: source.eval_samples}
    for split, count in splits.items():
        samples = [
            make_sample(source, f"{split}:{number}", split, list(islice(pictures, next(image_counts))), tokenizer, rng)
            for number in range(count)
        ]
        counts[split] = write_jsonl(data / f"{split}.jsonl", [sample.to_json() for sample in samples])
    return {"samples": counts, "pictures": source.pictures}


def draw_pictures(source: RehearsalSource, data: Path) -> list[str]:
    """Save smooth coloured noise in the stated sizes as JPEG; return names below `data`."""
    random = np.random.default_rng(source.seed)
    (data / "pictures").mkdir(parents=True, exist_ok=True)
    names = []
    for number, (width, height) in enumerate(islice(cycle(source.sizes), source.pictures)):
        cells = random.integers(0, 256, (height // CELL + 2, width // CELL + 2, 3), dtype=np.uint8)
        names.append(f"pictures/{number:04d}.jpg")
        Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC).save(data / names[-1], quality=90)
    return names


def make_sample(
    source: RehearsalSource, uid: str, split: str, images: list[str], tokenizer: PreTrainedTokenizerBase, rng: Random
) -> Sample:
    """One question over `images`, with a box and a thought for the scripted teacher."""
    image = rng.randint(1, len(images))
    left, top = rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.5)
    return Sample(
        uid=uid,
        benchmark=split,
        task=BENCHMARK,
        images=tuple(images),
        question=write_text("Find", source.question_tokens, tokenizer, rng),
        target=BoxTarget(image, (left, top, left + rng.uniform(0.1, 0.4), top + rng.uniform(0.1, 0.4))),
        cluster=uid,
        facts=write_text(f"Image {image} shows it:", source.thought_tokens, tokenizer, rng),
    )


def write_text(start: str, tokens: int, tokenizer: PreTrainedTokenizerBase, rng: Random) -> str:
    """Words after `start` until the text has exactly `tokens` tokens; what no word fits into is filled with digits.

    Raises:
        UserError: the start alone is longer, or the tokenizer joins tokens over words.
    """

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False).input_ids)

    lengths = {word: count(f" {word}") for word in WORDS}
    text, left = start, tokens - count(start)
    while fitting := [word for word in WORDS if lengths[word] <= left]:
        word = rng.choice(fitting)
        text += f" {word}"
        left -= lengths[word]
    text += "7" * left  # a digit is a token of its own
    if count(text) != tokens:
        raise UserError(
            f"source: a text of {tokens} tokens came out with {count(text)}; ask for more tokens, or use the "
            "tokenizer of reproduce/tiny_base"
        )
    return text


def write_random_model(source: RehearsalSource, processor_folder: Path, dtype: str, folder: Path) -> dict[str, Any]:
    """Draw weights from `source.seed`; save them, sharded, with the processor.

    Raises:
        UserError: no such shapes, a vocabulary smaller than the tokenizer's, or too little disk.
    """
    processor = read_processor(processor_folder)
    config = read_shapes(source.shapes, processor_folder)
    text: Any = config.text_config
    processor.tokenizer.model_max_length = text.max_position_embeddings
    kind = getattr(torch, dtype)
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in build_model(config, dtype=kind).parameters())
    folder.mkdir(parents=True, exist_ok=True)
    check_disk(folder, parameters * kind.itemsize)
    save_model(draw_model(source, config, dtype), folder, max_shard_size="5GB")
    processor.save_pretrained(folder)
    release_memory()
    return {"parameters": parameters, "weights": "random"}


def draw_model(
    source: RehearsalSource, config: PreTrainedConfig, dtype: str, attention: str | None = None
) -> PreTrainedModel:
    """A model with weights drawn from `source.seed` where it will work: on the accelerator if there is one."""
    choose_kernels()
    torch.manual_seed(source.seed)
    with torch.device(pick_device()):
        return build_model(config, dtype=getattr(torch, dtype), attn_implementation=attention)


def build_model(config: PreTrainedConfig, **options: Any) -> PreTrainedModel:
    """An untrained model of a config."""
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(config, trust_remote_code=False, **options)
    return model


def read_shapes(path: Path, processor_folder: Path) -> PreTrainedConfig:
    """The architecture, with the token ids of the model in `processor_folder` in place of its own.

    Raises:
        UserError: no such file, no JSON, another family than that model's, or too small a vocabulary for its tokenizer.
    """
    found = find_from_root(path)
    if not found.is_file():
        raise UserError(f"source.shapes={path}: no such file; the known ones are in reproduce/shapes")
    try:
        shapes = json.loads(found.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); correct it") from error
    family, known = get_family(shapes.get("model_type"), path), read_family(processor_folder)
    if family is not known:
        raise UserError(
            f"source.shapes={path}: is a {family.name}, and model.path={processor_folder} a {known.name}; name two of "
            "one family"
        )
    config = AutoConfig.for_model(**shapes)
    tokenizer, text = read_processor(processor_folder).tokenizer, config.text_config
    if len(tokenizer) > text.vocab_size:
        raise UserError(f"{path}: vocab_size {text.vocab_size} is below the tokenizer's {len(tokenizer)}")
    own = read_config(processor_folder)
    for part, stated in ((config, own), (text, own["text_config"])):
        for key, value in stated.items():
            if key.endswith("_token_id"):
                setattr(part, key, value)
    return config
