"""Rollouts by vLLM (`grpo.engine: vllm`): what trl needs to be told, and what is checked between the two.

trl 1.16 hands vLLM token ids whose image placeholders the processor has expanded, and vLLM expands each once more
(trl #6294): the model would answer another prompt than it is trained on, without an error. `ExactEngine` stands between
both: one placeholder a picture goes in, and what vLLM made of it has to be the trainer's own prompt, token by token,
and every picture's size the trainer's. A server gets its pictures apart from the tokens; `CheckedClient` compares what
it counted. In a trainer's processes each completion has a seed of its own, of the step and its place: a resumed
training samples what it would have sampled. A server has one stream of random numbers, which a resumed one cannot pick
up.

trl names neither dtype nor pixel limits to vLLM, which would then take bfloat16 for a model in float32, and the pixel
limits of the model's folder: `starting_vllm` adds them. A server is given the same when it is started;
`describe_server` has the command.

Written against trl 1.16 and vllm 0.31. Colocated it ran on a CPU. With a server it did not run: weights travel by NCCL.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from PIL.Image import Image
from transformers import ProcessorMixin
from trl import GRPOTrainer

from migrl.engines.batches import hash_seed
from migrl.engines.vllm_engine import make_arguments
from migrl.errors import UserError
from migrl.grounding.boxes import Size
from migrl.models.inputs import ModelInput, count_picture, count_prompt
from migrl.models.loading import compute_resized_size, make_vision_bias, read_end_tokens, read_pixel_limits
from migrl.recipe import GrpoSettings, Recipe
from migrl.recipe.engines import VllmRolloutSettings


@contextmanager
def starting_vllm(recipe: Recipe, processor: ProcessorMixin) -> Iterator[None]:
    """While it holds, a vLLM that trl starts in its own processes is given what trl has no argument for."""
    from trl.generation import vllm_generation

    module: Any = vllm_generation  # without vLLM it has no such name
    plain = module.LLM
    module.LLM = partial(plain, **make_arguments(recipe.model.dtype, recipe.vllm, processor))
    try:
        yield
    finally:
        module.LLM = plain


def make_vllm_arguments(
    settings: GrpoSettings, processor: ProcessorMixin, items: list[ModelInput], start: Path
) -> dict[str, Any]:
    """Arguments of trl's GRPOConfig: the recipe's keys, room for the longest prompt, and the end tokens of `start`.

    Vision placeholders are never sampled; vLLM knows no `suppress_tokens`.
    """
    longest = max(sum(count_prompt(item, processor)) for item in items)
    return {
        "use_vllm": True,
        "vllm_max_model_length": longest + settings.max_new_tokens,
        "generation_kwargs": {"logit_bias": make_vision_bias(processor), "stop_token_ids": read_end_tokens(start)},
        **{name: getattr(settings, name) for name in VllmRolloutSettings.model_fields},
    }


def check_vllm(trainer: GRPOTrainer, processor: ProcessorMixin, seed: int) -> None:
    """Put the checks of this module between a trainer and its vLLM; `seed` is the training's."""
    generation = trainer.vllm_generation
    if generation.mode == "server":
        if trainer.accelerator.is_main_process:  # the only one that talks to it
            generation.vllm_client = cast(Any, CheckedClient(generation.vllm_client, processor))
        return

    def derive_seeds(count: int) -> list[int]:
        # The processes that share an engine have to draw the same, others not.
        group = trainer.accelerator.process_index // generation.tensor_parallel_size
        return [hash_seed(seed, trainer.state.global_step, group, place) for place in range(count)]

    from vllm.transformers_utils.processor import cached_processor_from_config

    own = cached_processor_from_config(generation.llm.llm_engine.model_config)
    generation.llm = ExactEngine(generation.llm, processor, own, derive_seeds)


@dataclass
class ExactEngine:
    """vLLM's `LLM` as trl calls it.

    Args:
        llm: the engine.
        processor: the trainer's.
        own: the engine's processor.
        derive_seeds: from a number of prompts the seed of each.
    """

    llm: Any
    processor: ProcessorMixin
    own: ProcessorMixin
    derive_seeds: Callable[[int], list[int]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.llm, name)

    def generate(self, prompts: list[dict[str, Any]], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        """Complete each prompt, of `prompt_token_ids` with expanded placeholders and `multi_modal_data`, once.

        Raises:
            UserError: vLLM reads another prompt than the trainer, or a picture in another size.
        """
        token: int = cast(Any, self.processor).image_token_id
        given = []
        for prompt in prompts:
            images = prompt["multi_modal_data"]["image"]
            for image in images if isinstance(images, list) else [images]:
                compare_sizes(image, fit(self.processor, image), fit(self.own, image))
            given.append({**prompt, "prompt_token_ids": collapse_runs(prompt["prompt_token_ids"], token)})
        sampling = []
        for seed in self.derive_seeds(len(prompts)):
            one = sampling_params.clone()
            one.seed = seed
            sampling.append(one)
        outputs: list[Any] = self.llm.generate(given, sampling_params=sampling, use_tqdm=use_tqdm)
        for prompt, output in zip(prompts, outputs, strict=True):
            if list(output.prompt_token_ids) != list(prompt["prompt_token_ids"]):
                raise UserError(
                    f"grpo: vLLM read a prompt of {len(output.prompt_token_ids)} tokens, which is not the trainer's of "
                    f"{len(prompt['prompt_token_ids'])}; use the pinned vllm and trl, or grpo.engine=transformers"
                )
        return outputs


@dataclass
class CheckedClient:
    """trl's client of a vLLM server, whose count of each picture's tokens is compared with the trainer's."""

    client: Any
    processor: ProcessorMixin

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def image_features(self, images: list[list[Image] | None]) -> list[dict[str, Any] | None]:
        """What the server made of each prompt's pictures.

        Raises:
            UserError: it resized one otherwise than the trainer does.
        """
        features: list[dict[str, Any] | None] = self.client.image_features(images)
        for some, found in zip(images, features, strict=True):
            places = found["mm_placeholders"]["image"] if found else []
            for image, place in zip(some or [], places, strict=True):
                expected = count_picture(fit(self.processor, image), self.processor)
                if place["length"] != expected:
                    raise UserError(
                        f"grpo: the vLLM server makes {place['length']} tokens of a picture of {image.width}x"
                        f"{image.height} px, the trainer {expected}; start it with the pixel limits of "
                        "this recipe: --mm-processor-kwargs"
                    )
        return features


def fit(processor: ProcessorMixin, image: Image) -> Size:
    return compute_resized_size(processor, image.size)


def compare_sizes(image: Image, trained: Size, sampled: Size) -> None:
    if trained != sampled:
        raise UserError(
            f"grpo: vLLM resizes a picture of {image.width}x{image.height} px to {sampled[0]}x{sampled[1]} px, the "
            f"trainer to {trained[0]}x{trained[1]} px; use the pinned vllm, or grpo.engine=transformers"
        )


def collapse_runs(ids: Sequence[int], token: int) -> list[int]:
    """Token ids with one `token` in place of each run of it: a picture's placeholder before it is expanded."""
    return [one for value, run in groupby(ids) for one in ([value] if value == token else run)]


def stop_vllm(trainer: GRPOTrainer) -> None:
    """End a vLLM in the trainer's processes: left to the interpreter's end, it misses the process groups."""
    if trainer.vllm_generation.mode == "colocate":
        trainer.vllm_generation.llm.llm_engine.engine_core.shutdown()


def explain_vllm(error: Exception, recipe: Recipe, start: str | None, processor: ProcessorMixin) -> UserError:
    """Why vLLM did not start, and what to do; `start` is the folder of the model."""
    if recipe.grpo.vllm_mode == "server":
        return UserError(
            f"grpo.vllm_server_base_url={recipe.grpo.vllm_server_base_url}: {error}; start it on other GPUs: "
            f"{describe_server(recipe, start, processor)}"
        )
    return UserError(
        f"grpo.engine=vllm: {error}; it needs a model that it knows, and room for weights and cache on a GPU that also "
        "trains (grpo.vllm_gpu_memory_utilization, grpo.vllm_tensor_parallel_size, grpo.vllm_enable_sleep_mode)"
    )


def describe_server(recipe: Recipe, start: str | None, processor: ProcessorMixin) -> str:
    """The command that serves the start model to a training, as trl asks for it."""
    return (
        f"VLLM_SERVER_DEV_MODE=1 vllm serve {start} --dtype {recipe.model.dtype} --enable-scale-out "
        f"--mm-processor-kwargs '{json.dumps(read_pixel_limits(processor))}' --generation-config vllm "
        """--logprobs-mode processed_logprobs --max-logprobs -1 --weight-transfer-config '{"backend": "nccl"}'"""
    )
