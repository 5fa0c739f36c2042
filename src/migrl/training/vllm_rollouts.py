"""Rollouts by vLLM inside the training processes (`grpo.engine: vllm`): what trl needs to be told beside the switch.

trl starts vLLM on the folder the model was loaded from and hands it token ids and pictures. So vLLM resizes pictures by
the processor in that folder, not by the recipe's limits, and would describe other boxes than the rewards expect; and it
knows no `suppress_tokens`. Written against trl 1.16 and vllm 0.31. Not run: no GPU was at hand.
"""

from pathlib import Path
from typing import Any

from transformers import ProcessorMixin

from migrl.models.loading import make_vision_bias
from migrl.recipe import GrpoSettings

IMAGE_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def link_model(start: Path, folder: Path, processor: ProcessorMixin) -> Path:
    """A folder with the start model's weights, linked, and a processor with this stage's pixel limits."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in start.iterdir():
        if path.name not in IMAGE_PROCESSOR_FILES and not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    processor.image_processor.save_pretrained(folder)
    return folder


def make_vllm_arguments(settings: GrpoSettings, processor: ProcessorMixin) -> dict[str, Any]:
    """Arguments of trl's GRPOConfig for colocated vLLM, vision placeholders never sampled."""
    return {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": settings.vllm_gpu_memory_utilization,
        "generation_kwargs": {"logit_bias": make_vision_bias(processor)},
    }
