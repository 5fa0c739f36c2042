"""`measurements.json` and its page: what `make rehearsal` measured of whole stages, and `make gpu` of their parts.

Both write into the same file and leave the other's figures in place; `migrl plan` reads it. What was not measured on a
GPU says "not run".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from migrl.errors import UserError
from migrl.evidence.seal import make_file_hashes, seal
from migrl.files import explain_fault, read_json, write_json, write_text
from migrl.markdown_table import make_table
from migrl.report.gpu_parts import Card, Part, render_cards
from migrl.running.stage import MANIFEST

MEASUREMENTS = "measurements.json"
PAGE = "report.md"
CARDS = "cards"
DEFINITIONS = {
    "seconds_per_step": "median of the timed steps, after the warm-up; waiting for data counts, checkpoints do not",
    "tokens_per_second": "sft, grpo: tokens trained on, prompts and image tokens included, rollouts in the time; "
    "select, evaluate, pass_rates: new tokens; all processes together",
    "mfu": "FLOPs the model needs (models/flops.py) by time, processes and the device's dense bf16 peak "
    "(reproduce/plan.yaml); a rollout costs the forward pass of its sequence, the KL term one more",
    "peak_memory_gb": "largest sum of tensors in 10^9 bytes, of the process that had most (max_memory_allocated); "
    "reserved_memory_gb: the same with what the allocator held",
}
COLUMNS = {
    "step": "a step is",
    "steps": "timed",
    "seconds_per_step": "s a step",
    "sequences_per_step": "sequences a step",
    "longest_sequence": "longest, tokens",
    "tokens_per_second": "tokens per second",
    "mfu": "MFU",
    "peak_memory_gb": "peak memory, GB",
}
GENERAL = ("step", "seconds_per_step")
MEASURED: dict[str, tuple[str, tuple[str, ...]]] = {
    "fetch": ("stage", GENERAL),
    "synthesize": ("stage", GENERAL),
    "sft": ("optimizer step", tuple(COLUMNS)),
    "merge": ("stage", (*GENERAL, "peak_memory_gb")),
    "select": ("batch", tuple(COLUMNS)),
    "grpo": ("optimizer step", tuple(COLUMNS)),
    "evaluate": ("batch", tuple(COLUMNS)),
    "pass_rates": ("batch", tuple(COLUMNS)),
}
"""For each stage what one step of it is, and the columns that apply to it."""
_CARDS = TypeAdapter(dict[str, Card])


def collect_measurements(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a rehearsal's stages cost, from their manifests."""
    stages = {}
    for name in (name for name in MEASURED if name in manifests):
        whole = {"step": "stage", "steps": 1, "processes": 1, "seconds_per_step": manifests[name]["seconds"]}
        empty = dict.fromkeys(("tokens_per_second", "mfu", "peak_memory_gb"))
        stages[name] = {**empty, **whole, **(manifests[name]["facts"].get("performance") or {})}
    devices = sorted({stage.pop("device") for stage in stages.values() if "device" in stage})
    machine = manifests["grpo"]["machine"]
    return {
        "device": ", ".join(devices),
        "not_run": "cpu" in devices,
        "git_revision": machine["revision"],
        "dirty": machine["dirty"],
        "definitions": DEFINITIONS,
        "stages": stages,
    }


def read_cards(folder: Path) -> dict[str, Card]:
    """The cards of a folder's `measurements.json`; none without the file.

    Raises:
        UserError: no JSON, or records of another form; it names the file and the key.
    """
    path = folder / MEASUREMENTS
    if not path.exists():
        return {}
    data = read_json(path)
    try:
        return _CARDS.validate_python(data.get(CARDS, {}) if isinstance(data, dict) else data)
    except ValidationError as error:
        fault = explain_fault(error, CARDS)
        raise UserError(f"{path}: {fault}; delete it, or restore it from the repository") from error


def add_part(folder: Path, device: str, memory_gb: float, name: str, part: Part) -> Card:
    """Put one part of a card into the folder's file, at once and whole; return the card with it."""
    cards = read_cards(folder)
    card = cards.get(device, Card(memory_gb=memory_gb))
    card = card.model_copy(update={"memory_gb": memory_gb, "parts": {**card.parts, name: part}})
    write_cards(folder, {**cards, device: card})
    return card


def write_cards(folder: Path, cards: Mapping[str, Card]) -> None:
    """Put the cards into the folder's `measurements.json`, write its page anew, and its manifest if it has one."""
    path, manifest = folder / MEASUREMENTS, folder / MANIFEST
    folder.mkdir(parents=True, exist_ok=True)
    data = read_json(path) if path.exists() else {}
    data[CARDS] = {device: card.model_dump(mode="json", exclude_defaults=True) for device, card in cards.items()}
    write_json(path, data)
    write_text(folder / PAGE, render_measurements(data))
    if manifest.exists():
        write_json(manifest, seal({**read_json(manifest), "files": make_file_hashes(folder)}))


def render_measurements(data: Mapping[str, Any] | None) -> str:
    """The page as Markdown; of what `data` lacks it says "not run"."""
    cards = _CARDS.validate_python((data or {}).get(CARDS, {}))
    lines = ["# What the paper recipe costs on one GPU", "", *render_cards(cards), "", *render_stages(data)]
    return "\n".join([*lines, ""])


def render_stages(data: Mapping[str, Any] | None) -> list[str]:
    """The rehearsal's table; without its stages it was not run."""
    lines = ["## Rehearsal: whole stages", ""]
    if data is None or "stages" not in data:
        lines += ["**Not run on a GPU so far.** `make rehearsal` runs every stage of the pipeline for a few steps."]
        data = None
    else:
        dirty = " (with uncommitted changes)" if data["dirty"] else ""
        lines += [f"Device: {data['device']}; revision {data['git_revision']}{dirty}."]
        lines += ["**Not run on a GPU: no figure here speaks for one.**"] if data["not_run"] else []
    step, *numbers = COLUMNS.values()
    names = MEASURED if data is None else data["stages"]
    table = make_table(f"stage | {step} | {': | '.join(numbers)}:", ((name, *list_cells(name, data)) for name in names))
    lines += ["", *table, "", *(f"- `{name}`: {text}." for name, text in DEFINITIONS.items())]
    return [
        *lines,
        "",
        "In both, weights are random, pictures drawn, and completions nearly always run to their limit, so generation",
        "is at its slowest. Shapes and batches: reproduce/recipes/rehearsal.yaml.",
    ]


def list_cells(name: str, data: Mapping[str, Any] | None) -> list[str]:
    """One stage's cells: a dash where a column does not apply, "not run" where nothing was measured."""
    unit, columns = MEASURED[name]
    stage = {"step": unit} if data is None else data["stages"][name]
    return ["–" if key not in columns else show_value(key, stage.get(key)) for key in COLUMNS]


def show_value(key: str, value: Any) -> str:
    """A cell's text; None was not measured."""
    if value is None:
        return "not run"
    if key == "mfu":
        return f"{100 * value:.1f} %"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
