"""The vLLM half of the local teacher.

NOT RUN: no machine with a GPU and the 72B weights was at hand. Written against vLLM 0.31.0's sources: arguments of
`LLM` (the rest go to `EngineArgs`), `LLM.generate`, `SamplingParams` and `RequestOutput`; n candidates of a seeded
question get the seeds seed, seed + 1, and so on.
"""

from pathlib import Path

from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from migrl.engines.generate import derive_seed
from migrl.errors import UserError
from migrl.models.inputs import ModelInput, count_prompt
from migrl.models.loading import load_processor, make_vision_bias
from migrl.recipe import Recipe, VllmTeacher
from migrl.running.shards import Rows, Worker
from migrl.synthesis.teachers.teacher import resize_picture


def load_vllm(recipe: Recipe, teacher: VllmTeacher, weights: Path, max_images: int) -> Worker:
    """The worker that answers a batch with vLLM; no input shows more than `max_images` pictures.

    Raises:
        UserError: vLLM is not installed, or it counts another number of tokens for a prompt than we do.
    """
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise UserError(
            f"synthesize.teacher.engine=vllm: {error}; install the optional package vllm 0.31, or serve the model "
            "elsewhere and use engine openai"
        ) from error
    limits = {"min_pixels": recipe.model.min_pixels, "max_pixels": recipe.sft.max_pixels}
    processor = load_processor(weights, **limits)
    seed = recipe.synthesize.seed
    model = LLM(
        model=str(weights),
        dtype=teacher.dtype,
        seed=seed,
        tensor_parallel_size=teacher.tensor_parallel,
        gpu_memory_utilization=teacher.memory,
        max_model_len=teacher.context_tokens,
        limit_mm_per_prompt={"image": max_images, "video": 0},
        trust_remote_code=False,
    )
    bias = make_vision_bias(processor)

    def work(batch: list[ModelInput]) -> Rows:
        prompts = [
            {
                "prompt": processor.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False),
                "multi_modal_data": {"image": load_resized(item)},
            }
            for item in batch
        ]
        sampling = [
            SamplingParams(
                n=recipe.synthesize.candidates,
                temperature=teacher.temperature,
                top_k=teacher.top_k,
                top_p=teacher.top_p,
                repetition_penalty=teacher.repetition_penalty,
                max_tokens=teacher.max_new_tokens,
                seed=derive_seed(seed, [item]),
                logit_bias=bias,
            )
            for item in batch
        ]
        rows = []
        for item, output in zip(batch, model.generate(prompts, sampling, use_tqdm=False), strict=True):
            tokens = len(output.prompt_token_ids)
            if tokens != (expected := sum(count_prompt(item, processor))):
                raise UserError(
                    f"sample {item.sample.uid}: vLLM made {tokens} tokens of its prompt, {expected} are expected: "
                    "it resized the pictures, so boxes in pixels would be wrong; use vllm 0.31"
                )
            replies = [
                {
                    "completion": completion.text,
                    "truncated": completion.finish_reason == "length",
                    "prompt_tokens": tokens,
                    "completion_tokens": len(completion.token_ids),
                }
                for completion in sorted(output.outputs, key=lambda completion: completion.index)
            ]
            rows.append({"uid": item.sample.uid, "replies": replies})
        return rows

    return work


def load_resized(item: ModelInput) -> list[Image.Image]:
    """The pictures as the trained model sees them: of a size that vLLM's own resizing keeps."""
    pairs = zip(item.load_images(), item.resized_sizes, strict=True)
    return [to_pil_image(resize_picture(image, size)) for image, size in pairs]
