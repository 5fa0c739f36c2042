"""How long a split's prompts are: counted on data that is there, or as plan.yaml takes them to be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean

from tokenizers import Tokenizer

from migrl.errors import UserError
from migrl.files import read_jsonl
from migrl.grounding.boxes import Size
from migrl.grounding.images import find_sizes, fit_size
from migrl.grounding.prompts import build_messages
from migrl.grounding.samples import parse_sample
from migrl.models.towers import Tower
from migrl.plan.assumptions import SetLengths, TextLengths

SAMPLED = 200  # records of a split whose pictures are looked at
LONGEST = 20  # and those with the most pictures, for the longest prompt
VISION_MARKS = 2  # tokens around a picture

CountTokens = Callable[[str], float]


@dataclass(frozen=True)
class Length:
    """One prompt: pictures, the patches of all that the vision tower reads, and tokens that the model reads."""

    images: float
    patches: float
    tokens: float


@dataclass(frozen=True)
class Prompts:
    """Prompts of one split at one pixel limit; `samples` None means that nobody has stated their number.

    The mean is for times, the longest for memory: the most patches and the most tokens, though not of one prompt.
    """

    samples: int | None
    mean: Length
    longest: Length
    source: str

    def add_text(self, tokens: float) -> "Prompts":
        """The same prompts with so many more tokens of text."""
        mean, longest = (replace(length, tokens=length.tokens + tokens) for length in (self.mean, self.longest))
        return replace(self, mean=mean, longest=longest)


@dataclass(frozen=True)
class Pixels:
    """How pictures become patches: the model's tower and the limits of one stage."""

    vision: Tower
    min_pixels: int
    max_pixels: int

    def count_patches(self, size: Size) -> int:
        """Patches of a picture of this (width, height) in px."""
        width, height = fit_size(size, factor=self.vision.cell, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        return height * width // self.vision.patch_size**2

    def make_length(self, images: float, patches: float, words: float) -> Length:
        """A prompt with so many patches in all, and tokens of text."""
        return Length(images, patches, words + patches / self.vision.spatial_merge_size**2)


def make_counter(folder: Path, lengths: TextLengths) -> CountTokens:
    """Counts a text's tokens with the tokenizer of a model folder; without one by its characters."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return lambda text: len(text) / lengths.characters_per_token
    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: float(len(tokenizer.encode(text, add_special_tokens=False).ids))


def count_split(path: Path, pixels: Pixels, count_tokens: CountTokens, lengths: TextLengths) -> Prompts:
    """Prompts of a JSONL split with its pictures beside it: a seeded sample, and the ones with most pictures.

    Raises:
        UserError: no record, a broken one, or a missing picture.
    """

    def measure(row: dict[str, object]) -> Length:
        sample = parse_sample(row, str(path))
        patches = sum(map(pixels.count_patches, find_sizes(path.parent, sample.images, sample.sizes)))
        content = build_messages(sample.question, len(sample.images), "think", sample.kind)[0]["content"]
        words = count_tokens("".join(part.get("text", "") for part in content))
        words += lengths.template_tokens + VISION_MARKS * len(sample.images)
        return pixels.make_length(len(sample.images), patches, words)

    rows = read_jsonl(path, remedy="run `migrl fetch` again")
    if not rows:
        raise UserError(f"{path}: no samples; run `migrl fetch` again")
    drawn = [measure(row) for row in Random(0).sample(rows, min(SAMPLED, len(rows)))]
    crowded = sorted(rows, key=lambda row: len(row["images"]), reverse=True)[:LONGEST]
    source = f"counted on {len(drawn)} of {len(rows)} samples and the {len(crowded)} with most pictures"
    longest = combine(max, [*drawn, *map(measure, crowded)])
    return Prompts(len(rows), combine(fmean, drawn), longest, source)


def combine(how: Callable[[list[float]], float], some: Sequence[Length]) -> Length:
    """The mean, or the largest, of each number of some lengths."""
    return Length(*(how([getattr(each, name) for each in some]) for name in ("images", "patches", "tokens")))


def assume_split(name: str, entry: SetLengths, samples: int | None, pixels: Pixels, lengths: TextLengths) -> Prompts:
    """Prompts as plan.yaml takes them to be, pictures at the limit; the longest text is taken to be twice the mean."""
    each = pixels.max_pixels // pixels.vision.cell**2 * pixels.vision.spatial_merge_size**2

    def assume(images: float, text_tokens: int) -> Length:
        words = text_tokens + lengths.template_tokens + images * lengths.tokens_per_image_extra
        return pixels.make_length(images, images * each, words)

    mean, longest = assume(entry.images, entry.text_tokens), assume(entry.max_images, 2 * entry.text_tokens)
    return Prompts(samples, mean, longest, f"assumed as plan.yaml's set {name}, pictures at the pixel limit")
