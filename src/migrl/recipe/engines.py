"""Which engine answers, and how vLLM is started where it does."""

from typing import Literal

from migrl.recipe.section import Batch, Count, Section, Share

EngineName = Literal["transformers", "vllm"]


class VllmSettings(Section):
    """vLLM for select, evaluate and pass_rates: one engine for each process, or for `tensor_parallel_size` of them.

    `max_model_len` bounds prompt and completion together, in tokens; answers are kept after every `batch` questions.
    All but `batch` have vLLM's names.
    """

    tensor_parallel_size: Count = 1
    gpu_memory_utilization: Share = 0.9
    max_model_len: Count = 8192
    max_num_seqs: Count = 256
    enforce_eager: bool = False
    batch: Batch = 256
