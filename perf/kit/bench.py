"""What every part works on: the recipe at the paper's shapes, drawn questions, a random model, and plan's formulas."""

from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from migrl.data.rehearsal_source import build_rehearsal, draw_model, read_shapes
from migrl.files import find_from_root
from migrl.grounding.answers import format_box_answer
from migrl.grounding.samples import read_samples
from migrl.models.inputs import ModelInput, count_prompt, prepare_input
from migrl.models.loading import load_processor
from migrl.plan.assumptions import load_assumptions
from migrl.plan.costs import Duration
from migrl.plan.lengths import Length, Prompts, combine
from migrl.plan.machine import Machine, read_host_bytes
from migrl.plan.memory import Memory
from migrl.plan.workload import Workload
from migrl.recipe import Recipe
from migrl.report.gpu_parts import Conditions, Figure, Formula, Part
from migrl.running.gpu_peaks import Gpu, find_gpu, load_gpus
from migrl.running.gpus import describe_gpus
from migrl.running.metering import measure_memory
from migrl.running.stage import describe_revision

PACKAGES = "torch transformers trl peft accelerate deepspeed datasets flash-attn".split()
RESERVE = "reserve"  # plan's allowance for what is not in tensors, which no tensor count can show


@dataclass(frozen=True)
class Bench:
    """A recipe on this machine, with its drawn data below `data`. Questions are chosen by their number of pictures."""

    recipe: Recipe
    data: Path

    @cached_property
    def device(self) -> str:
        """What the device calls itself, or `cpu`."""
        return str(measure_memory()["device"])

    @cached_property
    def gpu_bytes(self) -> int:
        """Memory of the device; 0 for a processor."""
        return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0

    @cached_property
    def driver(self) -> str | None:
        """The GPU's driver; asked for once, as nvidia-smi takes its time."""
        gpus = describe_gpus()
        return gpus.get("driver") if gpus else None

    @cached_property
    def revision(self) -> dict[str, Any]:
        """The code's revision, and whether it has uncommitted changes."""
        return describe_revision()

    @cached_property
    def pictures(self) -> int:
        """Pictures of a question of middling length."""
        counts = sorted(self.recipe.source.images)
        return int(counts[len(counts) // 2])

    @cached_property
    def processor(self) -> ProcessorMixin:
        """With the pixel limit of rollouts and evaluation."""
        return self.load_processor(self.recipe.grpo.max_pixels)

    def load_processor(self, max_pixels: int) -> ProcessorMixin:
        model = self.recipe.model
        return load_processor(find_from_root(Path(model.path)), min_pixels=model.min_pixels, max_pixels=max_pixels)

    def draw(self) -> None:
        """Draw pictures and questions."""
        build_rehearsal(self.recipe.source, find_from_root(Path(self.recipe.model.path)), self.data)

    def list_items(self, split: str, processor: ProcessorMixin, pictures: int | None = None) -> list[ModelInput]:
        """Questions of a split, only those with so many pictures if a number is given."""
        items = [
            prepare_input(sample, self.data, processor, frame=self.recipe.model.frame, style="think")
            for sample in read_samples(self.data / f"{split}.jsonl")
        ]
        return [item for item in items if pictures in (None, len(item.paths))]

    def read_config(self) -> PreTrainedConfig:
        """The recipe's shapes."""
        return read_shapes(self.recipe.source.shapes, find_from_root(Path(self.recipe.model.path)))

    def build_model(self, attention: str) -> PreTrainedModel:
        """A model of the recipe's shapes with random weights, on the device."""
        return draw_model(self.recipe.source, self.read_config(), self.recipe.model.dtype, attention).eval()

    def plan_for(self, attention: str, ceilings: dict[str, Figure]) -> "Formulas":
        """Plan's formulas for this device. One that gpus.yaml does not know has the peaks that were measured on it."""
        assumptions = load_assumptions()
        kind = find_gpu(self.device, load_gpus()) if self.recipe.model.dtype == "bfloat16" else None
        if kind is None and ceilings:
            rates = {name: figure.work / figure.median for name, figure in ceilings.items() if figure.work}
            gpu = Gpu(
                names=(self.device,),
                tflops=rates["matmul"] / 1e12,
                memory_gb=max(self.gpu_bytes, 1) / 1e9,
                bandwidth_gb=rates["copy"] / 1e9,
            )
            kind = (self.device, gpu)
        machine = Machine(1, self.device, self.gpu_bytes, kind, 1, "found", 1, read_host_bytes())
        model = self.recipe.model.model_copy(update={"attention": attention})
        recipe = self.recipe.model_copy(update={"model": model})
        return Formulas(Workload(recipe, assumptions, self.data), machine)

    def describe(self, attention: str, settings: dict[str, Any]) -> Part:
        """The record of a part before anything is measured."""
        conditions = Conditions(
            dtype=self.recipe.model.dtype,
            attention=attention,
            shapes=str(self.recipe.source.shapes),
            settings=settings,
            driver=self.driver,
            versions={name: find_version(name) for name in PACKAGES} | {"cuda": torch.version.cuda},
        )
        return Part(conditions=conditions, complete=False, **self.revision)


@dataclass(frozen=True)
class Formulas:
    """What `migrl plan` computes for one piece of work on one device."""

    workload: Workload
    machine: Machine

    @property
    def shares(self) -> Any:
        """Plan's assumed efficiencies."""
        return self.workload.assumptions.efficiency


def measure_prompts(items: list[ModelInput], processor: ProcessorMixin) -> Prompts:
    """The prompts of a batch in plan's terms: their means, and the longest."""
    lengths = [
        Length(len(item.paths), sum(count_patches(item, processor.image_processor.patch_size)), tokens)
        for item, tokens in ((item, sum(count_prompt(item, processor))) for item in items)
    ]
    return Prompts(len(items), combine(fmean, lengths), combine(max, lengths), "counted")


def count_patches(item: ModelInput, patch: int) -> list[int]:
    """Patches of each picture of a question."""
    return [width * height // patch**2 for width, height in item.resized_sizes]


def write_answer(item: ModelInput) -> str:
    """What the teacher would have a question answered with: its drawn thought, and the true box."""
    return f"<think>{item.sample.facts}</think>{format_box_answer(item.box_target.image, item.true_box)}"


def to_formula(duration: Duration | None) -> Formula | None:
    """A duration as it stands in the record."""
    return None if duration is None else Formula(low=duration.low, high=duration.high, words=duration.words)


def count_tensor_gb(memory: Memory) -> float:
    """Plan's peak in tensors, in 10^9 bytes."""
    return sum(part.bytes for part in memory.parts if part.name != RESERVE) / 1e9


def close_part(part: Part, figures: dict[str, Figure], memory: Memory | None, *, complete: bool = True) -> Part:
    """The record with its figures, and the peak of this process so far beside plan's."""
    measured = measure_memory()["peak_memory_gb"]
    formula = count_tensor_gb(memory) if memory is not None and measured is not None else None
    return replace_part(part, figures=figures, peak_memory_gb=measured, formula_memory_gb=formula, complete=complete)


def replace_part(part: Part, **changes: Any) -> Part:
    """A record with other values, checked again."""
    return Part.model_validate({**dict(part), **changes})


def find_version(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
