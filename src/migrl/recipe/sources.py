"""Recipe section `source`: where samples come from."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from migrl.recipe.section import Count, Section

MgroundingTask = Literal[
    "Common_Object",
    "Difference",
    "Free-Form",
    "Group_Grounding",
    "Object_Tracking",
    "Referring_Grounding",
    "Region_Locating",
]


class WorldSource(Section):
    """Sizes of the rendered world's sets (world/tasks.py); every set is drawn from `seed`."""

    kind: Literal["world"]
    seed: int = 0
    cot_per_task: Count
    rl_per_task: Count
    eval_per_task: dict[str, Count]


class PreparedTraining(Section):
    """A prepared folder with cot.jsonl and rl.jsonl, pictures beside them."""

    kind: Literal["folder"]
    path: Path


class MgroundingTraining(Section):
    """MGrounding-630k (data/mgrounding.py): how many samples of each task a split takes; only their tasks' archives."""

    kind: Literal["mgrounding"]
    cot_per_task: Count
    rl_per_task: Count
    tasks: Annotated[tuple[MgroundingTask, ...], Field(min_length=1)]


class HubSource(Section):
    """Published data sets: the benchmarks, and what is trained on (null: nothing, to evaluate the base alone).

    `catalog` describes the sets; null means reproduce/sources.yaml. `seed` decides which training samples are taken.
    `downloads` keeps what was fetched, for all runs; `offline` is a folder with files the user already has. Where
    files lie does not decide a result, so these two are no part of a stage's key.
    """

    kind: Literal["hub"]
    benchmarks: Annotated[tuple[str, ...], Field(min_length=1)]
    training: Annotated[PreparedTraining | MgroundingTraining, Field(discriminator="kind")] | None
    seed: int = 0
    catalog: Path | None = None
    downloads: Path = Field(default=Path("data"), exclude=True)
    offline: Path | None = Field(default=None, exclude=True)


class FolderSource(Section):
    """A prepared folder: cot.jsonl, rl.jsonl and one `<benchmark>.jsonl` a benchmark, pictures beside them."""

    kind: Literal["folder"]
    path: Path
