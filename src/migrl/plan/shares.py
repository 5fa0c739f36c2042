"""Shares of a GPU's peaks that `make gpu` measured, in place of those that reproduce/plan.yaml assumes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from migrl.errors import UserError
from migrl.files import find_from_root
from migrl.plan.assumptions import Efficiency
from migrl.plan.machine import Machine
from migrl.plan.shapes import read_shape
from migrl.plan.workload import Workload
from migrl.report.gpu_parts import Bound, Card, Part
from migrl.running.gpu_peaks import GPUS_FILE, Gpu


def pick_shares(cards: Mapping[str, Card], workload: Workload, machine: Machine) -> tuple[dict[str, Efficiency], str]:
    """From the lowest to the highest share of each kind, and in words where they are from and what was left out.

    Those of another number type, attention or model shape are left out.

    Raises:
        UserError: more than the whole peak was reached, so the peak in gpus.yaml is wrong.
    """
    if machine.kind is None or not cards:
        return {}, ""
    found: dict[str, list[float]] = {}
    others = set()
    for device, part in ((device, part) for device, card in cards.items() for part in card.parts.values()):
        model, conditions = workload.recipe.model, part.conditions
        if (conditions.dtype, conditions.attention) != (model.dtype, model.attention):
            others.add(f"{conditions.dtype} with {conditions.attention}")
        elif read_shape(find_from_root(Path(conditions.shapes))) != workload.shape:
            others.add(conditions.shapes)
        else:
            for bound, share in list_shares(part, machine.kind[1]):
                if share > 1:
                    raise UserError(
                        f"{GPUS_FILE}: {bound} was measured at {share:.2f} of the peak it has for {device}; "
                        "correct gpus there"
                    )
                found.setdefault(bound, []).append(share)
    source = f"measured on {', '.join(cards)}"
    shares = {
        bound: Efficiency(range=(min(some), max(some)), source=source, basis="measured")
        for bound, some in found.items()
    }
    return shares, f"parts {source}" + (f"; not used: {', '.join(sorted(others))}" if others else "")


def list_shares(part: Part, gpu: Gpu) -> Iterator[tuple[Bound, float]]:
    """What each figure of a part reached of the GPU's peak in FLOP/s, or in bytes per second."""
    for figure in part.figures.values():
        if figure.bound is not None and figure.work is not None:
            peak = gpu.tflops * 1e12 if figure.flops else gpu.bandwidth_gb * 1e9
            yield figure.bound, figure.work / figure.median / peak
