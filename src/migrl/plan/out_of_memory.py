"""The error for a GPU that ran out of memory in the middle of a stage: what to lower, and by how much."""

from migrl.plan.changes import EXPERIMENT, offer_changes, show_value
from migrl.recipe import Recipe
from migrl.recipe.arms import name_kind

OTHER_MACHINE = ("launch.processes", "synthesize.teacher.memory")  # what a plan for other GPUs may say


def explain_out_of_memory(stage: str, recipe: Recipe, said: str) -> str:
    """Names the stage, what torch said, and the mildest change of each key that its memory grows with."""
    kind = "select" if stage == "pass_rates" else name_kind(stage)
    mildest: dict[str, str] = {}
    # Merge has no key of its own: the pixels that a plan offers would have sft run anew.
    for key, value in () if kind == "merge" else offer_changes(kind, recipe):
        experiment = " (changes the experiment)" if key.endswith(EXPERIMENT) else ""
        if key not in OTHER_MACHINE:
            mildest.setdefault(key, f"{key}={show_value(value)}{experiment}")
    change = f"set one of {', '.join(mildest.values())}: this stage then begins anew; or " if mildest else ""
    return (
        f"{stage}: the GPU ran out of memory ({said}); {change}use GPUs with more memory or end what else is on them "
        f"(nvidia-smi); `migrl plan --recipe {recipe.name}` prints what needs how much"
    )
