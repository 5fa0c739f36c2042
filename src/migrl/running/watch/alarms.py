"""When a GRPO run has gone wrong: rules over the last steps' logged metrics."""

import math
from statistics import fmean, median
from typing import Any

from migrl.recipe import AlarmSettings

Rows = list[dict[str, Any]]
ARMED_AT = 0.1
"""A best hit rate below this is too near to 0 for a fall from it to say much."""


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
    for check in (_check_kl, _check_collapse, _check_truncation, _check_zero_variance):
        found = check(rows, settings)
        if found is not None:
            return found
    return None


def _check_kl(rows: Rows, settings: AlarmSettings) -> str | None:
    meaning = "the policy runs away from its start model; to begin anew, lower grpo.learning_rate or raise grpo.beta"
    return _check_above(rows, settings, "kl", "median", meaning)


def _check_truncation(rows: Rows, settings: AlarmSettings) -> str | None:
    meaning = "completions do not end; to begin anew, raise grpo.max_new_tokens"
    return _check_above(rows, settings, "truncation", "mean", meaning)


def _check_zero_variance(rows: Rows, settings: AlarmSettings) -> str | None:
    meaning = "almost no prompt teaches any more; to begin anew, select harder samples or lower grpo.max_steps"
    return _check_above(rows, settings, "zero_variance", "mean", meaning)


def _check_above(rows: Rows, settings: AlarmSettings, name: str, measure: str, meaning: str) -> str | None:
    limit: float | None = getattr(settings, name)
    values = _list_values(rows, name)[-settings.window :]
    if limit is None or len(values) < settings.window:
        return None
    value = median(values) if measure == "median" else fmean(values)
    if value <= limit:
        return None
    return _tell(rows, settings, name, values, f"{measure} {value:.3g}, limit {limit:g}", meaning)


def _list_values(rows: Rows, name: str) -> list[float]:
    """A metric's values; infinity is one, and beyond every limit."""
    values = [row.get(name) for row in rows]
    return [value for value in values if value is not None and not math.isnan(value)]


def _check_collapse(rows: Rows, settings: AlarmSettings) -> str | None:
    values = _list_values(rows, "hit_reward")
    size = settings.window
    if settings.collapse is None or len(values) < size:
        return None
    means = [fmean(values[end - size : end]) for end in range(size, len(values) + 1)]
    best, last = max(means), means[-1]
    if best < ARMED_AT or last >= settings.collapse * best:
        return None
    what = f"mean {last:.3g}, limit {settings.collapse:g} of the best window's {best:.3g}"
    meaning = "the policy has unlearned to answer; to begin anew, lower grpo.learning_rate or raise grpo.beta"
    return _tell(rows, settings, "collapse", values[-size:], what, meaning)


def _tell(rows: Rows, settings: AlarmSettings, name: str, values: list[float], what: str, meaning: str) -> str:
    shown = ", ".join(f"{value:.3g}" for value in values[-5:])
    metric = "hit_reward" if name == "collapse" else name
    return (
        f"alarm at step {rows[-1]['step']}: {metric} over the last {settings.window} steps: {what} (last: {shown}): "
        f"{meaning}; to go on from this step's checkpoint, change grpo.alarms.{name}, or set it to null"
    )
