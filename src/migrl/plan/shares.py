"""Shares of a GPU's peaks that `make gpu` measured, in place of those that reproduce/plan.yaml assumes."""

from collections.abc import Mapping
from pathlib import Path

from migrl.errors import UserError
from migrl.files import find_from_root
from migrl.models.shapes import read_shape
from migrl.plan.assumptions import Efficiency
from migrl.plan.machine import Machine
from migrl.plan.workload import Workload
from migrl.report.gpu_parts import Card
from migrl.running.gpu_peaks import GPUS_FILE


def pick_shares(cards: Mapping[str, Card], workload: Workload, machine: Machine) -> tuple[dict[str, Efficiency], str]:
    """From the lowest to the highest share of each kind, and where they are from and what was left out.

    Those of another GPU, number type, attention or model shape are left out.

    Raises:
        UserError: more than the whole peak was reached, so the peak in gpus.yaml is wrong.
    """
    measured = {device: card for device, card in cards.items() if card.memory_gb}
    known = {device: card for device, card in measured.items() if machine.is_kind(device)}
    if machine.kind is None or not known:
        devices = ", ".join(measured)
        return {}, f"parts measured on {devices}, not on {machine.device}, so not used" if devices else ""
    found: dict[str, list[float]] = {}
    others, model, gpu = set(), workload.recipe.model, machine.kind[1]
    for device, part in ((device, part) for device, card in known.items() for part in card.parts.values()):
        conditions = part.conditions
        if (conditions.dtype, conditions.attention) != (model.dtype, model.attention):
            others.add(f"{conditions.dtype} with {conditions.attention}")
            continue
        if read_shape(find_from_root(Path(conditions.shapes))) != workload.shape:
            others.add(conditions.shapes)
            continue
        for figure in part.figures.values():
            if figure.bound is None or figure.work is None:
                continue
            share = figure.work / figure.median / (gpu.tflops * 1e12 if figure.flops else gpu.bandwidth_gb * 1e9)
            if share > 1:
                raise UserError(
                    f"{GPUS_FILE}: {figure.bound} was measured at {share:.2f} of the peak it has for {device}; "
                    "correct gpus there"
                )
            found.setdefault(figure.bound, []).append(share)
    note = f"parts measured on {', '.join(known)}" + (f"; not used: {', '.join(sorted(others))}" if others else "")
    return {bound: Efficiency(range=(min(some), max(some)), basis="measured") for bound, some in found.items()}, note
