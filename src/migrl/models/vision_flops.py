"""FLOPs of a vision tower with its merger, for one picture, by family. What is counted: flops.py.

window  Qwen2.5-VL: a patch sees its window of 64, and all patches in a few layers; three matrices an MLP
full    Qwen2-VL: a patch sees all patches in every layer; two matrices an MLP
"""

from typing import Any


def count_window_tower(config: Any, patches: int) -> float:
    """FLOPs of Qwen2.5-VL's tower on a picture of so many patches."""
    vision = config.vision_config
    width = vision.hidden_size
    everywhere = len(vision.fullatt_block_indexes)
    window = min((vision.window_size // vision.patch_size) ** 2, patches)
    seen = everywhere * patches + (vision.depth - everywhere) * window
    weights = _count_weights(vision, width, 3 * width * vision.intermediate_size, vision.out_hidden_size)
    return float(2 * weights * patches + 4 * width * patches * seen)


def count_full_tower(config: Any, patches: int) -> float:
    """FLOPs of Qwen2-VL's tower on a picture of so many patches; its config calls the merger's width `hidden_size`."""
    vision = config.vision_config
    width = vision.embed_dim
    weights = _count_weights(vision, width, 2 * width * width * vision.mlp_ratio, vision.hidden_size)
    return float(2 * weights * patches + 4 * width * patches * vision.depth * patches)


def _count_weights(vision: Any, width: int, mlp: int, out: int) -> float:
    """Weights that a patch passes through: its embedding, `depth` layers with an MLP of `mlp` weights, the merger."""
    merged = vision.spatial_merge_size**2
    weights = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2 * width
    weights += vision.depth * (4 * width**2 + mlp)
    # The merger works on `merged` patches at once, so a patch costs that much less.
    return float(weights + ((width * merged) ** 2 + width * merged * out) / merged)
