"""vLLM as an engine: continuous batching, and a prompt that several samples share is read once.

Prompts are texts with one placeholder a picture, and pictures come undecoded by us beyond `read_image`: vLLM's own
processor resizes them, within the recipe's pixel limits, and the number of tokens that it makes of each prompt is
compared with ours. Decoding, end tokens and suppressed tokens are those of every engine, and completions are decoded
from token ids as theirs are. Each input seeds its own sampling, whatever runs beside it; yet sums depend on what is in
flight, so a resumed run may differ in a token where two are nearly as likely.

Written for vllm 0.31, and its CPU build of the same release. Not run on a GPU.
"""

import os
from concurrent.futures import Future, wait
from multiprocessing import active_children
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from transformers import AutoConfig, ProcessorMixin

from migrl.engines.batches import derive_seed
from migrl.engines.engine import Task
from migrl.engines.transformers_engine import read_completion
from migrl.errors import UserError
from migrl.models.decoding import Completion, Decoding
from migrl.models.inputs import ModelInput, count_prompt
from migrl.models.loading import make_vision_bias, read_end_tokens, read_pixel_limits
from migrl.recipe import VllmSettings

WATCH_SECONDS = 1.0
ENDED = (
    "engine vllm: a process of it ended; why is said above, or nothing if it was killed, most often for memory: lower "
    "vllm.gpu_memory_utilization or vllm.max_num_seqs, and start again; what was answered is kept"
)


class VllmEngine:
    """vLLM on `settings.tensor_parallel_size` devices of this machine, from number `first_device` on."""

    def __init__(self, weights: Path, dtype: str, settings: VllmSettings, task: Task, first_device: int) -> None:
        """
        Raises:
            UserError: a prompt that cannot fit, or a model or memory that vLLM refuses.
        """
        longest = check_lengths(task, settings)
        choose_devices(first_device, settings.tensor_parallel_size)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # else pages of what it chose, in each of its processes
        try:
            import vllm  # reads which devices it may use as it loads
        except ImportError as error:
            raise UserError(f"engine vllm: {error}; `make setup-gpu` installs it, or take another engine") from error
        try:
            self.model = vllm.LLM(
                model=str(weights),
                **make_arguments(dtype, settings, task.processor),
                seed=task.decoding.seed,
                tensor_parallel_size=settings.tensor_parallel_size,
                gpu_memory_utilization=settings.gpu_memory_utilization,
                max_model_len=settings.max_model_len,
                max_num_seqs=settings.max_num_seqs,
                enable_prefix_caching=True,
                limit_mm_per_prompt={"image": max(len(item.paths) for item in task.items), "video": 0},
                trust_remote_code=False,
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"engine vllm, {weights}: {error}; it needs a model that it knows, and room for weights and a cache of "
                f"{longest} tokens (vllm.gpu_memory_utilization, vllm.max_model_len, vllm.tensor_parallel_size)"
            ) from error
        self.processes = active_children()  # its own; this process has started no others
        self.processor = task.processor
        self.ends = read_end_tokens(weights)
        self.config = AutoConfig.from_pretrained(weights)
        self.dtype = str(getattr(torch, dtype))
        self.device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"

    def answer(self, batch: list[ModelInput], decoding: Decoding) -> list[list[Completion]]:
        prompts = [
            {
                "prompt": self.processor.apply_chat_template(item.messages, add_generation_prompt=True, tokenize=False),
                "multi_modal_data": {"image": item.load_images()},
            }
            for item in batch
        ]
        sampling = [self._make_sampling(decoding, item) for item in batch]
        answers = []
        for item, output in zip(batch, self._generate(prompts, sampling), strict=True):
            check_prompt(item, len(output.prompt_token_ids), sum(count_prompt(item, self.processor)))
            outputs = sorted(output.outputs, key=lambda one: one.index)
            ids = [list(one.token_ids) for one in outputs]
            answers.append([read_completion(self.processor.tokenizer, one, set(self.ends)) for one in ids])
        return answers

    def _generate(self, prompts: list[dict[str, Any]], sampling: list[Any]) -> list[Any]:
        """vLLM's own `generate`, in a thread: it may wait for ever for a process of its own that was killed."""
        from vllm.v1.engine.exceptions import EngineDeadError

        found: Future[list[Any]] = Future()

        def work() -> None:
            try:
                found.set_result(self.model.generate(prompts, sampling, use_tqdm=False))
            except Exception as error:
                found.set_exception(error)

        if self.processes:
            Thread(target=work, daemon=True).start()
        else:
            work()
        while not wait([found], timeout=WATCH_SECONDS).done:
            if not all(process.is_alive() for process in self.processes):
                raise UserError(ENDED)
        try:
            return found.result()
        except EngineDeadError as error:
            raise UserError(ENDED) from error

    def _make_sampling(self, decoding: Decoding, item: ModelInput) -> Any:
        from vllm import SamplingParams

        chosen = {} if decoding.greedy else {"top_k": decoding.top_k, "top_p": decoding.top_p}
        return SamplingParams(
            n=decoding.rollouts,
            temperature=decoding.temperature,
            repetition_penalty=decoding.repetition_penalty,
            max_tokens=decoding.max_new_tokens,
            seed=None if decoding.greedy else derive_seed(decoding.seed, [item]),
            stop_token_ids=self.ends,
            logit_bias=make_vision_bias(self.processor),
            detokenize=False,
            **chosen,
        )


def make_arguments(dtype: str, settings: VllmSettings, processor: ProcessorMixin) -> dict[str, Any]:
    """Arguments of vLLM that decide what it answers, for every use of it."""
    return {
        "dtype": dtype,
        "enforce_eager": settings.enforce_eager,
        "mm_processor_kwargs": read_pixel_limits(processor),
        "generation_config": "vllm",  # nothing is inherited from the checkpoint's
        # On a CPU vLLM cannot set a request's random numbers back after it has read half a prompt.
        "enable_chunked_prefill": torch.cuda.is_available(),
    }


def check_lengths(task: Task, settings: VllmSettings) -> int:
    """The longest prompt and completion, in tokens.

    Raises:
        UserError: it is longer than vLLM is told to hold.
    """
    longest, uid = max((sum(count_prompt(item, task.processor)), item.sample.uid) for item in task.items)
    needed = longest + task.decoding.max_new_tokens
    if needed > settings.max_model_len:
        raise UserError(
            f"vllm.max_model_len={settings.max_model_len}: sample {uid!r} has a prompt of {longest} tokens, and with "
            f"{task.decoding.max_new_tokens} new ones needs {needed}; set it to {needed} or more"
        )
    return needed


def check_prompt(item: ModelInput, found: int, expected: int) -> None:
    """Refuse a prompt of another length than the one boxes are mapped with: vLLM resized a picture otherwise.

    Raises:
        UserError: naming the sample.
    """
    if found != expected:
        raise UserError(
            f"sample {item.sample.uid!r}: vLLM made {found} tokens of its prompt, {expected} are expected: it resized "
            "the pictures otherwise, so boxes in pixels would be wrong; use vllm 0.31"
        )


def choose_devices(first: int, count: int) -> None:
    """Leave `count` of this machine's devices visible, from number `first` on: vLLM takes the first that it sees.

    Its workers are processes of their own and know nothing of torch's current device. No GPU, nothing to choose.
    """
    if not torch.cuda.is_available():
        return
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(seen[first : first + count])
