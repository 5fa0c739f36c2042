"""What a trainer's forward pass works on, read from the model's arguments."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True)
class Pass:
    """What a model is handed: `lengths` of whole sequences in tokens, and how many tokens of them it predicts.

    `shared` tokens of a sequence's beginning are another's too, and not computed again. `pictures` are the patches of
    each picture, `patches` the same of those that pass through the tower.
    """

    lengths: list[int]
    shared: list[int]
    predicted: int
    pictures: list[int]
    patches: list[int]


def read_pass(given: dict[str, Any]) -> Pass | None:
    """A pass from a model's arguments; None for one that scores nothing."""
    if given.get("shift_labels") is not None:
        return read_packed_pass(given)
    if (labels := given.get("labels")) is None:
        return None
    patches = given["image_grid_thw"].prod(1).tolist()
    lengths = given["attention_mask"].sum(1).tolist()
    return Pass(lengths, [], int((labels[:, 1:] >= 0).sum()), patches, patches)


def read_packed_pass(given: dict[str, Any]) -> Pass:
    """The same of packs (training/packs.py): a prompt, and completions that all begin at the position where it ends."""
    patches = given["image_grid_thw"].prod(1).tolist()
    lengths, shared = [], []
    predicted = given["shift_labels"] >= 0
    for positions, mask in zip(given["position_ids"][0], predicted, strict=True):
        prompt, own = int(mask.int().argmax()), positions[mask]
        starts = [*(own == own[0]).nonzero()[:, 0].tolist(), len(own)]
        lengths += [prompt + end - start for start, end in pairwise(starts)]
        shared += [prompt] * (len(starts) - 2)
    seen = patches if len(given["pixel_values"]) == sum(patches) else []
    return Pass(lengths, shared, int(predicted.sum()), patches, seen)
