"""Which checkpoints of a training are whole, so that it can go on from the last of them.

A kill or a full disk may leave any of a checkpoint's files out or torn, whatever the order in which they are written
and deleted, and trl would go on without the optimizer's states, or not at all.
"""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

TRAINER_STATE = "trainer_state.json"


def find_checkpoint(folder: Path, processes: int) -> str | None:
    """The last whole checkpoint of so many processes under `folder`, or None."""
    found = [(step, path) for path in folder.glob("checkpoint-*") if (step := read_step(path, processes)) is not None]
    return str(max(found)[1]) if found else None


def read_step(checkpoint: Path, processes: int) -> int | None:
    """The step that a checkpoint of so many processes was saved after; None unless it is whole.

    Whole are weights, states of the optimizer and of the learning rate, every process's random states, and the
    trainer's own state.
    """
    try:
        step = int(json.loads((checkpoint / TRAINER_STATE).read_text())["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    ranks = [""] if processes == 1 else [f"_{rank}" for rank in range(processes)]
    names = ["scheduler.pt", *(f"rng_state{rank}.pth" for rank in ranks)]
    states = has_deepspeed_states(checkpoint, processes) or (
        has_weights(checkpoint) and zipfile.is_zipfile(checkpoint / "optimizer.pt")
    )
    return step if states and all(zipfile.is_zipfile(checkpoint / name) for name in names) else None


def has_weights(checkpoint: Path) -> bool:
    """Whether the weights are there, of an adapter or a whole model, each file as long as its header says."""
    index = checkpoint / "model.safetensors.index.json"
    try:
        names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else set()
        files = [checkpoint / name for name in names] or sorted(checkpoint.glob("*.safetensors"))
        for path in files:
            with safe_open(path, "pt"):
                pass
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return False
    return bool(files)


def has_deepspeed_states(checkpoint: Path, processes: int) -> bool:
    """Whether DeepSpeed's own states are there: weights, and the optimizer's share of every process."""
    try:
        states = checkpoint / (checkpoint / "latest").read_text().strip()
        shares, weights = sorted(states.glob("*optim_states.pt")), sorted(states.glob("*model_states.pt"))
        whole = all(zipfile.is_zipfile(path) for path in (*shares, *weights))
    except (OSError, ValueError):
        return False
    return whole and len(shares) == processes and len(weights) in (1, processes)
