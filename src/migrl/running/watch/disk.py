"""Room for a checkpoint, before it is written: a torn one costs the steps since the last."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import nn

MARGIN = 1.05  # logs and the final model are written beside it
OPTIMIZER_BYTES = 12  # a float32 copy of the weight and Adam's two moments


def explain_missing_room(folder: Path, step: int, need_bytes: int) -> str | None:
    """What to tell if a checkpoint of `need_bytes` has no room where `folder` lies, else None."""
    free = shutil.disk_usage(folder).free
    if free >= need_bytes * MARGIN:
        return None
    return (
        f"{folder}: no room for the checkpoint of step {step}: {free / 1e9:.3f} GB free, "
        f"{need_bytes * MARGIN / 1e9:.3f} GB needed; the last complete one is kept; "
        "free space, then start again: it resumes"
    )


def size_next_checkpoint(checkpoints: Path, model: nn.Module, *, adapter: bool) -> int:
    """Bytes of the next checkpoint: those of the largest whole one there, else an estimate from the model."""
    whole = [path.parent for path in checkpoints.glob("checkpoint-*/trainer_state.json")]  # it is written last
    written = [measure_folder(path) for path in whole]
    return max([*written, 0]) or estimate_checkpoint(model.parameters(), adapter=adapter)


def measure_folder(folder: Path) -> int:
    """Bytes of all files under a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def estimate_checkpoint(parameters: Iterable[nn.Parameter], *, adapter: bool) -> int:
    """Bytes of a first checkpoint, over all processes: they share the folder, so sharding does not make it smaller.

    Weights twice, as safetensors and in DeepSpeed's own state (with an `adapter`, only the trainable ones), and the
    optimizer's states of what is trained.
    """
    total = 0
    for weight in parameters:
        # ZeRO-3 leaves an empty tensor where a weight was, and its size beside it.
        count = getattr(weight, "ds_numel", weight.numel())
        if weight.requires_grad or not adapter:
            total += 2 * count * weight.element_size()
        if weight.requires_grad:
            total += OPTIMIZER_BYTES * count
    return total
