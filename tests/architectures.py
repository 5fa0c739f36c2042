"""Every model family at a tiny size: its real architecture with random weights, its real processor's class."""

import json
from pathlib import Path

import torch
import trl
from transformers import AutoTokenizer, ProcessorMixin, Qwen2VLProcessor, Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from migrl.world.model import QWEN2_5_VL, Architecture, build_model
from migrl.world.tokenizer import ProcessorKind, save_processor

BASE = Path(__file__).resolve().parents[1] / "reproduce" / "tiny_base"
TEMPLATES = Path(trl.__file__).parent / "chat_templates"

QWEN2_VL = Architecture(
    "qwen2_vl",
    ProcessorKind(Qwen2VLProcessor),
    {"depth": 2, "embed_dim": 96, "mlp_ratio": 4, "num_heads": 4, "hidden_size": 128},
)
QWEN3_VL = Architecture(
    "qwen3_vl",
    ProcessorKind(
        Qwen3VLProcessor, Qwen3VLVideoProcessor, 16, (TEMPLATES / "qwen3_vl.jinja").read_text(encoding="utf-8")
    ),
    {
        "depth": 3,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 4,
        "out_hidden_size": 128,
        "num_position_embeddings": 36,  # a side of 6, so that every picture has some between two of them
        "deepstack_visual_indexes": [0, 2],
    },
    {
        "head_dim": 48,  # four heads are wider than the model
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [8, 8, 8],
            "mrope_interleaved": True,
        },
    },
)
ARCHITECTURES = (QWEN2_5_VL, QWEN2_VL, QWEN3_VL)


def write_processor(folder: Path, architecture: Architecture) -> ProcessorMixin:
    """A family's processor around the tiny base's tokenizer, in a folder that says whose it is."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    processor = save_processor(tokenizer, folder, architecture.processor)
    (folder / "config.json").write_text(json.dumps({"model_type": architecture.model_type}))
    return processor


def write_untrained(folder: Path, architecture: Architecture, seed: int = 0) -> None:
    """A whole model folder with random weights: for where it does not matter what is answered."""
    processor = write_processor(folder, architecture)
    torch.manual_seed(seed)
    build_model(processor, architecture).save_pretrained(folder)
