"""How completions are decoded, all of it explicit: nothing is inherited from a checkpoint's generation_config.json.

`generate` fills what a caller leaves out from there, and Qwen2.5-VL ships a repetition penalty of 1.05, which would act
on the digits of boxes in evaluation and not in RL. So models are loaded without it (`models.load_model`), and a run
that wants the checkpoint's settings asks for them (`evaluate.decoding: checkpoint`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from migrl.errors import UserError
from migrl.models.folder import GENERATION_FILE
from migrl.recipe import Recipe, SamplingSettings

NO_DECODING = {"eos_token_id", "bos_token_id", "pad_token_id", "max_length", "max_new_tokens", "use_cache"}
"""Keys of the file that are ours to set, or decide nothing."""
DEFAULTS = {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}
"""What transformers takes for a key that the file leaves out."""


@dataclass(frozen=True)
class Decoding:
    """How to decode, `rollouts` times a sample. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 cut nothing off."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    rollouts: int = 1
    seed: int = 0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    def build(self, end: int | list[int], pad: int, suppressed: list[int]) -> GenerationConfig:
        """transformers' configuration. Keys that greedy search has no use for stay unset."""
        sampling = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=not self.greedy,
            repetition_penalty=self.repetition_penalty,
            suppress_tokens=suppressed,
            eos_token_id=end,
            pad_token_id=pad,
            **({} if self.greedy else sampling),
        )

    def describe(self, end: list[int], suppressed: list[int]) -> dict[str, Any]:
        """All that decides a completion beside weights, prompt and limit, as evidence holds it."""
        sampled = not self.greedy
        return {
            "do_sample": sampled,
            "temperature": self.temperature if sampled else None,
            "top_k": self.top_k if sampled else None,
            "top_p": self.top_p if sampled else None,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed if sampled else None,
            "end_tokens": end,
            "suppressed_tokens": suppressed,
        }


def choose_sampling(settings: SamplingSettings, max_new_tokens: int, rollouts: int, seed: int) -> Decoding:
    """The sampler that select, pass_rates and RL share."""
    return Decoding(
        max_new_tokens=max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        rollouts=rollouts,
        seed=seed,
    )


def choose_evaluation(recipe: Recipe, base: Path) -> Decoding:
    """How all arms are decoded: by the recipe, or by the settings that `base`, the base model's folder, came with.

    Raises:
        UserError: the base has no such settings, or some that this evaluation does not take over.
    """
    settings = recipe.evaluate
    if settings.decoding == "greedy":
        return Decoding(settings.max_new_tokens, repetition_penalty=settings.repetition_penalty)
    own = read_generation_file(base)
    values: dict[str, Any] = {
        key: default if own.get(key) is None else own.pop(key) for key, default in DEFAULTS.items()
    }
    if not own.pop("do_sample", False):
        return Decoding(settings.max_new_tokens, repetition_penalty=values["repetition_penalty"])
    return Decoding(settings.max_new_tokens, **values)


def read_generation_file(folder: Path) -> dict[str, Any]:
    """The decoding that a checkpoint's generation_config.json asks for, without what says nothing of it.

    Raises:
        UserError: no such file, no JSON, a value of another type, or a key that is not taken over.
    """
    path = folder / GENERATION_FILE
    why = "evaluate.decoding=checkpoint takes its settings; set it to greedy"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, and {why}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}), and {why}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: must be a JSON object, and {why}")
    kept = {}
    for key, value in data.items():
        if value is None or key in NO_DECODING or key.startswith(("_", "output_", "transformers_", "return_")):
            continue
        wanted: type | tuple[type, ...] = bool if key == "do_sample" else int if key == "top_k" else (int, float)
        if key not in {"do_sample", *DEFAULTS}:
            raise UserError(f"{path}: key {key!r} is not taken over, and {why}")
        typed = isinstance(value, wanted)
        if not typed or (key != "do_sample" and (isinstance(value, bool) or not 0 <= value < 1e6)):
            raise UserError(f"{path}: key {key!r} is {value!r}, no such setting, and {why}")
        kept[key] = value
    return kept


@dataclass(frozen=True)
class Completion:
    """Raw text, its length in tokens, and whether it stopped at the limit.

    `unanswered`: there is none, for the server that was asked left the request without a usable reply.
    """

    text: str
    tokens: int
    truncated: bool
    unanswered: bool = False
