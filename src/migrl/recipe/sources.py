"""Recipe section `source`: where samples come from."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, model_validator

from migrl.recipe.section import Count, Rate, Section, Seed

MgroundingTask = Literal[
    "Common_Object",
    "Difference",
    "Free-Form",
    "Group_Grounding",
    "Object_Tracking",
    "Referring_Grounding",
    "Region_Locating",
]
SINGLE_IMAGE = "Single_Image"
"""The task of UniVG-R1's questions over one picture of COCO."""
TRAINING_SPLITS = ("cot", "rl")
"""The splits that are trained on, the cold start's and RL's; every other one is a benchmark."""
WorldSet = Literal["mini_mig", "mini_reason", "mini_frames", "mini_relate", "mini_blink", "mini_mmiu", "mini_any"]
LIST_SET, LIST_BENCHMARK = "mini_any", "mc_bench"
"""The rendered set, and the published one, whose questions any number of boxes may answer."""
Side = Annotated[int, Field(strict=True, ge=28, le=65535)]  # px: a cell of the vision tower, the most of a JPEG


class WorldSource(Section):
    """Sizes of the rendered world's sets (world/tasks.py); every set is drawn from `seed`."""

    kind: Literal["world"]
    seed: Seed = 0
    cot_per_task: Count
    rl_per_task: Count
    eval_per_task: Annotated[dict[WorldSet, Count], Field(min_length=1)]


class PreparedTraining(Section):
    """A prepared folder with cot.jsonl and rl.jsonl, pictures beside them."""

    kind: Literal["folder"]
    path: Path


def _check_per_task(value: Any) -> int | dict[str, int]:
    counts = value.values() if isinstance(value, dict) else [value]
    if not counts or any(type(count) is not int or not 1 <= count < 2**31 for count in counts):
        raise ValueError("must be a count of at least 1 for every task, or a mapping of each task to its own")
    return dict(value) if isinstance(value, dict) else int(value)


PerTask = Annotated[int | dict[str, int], PlainValidator(_check_per_task)]


class PoolTraining(Section):
    """Samples of a published pool by task.

    A split takes at most `..._per_task` of each, one count for all or one for each. `broken_share` of the records, and
    of the pictures, may be unusable: they are left out and counted. With 0 the first stops the run.
    """

    kind: str
    cot_per_task: PerTask
    rl_per_task: PerTask
    tasks: Annotated[tuple[MgroundingTask, ...], Field(min_length=1)]
    broken_share: Rate = 0.0

    @property
    def all_tasks(self) -> tuple[str, ...]:
        """Every task that has a count."""
        return self.tasks

    @model_validator(mode="after")
    def check_tasks(self) -> Self:
        for key in ("cot_per_task", "rl_per_task"):
            counts = getattr(self, key)
            if isinstance(counts, dict) and counts.keys() != set(self.all_tasks):
                raise ValueError(
                    f"{key}: give one count for each of {', '.join(self.all_tasks)}, and for no other task"
                )
        return self


class MgroundingTraining(PoolTraining):
    """MGrounding-630k (data/mgrounding.py): how many samples of each task a split takes; only their tasks' archives."""

    kind: Literal["mgrounding"]


class UnivgTraining(PoolTraining):
    """UniVG-R1's released stages (data/univg.py): stage 1 with its reasoning for the cold start, stage 2 for RL.

    Their pictures are MGrounding-630k's. `single_image` also takes stage 2's questions over one picture of COCO
    train2014, as task `Single_Image`; these pictures the user has to bring.
    """

    kind: Literal["univg"]
    single_image: bool = False

    @property
    def all_tasks(self) -> tuple[str, ...]:
        return (*self.tasks, *([SINGLE_IMAGE] if self.single_image else []))


class HubSource(Section):
    """Published data sets: the benchmarks, and what is trained on (null: nothing, to evaluate the base alone).

    `catalog` describes the sets; null means reproduce/sources.yaml. `seed` decides which training samples are taken.
    `downloads` keeps what was fetched, for all runs; `offline` is a folder with files the user already has. Where
    files lie does not decide a result, so these two are no part of a stage's key.
    """

    kind: Literal["hub"]
    benchmarks: Annotated[tuple[str, ...], Field(min_length=1)]
    training: Annotated[PreparedTraining | MgroundingTraining | UnivgTraining, Field(discriminator="kind")] | None
    seed: Seed = 0
    catalog: Path | None = None
    downloads: Path = Field(default=Path("data"), exclude=True)
    offline: Path | None = Field(default=None, exclude=True)


class RehearsalSource(Section):
    """Drawn pictures and texts of stated sizes, and random weights of the architecture that `shapes` (a config.json)
    describes: for measuring, never for results. `model.path` gives tokenizer and processor only.

    `images` (pictures per sample) and `sizes` (width, height) are taken in turn; `pictures` different ones are drawn.
    A question has `question_tokens` and a teacher's thought `thought_tokens` tokens.
    """

    kind: Literal["rehearsal"]
    shapes: Path
    images: Annotated[tuple[Count, ...], Field(min_length=1)]
    sizes: Annotated[tuple[tuple[Side, Side], ...], Field(min_length=1)]
    pictures: Count
    question_tokens: Annotated[int, Field(strict=True, ge=8, lt=2**31)]
    thought_tokens: Annotated[int, Field(strict=True, ge=16, lt=2**31)]
    cot_samples: Count
    rl_samples: Count
    eval_samples: Count
    seed: Seed = 0


class FolderSource(Section):
    """A prepared folder: cot.jsonl, rl.jsonl and one `<benchmark>.jsonl` a benchmark, pictures beside them."""

    kind: Literal["folder"]
    path: Path


Source = WorldSource | HubSource | FolderSource | RehearsalSource


def may_ask_lists(source: Source) -> bool:
    """Whether a sample may ask for a list of boxes, as far as a recipe alone can tell."""
    match source:
        case WorldSource():
            return LIST_SET in source.eval_per_task
        case RehearsalSource():
            return False
        case HubSource():
            # A catalogue of one's own may call MC-Bench anything.
            named = LIST_BENCHMARK in source.benchmarks or source.catalog is not None
            return named or isinstance(source.training, PreparedTraining)
    return True
