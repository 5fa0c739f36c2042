"""The rehearsal's report: what each stage cost, as `measurements.json` and as a table.

`migrl plan` reads the file. Without a measurement on a GPU there is no file, and the table says "not run".
"""

from collections.abc import Mapping
from typing import Any

DEFINITIONS = {
    "seconds_per_step": "median of the timed steps, after the warm-up; waiting for data counts, checkpoints do not",
    "tokens_per_second": "sft, grpo: tokens trained on, prompts and image tokens included, rollouts in the time; "
    "select, evaluate, pass_rates: new tokens; all processes together",
    "mfu": "FLOPs the model needs (migrl/flops.py) by time, processes and the device's dense bf16 peak "
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
    "tokens_per_second": "tokens a second",
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


def collect_measurements(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The content of measurements.json, from the manifests of a recipe's stages."""
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


def render_measurements(data: Mapping[str, Any] | None) -> str:
    """The table as Markdown; `data` None is a rehearsal that was not run."""
    lines = ["# Rehearsal: what the stages of the paper recipe cost on one GPU", ""]
    if data is None:
        lines += ["**Not run on a GPU so far.** On a GPU server `make rehearsal` runs it and fills this folder:"]
        lines += [
            "this table, and `measurements.json`, which `migrl plan` reads. Without it plan uses its formulas alone."
        ]
    else:
        dirty = " (with uncommitted changes)" if data["dirty"] else ""
        lines += [f"Device: {data['device']}; revision {data['git_revision']}{dirty}."]
        lines += ["**Not run on a GPU: no figure here speaks for one.**"] if data["not_run"] else []
    lines += ["", f"| stage | {' | '.join(COLUMNS.values())} |", f"|---|---|{'---:|' * (len(COLUMNS) - 1)}"]
    names = MEASURED if data is None else data["stages"]
    lines += [f"| {name} | {' | '.join(list_cells(name, data))} |" for name in names]
    lines += ["", *(f"- `{name}`: {text}." for name, text in DEFINITIONS.items())]
    lines += [
        "",
        "Random weights, drawn pictures; completions nearly always run to their limit, so generation is at its",
    ]
    lines += ["slowest. Shapes and batches: reproduce/recipes/rehearsal.yaml."]
    return "\n".join([*lines, ""])


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
