"""What a recipe works on: samples of every split, their prompts, and the model's shape."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from migrl.data.download.catalog import Source
from migrl.errors import UserError
from migrl.files import find_from_root
from migrl.models.folder import CONFIG, find_local_model
from migrl.models.shapes import ModelShape, read_shape
from migrl.plan.assumptions import PLAN_FILE, Assumptions
from migrl.plan.lengths import CountTokens, Pixels, Prompts, assume_split, count_split, make_counter
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
from migrl.synthesis.teachers.prompts import COMMON, FAMILIES, read_text

REHEARSAL = "rehearsal"


@dataclass(frozen=True)
class Workload:
    """A recipe, what is assumed, and `home` (`runs/<recipe>`), where fetched data is counted.

    `model` is the folder below fetch's own that its model comes to lie in. `measured` keeps the prompts of splits, and
    `counted` their samples, for other settings of the same recipe too.
    """

    recipe: Recipe
    assumptions: Assumptions
    home: Path
    model: str = "model"
    measured: dict[tuple[str, int], Prompts] = field(default_factory=dict, compare=False, repr=False)
    counted: dict[str, int | None] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def shape(self) -> ModelShape:
        """Shape of the model.

        Raises:
            UserError: a model that is neither there nor in plan.yaml.
        """
        source, path, shapes = self.recipe.source, self.recipe.model.path, self.assumptions.shapes
        if isinstance(source, RehearsalSource) and self.model == "model":
            return read_shape(find_from_root(source.shapes))
        local = find_local_model(path)
        configs = [self.home / "fetch" / self.model / CONFIG, *([local / CONFIG] if local else [])]
        configs += [PLAN_FILE.parent / shapes[path]] if path in shapes else []
        for config in configs:
            if config.is_file():
                return read_shape(config)
        raise UserError(
            f"{path}: not there, and reproduce/plan.yaml, shapes, has no config.json for it; it has "
            f"{', '.join(shapes)}; run `migrl fetch` with the same recipe and keys first, or add its config.json there"
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

    @property
    def samples(self) -> dict[str, int | None]:
        """Samples that each split will have at most; None if nobody has stated their number.

        Raises:
            UserError: a prepared folder that is not there, or has no benchmark.
        """
        if not self.counted:
            self.counted.update(self._count_samples())
        return self.counted

    def _count_samples(self) -> dict[str, int | None]:
        source = self.recipe.source
        if isinstance(source, RehearsalSource):
            return {"cot": source.cot_samples, "rl": source.rl_samples, REHEARSAL: source.eval_samples}
        if isinstance(source, WorldSource):
            from migrl.world.tasks import SETS

            training = len(SETS["mini_mig"][0])
            counts = {"cot": training * source.cot_per_task, "rl": training * source.rl_per_task}
            return {**counts, **{name: len(SETS[name][0]) * each for name, each in source.eval_per_task.items()}}
        if isinstance(source, FolderSource):
            names = sorted(path.stem for path in source.path.glob("[!.]*.jsonl") if path.stem not in TRAINING_SPLITS)
            if not names:
                raise UserError(
                    f"source.path={source.path}: no <benchmark>.jsonl there; prepare it as reproduce/README.md, Data, "
                    "says"
                )
            return dict.fromkeys((*TRAINING_SPLITS, *names))
        found: dict[str, int | None] = {name: self.sources[name].records for name in source.benchmarks}
        for split in TRAINING_SPLITS:
            most = getattr(source.training, f"{split}_per_task", None)
            if isinstance(source.training, PoolTraining) and isinstance(most, int):
                most *= len(source.training.all_tasks)
            found[split] = sum(most.values()) if isinstance(most, dict) else most
        return found

    @property
    def benchmarks(self) -> list[str]:
        """The splits that evaluate reads."""
        return [split for split in self.samples if split not in TRAINING_SPLITS]

    @cached_property
    def count_tokens(self) -> CountTokens:
        """Counts a text's tokens, with the model's tokenizer if it is there."""
        fetched, local = self.home / "fetch" / "model", find_local_model(self.recipe.model.path)
        return make_counter(local if local and not fetched.is_dir() else fetched, self.assumptions.lengths)

    @property
    def number_bytes(self) -> int:
        """Bytes of one weight."""
        return 2 if self.recipe.model.dtype == "bfloat16" else 4

    @property
    def gpus(self) -> int:
        """GPUs that a stage takes: one per process."""
        return self.recipe.launch.processes

    def count_patches(self, pixels: int | None) -> float | None:
        """Patches of so many pixels."""
        return None if pixels is None else pixels / self.shape.vision_config.patch_size**2

    def measure(self, split: str, max_pixels: int) -> Prompts:
        """Prompts of a split whose pictures have at most `max_pixels`."""
        if (split, max_pixels) not in self.measured:
            self.measured[split, max_pixels] = self._measure(split, max_pixels)
        return self.measured[split, max_pixels]

    def measure_teacher(self) -> Prompts:
        """The cold start's prompts as a teacher reads them: with the truth and the rules in front."""
        longest = max(self.count_tokens(read_text(family)) for family in set(FAMILIES.values()))
        prompts = self.measure("cot", self.recipe.sft.max_pixels)
        return prompts.add_text(self.count_tokens(read_text(COMMON)) + longest)

    def for_teacher(self, teacher: LocalTeacher) -> "Workload":
        """The same work with the teacher in place of the model."""
        attention = getattr(teacher, "attention", "flash_attention_2")  # vLLM has kernels of its own
        changes = {"path": teacher.model, "dtype": teacher.dtype, "attention": attention}
        model = self.recipe.model.model_copy(update=changes)
        return replace(self, recipe=self.recipe.model_copy(update={"model": model}), model="teacher")

    def _measure(self, split: str, max_pixels: int) -> Prompts:
        source, lengths, sets = self.recipe.source, self.assumptions.lengths, self.assumptions.sets
        pixels = Pixels(self.shape.vision_config, self.recipe.model.min_pixels, max_pixels)
        data, training = self.home / "fetch" / "data", split in TRAINING_SPLITS
        if not data.is_dir():
            prepared = source.training if isinstance(source, HubSource) and training else source
            data = prepared.path if isinstance(prepared, FolderSource | PreparedTraining) else data
        if (data / f"{split}.jsonl").is_file():
            return count_split(data / f"{split}.jsonl", pixels, self.count_tokens, lengths)
        name = "world" if isinstance(source, WorldSource) else "training" if training or split == REHEARSAL else split
        name = name if name in sets else "other"
        return assume_split(name, sets[name], self.samples[split], pixels, lengths)
