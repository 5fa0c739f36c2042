"""What a recipe asks its stages to do: samples of every split, their prompts, and the model's shape."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from migrl.data.download.catalog import Source
from migrl.errors import UserError
from migrl.files import find_from_root
from migrl.plan.assumptions import PLAN_FILE, Assumptions, MemoryExtras
from migrl.plan.lengths import Pixels, Prompts, assume_split, count_split, make_counter, read_rehearsal
from migrl.plan.shapes import ModelShape, read_shape
from migrl.recipe import (
    TRAINING_SPLITS,
    FolderSource,
    HubSource,
    LocalTeacher,
    PoolTraining,
    PreparedTraining,
    Recipe,
    RehearsalSource,
    WorldSource,
)
from migrl.synthesis.teachers.prompts import TEXTS

REHEARSAL = "rehearsal"


@dataclass(frozen=True)
class Workload:
    """A recipe, what is assumed, and `home` (`runs/<recipe>`), where fetched data is counted.

    `counted` keeps the prompts of splits, `stated` their samples, for other settings of the same recipe too.
    """

    recipe: Recipe
    assumptions: Assumptions
    home: Path
    counted: dict[tuple[str, int], Prompts] = field(default_factory=dict, compare=False, repr=False)
    stated: dict[str, int | None] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def shape(self) -> ModelShape:
        """Shape of the base model.

        Raises:
            UserError: a model that is neither there nor in plan.yaml.
        """
        source = self.recipe.source
        if isinstance(source, RehearsalSource):
            return read_shape(find_from_root(source.shapes))
        return self.find_shape(self.recipe.model.path, "model")

    def find_shape(self, path: str, folder: str) -> ModelShape:
        """Shape of a model by its folder or Hub id; `folder` is where fetch puts it, below its own."""
        known = self.assumptions.shapes.get(path)
        places = [
            self.home / "fetch" / folder,
            find_from_root(Path(path)),
            *([PLAN_FILE.parent / known] if known else []),
        ]
        for place in places:
            config = place if place.suffix == ".json" else place / "config.json"
            if config.is_file():
                return read_shape(config)
        raise UserError(
            f"{path}: not there, and reproduce/plan.yaml, shapes, has no config.json for it; it has "
            f"{', '.join(self.assumptions.shapes)}; run `migrl fetch` with the same recipe and keys first, or add its "
            "config.json there"
        )

    @cached_property
    def sources(self) -> dict[str, Source]:
        """The catalogue's entries of the benchmarks, and those of the training data under their kinds."""
        from migrl.data.hub_source import find_sources  # loads every benchmark's reader
        from migrl.data.training_pool import find_pool

        source = self.recipe.source
        if not isinstance(source, HubSource):
            return {}
        pool = find_pool(source, source.training) if isinstance(source.training, PoolTraining) else {}
        return {**find_sources(source), **pool}

    @cached_property
    def count_tokens(self) -> Callable[[str], float]:
        """Counts a text's tokens, with the model's tokenizer if it is there."""
        places = [self.home / "fetch" / "model", find_from_root(Path(self.recipe.model.path))]
        folder = next((place for place in places if (place / "tokenizer.json").is_file()), places[0])
        return make_counter(folder, self.assumptions.lengths)

    @property
    def number_bytes(self) -> int:
        """Bytes of one weight."""
        return 2 if self.recipe.model.dtype == "bfloat16" else 4

    @property
    def extras(self) -> MemoryExtras:
        """What comes on top of tensors; a processor has no CUDA."""
        extras = self.assumptions.memory
        if self.number_bytes == 2:
            return extras
        return extras.model_copy(update={"overhead_gb": 0.0, "host_overhead_gb": extras.host_overhead_cpu_gb})

    @property
    def gpus(self) -> int:
        """GPUs that a stage takes: one a process."""
        return self.recipe.launch.processes

    def list_benchmarks(self) -> list[str]:
        """Names of the splits that evaluate reads.

        Raises:
            UserError: a prepared folder that is not there, or has none.
        """
        source = self.recipe.source
        if isinstance(source, HubSource):
            return list(source.benchmarks)
        if isinstance(source, WorldSource):
            return list(source.eval_per_task)
        if isinstance(source, RehearsalSource):
            return [REHEARSAL]
        names = sorted(path.stem for path in source.path.glob("[!.]*.jsonl") if path.stem not in TRAINING_SPLITS)
        if not names:
            raise UserError(f"source.path={source.path}: no <benchmark>.jsonl there; prepare it as README, Data, says")
        return names

    def measure(self, split: str, max_pixels: int) -> Prompts:
        """Prompts of a split whose pictures have at most `max_pixels`."""
        if (split, max_pixels) not in self.counted:
            self.counted[split, max_pixels] = self._measure(split, max_pixels)
        return self.counted[split, max_pixels]

    def with_teacher_precision(self, teacher: LocalTeacher) -> "Workload":
        """The same work with a teacher's number type and attention."""
        attention = getattr(teacher, "attention", "flash_attention_2")  # vLLM has kernels of its own
        changes = {"dtype": teacher.dtype, "attention": attention}
        model = self.recipe.model.model_copy(update=changes)
        return replace(self, recipe=self.recipe.model_copy(update={"model": model}))

    def measure_teacher(self) -> Prompts:
        """The cold start's prompts as a teacher reads them: with the truth and the rules in front."""
        prompts = self.measure("cot", self.recipe.sft.max_pixels)
        texts = {path.stem: self.count_tokens(path.read_text(encoding="utf-8")) for path in TEXTS.glob("*.txt")}
        return prompts.with_text(texts.pop("common") + max(texts.values()))

    def measure_pool(self, kind: str) -> Prompts:
        """Prompts of the RL pool for select, and of the part that the recipe has drawn from it for pass_rates."""
        prompts = self.measure("rl", self.recipe.grpo.max_pixels)
        settings = self.recipe.pass_rates
        if kind != "pass_rates" or settings is None:
            return prompts
        return replace(prompts, samples=min(settings.samples, prompts.samples or settings.samples))

    def _measure(self, split: str, max_pixels: int) -> Prompts:
        source, lengths = self.recipe.source, self.assumptions.lengths
        pixels = Pixels(self.shape.vision_config, self.recipe.model.min_pixels, max_pixels)
        path = next((folder / f"{split}.jsonl" for folder in self._list_data(split) if folder.is_dir()), None)
        if path is not None and path.is_file():
            return count_split(path, pixels, self.count_tokens, lengths)
        if split not in self.stated:
            self.stated[split] = self.count_samples(split)
        samples = self.stated[split]
        if isinstance(source, RehearsalSource):
            return read_rehearsal(source, samples or 0, pixels, self.count_tokens, lengths)
        kind = "world" if isinstance(source, WorldSource) else "training" if split in TRAINING_SPLITS else split
        sets = self.assumptions.sets
        return assume_split(sets.get(kind, sets["other"]), samples, pixels, lengths)

    def _list_data(self, split: str) -> list[Path]:
        """Folders that may hold a split: the fetched one, or what the user prepared."""
        source = self.recipe.source
        own = [source.path] if isinstance(source, FolderSource) else []
        if isinstance(source, HubSource) and isinstance(source.training, PreparedTraining) and split in TRAINING_SPLITS:
            own = [source.training.path]
        return [self.home / "fetch" / "data", *own]

    def count_samples(self, split: str) -> int | None:
        """Samples that a split will have at most; None if nobody has stated their number."""
        source = self.recipe.source
        training = split in TRAINING_SPLITS
        if isinstance(source, RehearsalSource):
            return {"cot": source.cot_samples, "rl": source.rl_samples, REHEARSAL: source.eval_samples}[split]
        if isinstance(source, WorldSource):
            from migrl.world.tasks import SETS

            evaluated = {str(name): count for name, count in source.eval_per_task.items()}
            each = {"cot": source.cot_per_task, "rl": source.rl_per_task, **evaluated}[split]
            return len(SETS["mini_mig" if training else split][0]) * each
        if not isinstance(source, HubSource):
            return None
        if not training:
            return self.sources[split].records
        if not isinstance(source.training, PoolTraining):
            return None
        most = source.training.cot_per_task if split == "cot" else source.training.rl_per_task
        return sum(most.values()) if isinstance(most, dict) else most * len(source.training.all_tasks)
