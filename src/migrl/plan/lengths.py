"""How long a split's prompts are: counted on data that is there, or as the recipe or plan.yaml says."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean

from tokenizers import Tokenizer

from migrl.errors import UserError
from migrl.grounding.boxes import Size
from migrl.grounding.images import find_sizes, fit_size
from migrl.grounding.prompts import SUFFIXES, TargetKind, build_messages
from migrl.grounding.samples import Sample, parse_sample
from migrl.plan.assumptions import SetLengths, TextLengths
from migrl.plan.shapes import VisionShape
from migrl.recipe import RehearsalSource

SAMPLED = 200  # records of a split whose pictures are looked at
LONGEST = 20  # and those with the most pictures, for the longest prompt
VISION_MARKS = 2  # tokens around a picture


@dataclass(frozen=True)
class Prompts:
    """Prompts of one split at one pixel limit. Patches are what the vision tower reads, tokens the language model.

    `samples` None means that nobody has stated their number. Means are for times, the longest for memory; the prompt
    with most patches and that with most tokens need not be the same one.
    """

    samples: int | None
    images: float
    patches: float
    text_tokens: float
    longest_patches: int
    longest_tokens: int
    source: str
    merge: int

    @property
    def tokens(self) -> float:
        """Mean tokens, of text and pictures."""
        return self.text_tokens + self.patches / self.merge

    @property
    def patches_per_image(self) -> int:
        return round(self.patches / self.images)

    def at_mean(self) -> "Prompts":
        """The same prompts with the mean in place of the longest."""
        return replace(self, longest_patches=max(1, round(self.patches)), longest_tokens=round(self.tokens))

    def with_text(self, tokens: float) -> "Prompts":
        """The same prompts with so many more tokens of text."""
        longest = self.longest_tokens + int(tokens)
        return replace(self, text_tokens=self.text_tokens + tokens, longest_tokens=longest)


@dataclass(frozen=True)
class Pixels:
    """How pictures become patches: the model's tower and the limits of one stage."""

    vision: VisionShape
    min_pixels: int
    max_pixels: int

    @property
    def merge(self) -> int:
        """Patches that become one token."""
        return self.vision.spatial_merge_size**2

    @property
    def most(self) -> int:
        """Patches of a picture at the limit."""
        return self.max_pixels // self.vision.cell**2 * self.merge

    def count_patches(self, size: Size) -> int:
        """Patches of a picture of this (width, height) in px."""
        width, height = fit_size(size, factor=self.vision.cell, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        return height * width // self.vision.patch_size**2


def make_counter(folder: Path, lengths: TextLengths) -> Callable[[str], float]:
    """Counts a text's tokens with the tokenizer of a model folder; without one by its characters."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return lambda text: len(text) / lengths.characters_per_token
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: float(len(tokenizer.encode(text, add_special_tokens=False).ids))


def count_split(path: Path, pixels: Pixels, count_tokens: Callable[[str], float], lengths: TextLengths) -> Prompts:
    """Prompts of a JSONL split with its pictures beside it: a seeded sample, and the ones with most pictures.

    Raises:
        UserError: no record, a broken one, or a missing picture.
    """

    def count(row: dict[str, object]) -> tuple[int, int, float]:
        sample = parse_sample(row, str(path))
        patches = sum(map(pixels.count_patches, find_sizes(path.parent, sample.images, sample.sizes)))
        text = count_tokens(write_prompt(sample)) + lengths.template_tokens + VISION_MARKS * len(sample.images)
        return len(sample.images), patches, text

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not rows:
        raise UserError(f"{path}: no samples; run `migrl fetch` again")
    chosen = [count(row) for row in Random(0).sample(rows, min(SAMPLED, len(rows)))]
    crowded = sorted(rows, key=lambda row: len(row["images"]), reverse=True)[:LONGEST]
    seen = [*chosen, *(count(row) for row in crowded)]
    return Prompts(
        samples=len(rows),
        images=fmean(images for images, _, _ in chosen),
        patches=fmean(patches for _, patches, _ in chosen),
        text_tokens=fmean(text for _, _, text in chosen),
        longest_patches=max(patches for _, patches, _ in seen),
        longest_tokens=int(max(patches / pixels.merge + text for _, patches, text in seen)),
        source=f"counted on {len(chosen)} of {len(rows)} samples and the {len(crowded)} with most pictures",
        merge=pixels.merge,
    )


def write_prompt(sample: Sample) -> str:
    """All words of a sample's prompt, without the chat template."""
    kind: TargetKind = "box" if sample.kind == "box" else "choice"
    parts = build_messages(sample.question, len(sample.images), "think", kind)[0]["content"]
    return "".join(part.get("text", "") for part in parts)


def read_rehearsal(
    source: RehearsalSource, samples: int, pixels: Pixels, count_tokens: Callable[[str], float], lengths: TextLengths
) -> Prompts:
    """Prompts that a rehearsal draws; its pictures and texts have the sizes that the recipe states."""
    patches = [pixels.count_patches(size) for size in source.sizes]
    words = source.question_tokens + count_tokens(SUFFIXES["think", "box"]) + lengths.template_tokens
    each, most = lengths.tokens_per_image_extra, max(source.images)
    return Prompts(
        samples=samples,
        images=fmean(source.images),
        patches=fmean(source.images) * fmean(patches),
        text_tokens=words + each * fmean(source.images),
        longest_patches=most * max(patches),
        longest_tokens=int(most * (max(patches) / pixels.merge + each) + words),
        source="the recipe's source.images, source.sizes, source.question_tokens",
        merge=pixels.merge,
    )


def assume_split(entry: SetLengths, samples: int | None, pixels: Pixels, lengths: TextLengths) -> Prompts:
    """Prompts as plan.yaml takes them to be; the longest text is taken to be twice the mean."""
    patches = pixels.most if entry.pixels is None else min(pixels.most, entry.pixels // pixels.vision.patch_size**2)
    each, fill = lengths.tokens_per_image_extra, "at the pixel limit" if entry.pixels is None else "as drawn"
    longest_text = 2 * entry.text_tokens + lengths.template_tokens + each * entry.max_images
    return Prompts(
        samples=samples,
        images=entry.images,
        patches=entry.images * patches,
        text_tokens=entry.text_tokens + lengths.template_tokens + each * entry.images,
        longest_patches=entry.max_images * patches,
        longest_tokens=entry.max_images * patches // pixels.merge + longest_text,
        source=f"assumed: {entry.source}; pictures {fill}",
        merge=pixels.merge,
    )
