"""When a GRPO run has gone wrong: rules over the last steps' logged metrics."""

import math
from statistics import fmean, median
from typing import Any

from migrl.recipe import AlarmSettings

Rows = list[dict[str, Any]]
ARMED_AT = 0.1
"""A best hit rate below this is too near to 0 for a fall from it to say much."""
ALARMS = {
    "kl": (
        "kl",
        "the policy runs away from its start model; to begin anew, lower grpo.learning_rate or raise grpo.beta",
    ),
    "collapse": (
        "hit_reward",
        "the policy has unlearned to answer; to begin anew, lower grpo.learning_rate or raise grpo.beta",
    ),
    "truncation": ("truncation", "completions do not end; to begin anew, raise grpo.max_new_tokens"),
    "zero_variance": (
        "zero_variance",
        "almost no prompt teaches any more; to begin anew, select harder samples or lower grpo.max_steps",
    ),
    "sampling_difference": (
        "sampling_difference",
        "vLLM samples from another distribution than the one that is trained; take grpo.engine=transformers, and see "
        "whether both have one release and dtype",
    ),
}
"""The settings' alarms: the metric that each looks at, and what it means."""


def find_broken(row: dict[str, Any]) -> str | None:
    """What to tell if a step's loss or gradient norm is no finite number: its weights are lost."""
    for name in ("loss", "grad_norm"):
        value = row.get(name)
        if value is not None and not math.isfinite(value):
            return (
                f"{name} is {value} at step {row['step']}: its weights are lost, no checkpoint was written of them; "
                "started again, training goes on from the last one; if it ends so again, take another seed or a lower "
                "learning rate, and it begins anew"
            )
    return None


def find_alarm(rows: Rows, settings: AlarmSettings) -> str | None:
    """What to tell if the last `settings.window` of a run's log rows show one of the alarms, else None.

    `rows` are all steps so far, oldest first, metrics under the names of log.jsonl. A step that could not measure a
    metric, or gave no number for it, is passed over. With fewer values than the window, or without the metric (KL, if
    it has no weight), no alarm is raised.
    """
    for name, (metric, meaning) in ALARMS.items():
        limit: float | None = getattr(settings, name)
        # Infinity is a value, and beyond every limit.
        values = [row[metric] for row in rows if row.get(metric) is not None and not math.isnan(row[metric])]
        if limit is None or len(values) < settings.window:
            continue
        if name == "collapse":
            found = _find_collapse(values, settings.window, limit)
        else:
            found = _find_excess(name, values[-settings.window :], limit)
        if found is not None:
            shown = ", ".join(f"{value:.3g}" for value in values[-settings.window :][-5:])
            return (
                f"alarm at step {rows[-1]['step']}: {metric} over the last {settings.window} steps: {found} "
                f"(last: {shown}): {meaning}; to go on from this step's checkpoint, change grpo.alarms.{name}, or set "
                "it to null"
            )
    return None


def _find_excess(name: str, values: list[float], limit: float) -> str | None:
    """How the values' mean, of KL their median, is above the limit."""
    measure, value = ("median", median(values)) if name == "kl" else ("mean", fmean(values))
    return f"{measure} {value:.3g}, limit {limit:g}" if value > limit else None


def _find_collapse(values: list[float], window: int, limit: float) -> str | None:
    """How the last window's mean is below a share of the best window's."""
    means = [fmean(values[end - window : end]) for end in range(window, len(values) + 1)]
    best, last = max(means), means[-1]
    if best < ARMED_AT or last >= limit * best:
        return None
    return f"mean {last:.3g}, limit {limit:g} of the best window's {best:.3g}"
