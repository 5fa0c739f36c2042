"""What a stage costs: step time, tokens per second, MFU and peak memory, measured while it works.

`StepMeter` goes along with a trainer, `GenerationMeter` with a loop over batches. Both leave what they found in the
stage's `progress/`, and `read_performance` puts it into the stage's facts: neither is part of the stage's digest, as
times differ from run to run. On a CPU, MFU and memory are None: a figure of a CPU has no place in a GPU's column.

FLOPs are those that the model needs (models/flops.py), not those that the program spends: neither padding counts, nor
what gradient checkpointing computes again. Waiting for data counts as time, writing checkpoints does not.
"""

import gc
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from migrl.files import read_json, write_json
from migrl.models.decoding import Completion
from migrl.models.flops import count_forward
from migrl.models.inputs import ModelInput, count_prompt
from migrl.recipe import LoraSettings
from migrl.running.gpu_peaks import find_peak_flops
from migrl.running.passes import read_pass
from migrl.running.progress_log import ProgressLog, read_log
from migrl.running.stage import PROGRESS

WARMUP_STEPS = 2  # the first step loads kernels and sizes the allocator, the second still finds its pace
WARMUP_BATCHES = 1
TRAINING = "performance.json"
BFLOAT16 = str(torch.bfloat16)


@dataclass(frozen=True)
class Step:
    """One step of one process: seconds, and what was done in them. `tokens` are trained on, or newly generated."""

    seconds: float = 0.0
    tokens: int = 0
    sequences: int = 0
    longest: int = 0
    flops: float = 0.0
    warm: bool = True

    def __add__(self, other: "Step") -> "Step":
        return Step(
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.sequences + other.sequences,
            max(self.longest, other.longest),
            self.flops + other.flops,
            self.warm,
        )


class StepMeter(TrainerCallback):
    """Times a trainer's steps and counts, at the model's own door, what passes through it.

    Passes with labels are counted: with gradients they are training; without, the reference's log-probabilities.
    `rollouts` says that every trained sequence was generated first, which costs its forward pass once more. Tokens are
    those of whole sequences, also where several share a prompt that is computed once (training/packs.py).
    """

    def __init__(self, lora: LoraSettings | None, *, rollouts: bool = False) -> None:
        self.lora = lora
        self.rollouts = rollouts
        self.steps: list[Step] = []
        self.save_seconds: list[float] = []
        self._current = Step()
        self._mark = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        inner = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
        self._dtype = str(inner.dtype)
        self._hook = inner.register_forward_pre_hook(self.count, with_kwargs=True)
        self._mark = read_clock()

    def count(self, model: PreTrainedModel, args: Any, kwargs: dict[str, Any]) -> None:
        """Before a forward pass: add what it will do to the current step."""
        passed = read_pass(kwargs)
        if passed is None:
            return
        shape: dict[str, Any] = {"lora_rank": self.lora.rank if self.lora else 0, "shared": passed.shared}
        forward = count_forward(model.config, passed.lengths, passed.predicted, passed.patches, **shape)
        if not torch.is_grad_enabled():
            self._current += Step(flops=forward.total)
            return
        flops = forward.train(lora=self.lora is not None)
        if self.rollouts:
            flops += count_forward(model.config, passed.lengths, passed.predicted, passed.pictures, **shape).total
        lengths = passed.lengths
        self._current += Step(tokens=sum(lengths), sequences=len(lengths), longest=max(lengths), flops=flops)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = read_clock()
        self.steps.append(self._current + Step(seconds=now - self._mark))
        self._current, self._mark = Step(), now

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = read_clock()
        self.save_seconds.append(round(now - self._mark, 3))
        self._mark = now

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._hook.remove()

    def save(self, folder: Path) -> None:
        """Write `progress/performance.json`; every process must call this. After a resume it covers the steps since."""
        ranks: list[list[Step]] = gather_object([self.steps])
        memory = gather_object([measure_memory()])
        if self.steps and PartialState().is_main_process:
            (folder / PROGRESS).mkdir(exist_ok=True)
            write_json(folder / PROGRESS / TRAINING, self.summarize(ranks, memory))

    def summarize(self, ranks: list[list[Step]], memory: list[dict[str, Any]]) -> dict[str, Any]:
        """The stage's performance from the steps of all processes."""
        together = [sum(parts, Step()) for parts in zip(*ranks, strict=True)]
        warmup = min(WARMUP_STEPS, len(together) - 1)
        # Processes wait for each other in every step, so the first one's clock is everyone's.
        steps = [replace(step, seconds=own.seconds) for step, own in zip(together, ranks[0], strict=True)]
        found = describe("optimizer step", steps[warmup:], steps[:warmup], len(ranks), memory, dtype=self._dtype)
        saves = median(self.save_seconds) if self.save_seconds else None
        backend = torch.distributed.get_backend() if torch.distributed.is_initialized() else None
        return {**found, "seconds_per_save": saves, "backend": backend}


class GenerationMeter:
    """Times batches of generation in one process and appends each to `progress/performance.<rank>.jsonl`."""

    def __init__(self, folder: Path, rank: int, processor: ProcessorMixin) -> None:
        self.path = folder / PROGRESS / f"performance.{rank}.jsonl"
        self.processor = processor
        self.noted = 0

    def start(self, config: Any, dtype: str) -> None:
        """A model of this config is loaded, its first batch begins; each `note` ends a batch and begins the next."""
        self.config, self.dtype = config, dtype
        log = ProgressLog(self.path)  # drops a torn last line
        self._number = len(log.rows)
        log.close()
        self._mark = read_clock()

    def note(self, batch: list[ModelInput], completions: list[list[Completion]]) -> None:
        """Count a finished batch; completions come in the batch's order, one list per sample."""
        now = read_clock()
        step = Step(seconds=now - self._mark, warm=self.noted >= WARMUP_BATCHES)
        patch = self.processor.image_processor.patch_size
        for item, some in zip(batch, completions, strict=True):
            prompt = sum(count_prompt(item, self.processor))
            patches = [width * height // patch**2 for width, height in item.resized_sizes]
            for completion in some:
                length = prompt + completion.tokens
                forward = count_forward(self.config, [length], completion.tokens, patches)
                step += Step(tokens=completion.tokens, sequences=1, longest=length, flops=forward.total)
        row = {"uid": str(self._number), **asdict(step), "dtype": self.dtype, "memory": measure_memory()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self._number += 1
        self.noted += 1
        self._mark = read_clock()


def read_performance(folder: Path, processes: int) -> dict[str, Any] | None:
    """What the meters of a stage's processes left below `folder`, together; None if they saw no step."""
    training = folder / PROGRESS / TRAINING
    if training.exists():
        found: dict[str, Any] = read_json(training)
        return found
    rows: list[dict[str, Any]] = []
    for path in sorted((folder / PROGRESS).glob("performance.*.jsonl")):
        rows += read_log(path).values()
    if not rows:
        return None
    steps = [Step(**{field.name: row[field.name] for field in fields(Step)}) for row in rows]
    cold = [step for step in steps if not step.warm]
    timed = [step for step in steps if step.warm]
    memory = [row["memory"] for row in rows]
    dtype = str(rows[0].get("dtype"))
    return describe("batch", timed or cold, cold if timed else [], processes, memory, dtype=dtype)


def describe(
    unit: str, steps: list[Step], warmup: list[Step], processes: int, memory: list[dict[str, Any]], *, dtype: str
) -> dict[str, Any]:
    """A stage's performance from its timed steps; those to warm up are looked at for the longest sequence only.

    Rates are sums over the steps by the sum of their time. A batch belongs to one process while the others have
    theirs, an optimizer step to all of them together. The peaks that are known are of bfloat16: weights of another
    `dtype` have no MFU.
    """
    seconds = sum(step.seconds for step in steps)
    at_once = processes if unit == "batch" else 1
    tokens, flops = sum(step.tokens for step in steps), sum(step.flops for step in steps)
    devices = sorted({part["device"] for part in memory})
    peak = find_peak_flops(devices[0]) if dtype == BFLOAT16 else None
    peaks = {key: max_known(part[key] for part in memory) for key in ("peak_memory_gb", "reserved_memory_gb")}
    return {
        "device": ", ".join(devices),
        "processes": processes,
        "step": unit,
        "steps": len(steps),
        "warmup_steps": len(warmup),
        "seconds_per_step": round(median(step.seconds for step in steps), 4),
        "sequences_per_step": sum(step.sequences for step in steps) / len(steps),
        "longest_sequence": max(step.longest for step in (*steps, *warmup)),
        "tokens_per_step": tokens / len(steps),
        "tokens_per_second": round(tokens * at_once / seconds, 2),
        "tflops_per_step": flops / len(steps) / 1e12,
        "mfu": float(f"{flops * at_once / (seconds * peak * processes):.4g}") if peak else None,
        **peaks,
    }


def measure_memory() -> dict[str, Any]:
    """This process's device and its largest memory so far in 10^9 bytes: in tensors, and held by the allocator."""
    if not torch.cuda.is_available():
        return {"device": "cpu", "peak_memory_gb": None, "reserved_memory_gb": None}
    return {
        "device": torch.cuda.get_device_name(),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "reserved_memory_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2),
    }


def release_memory() -> None:
    """Give the accelerator's memory back: later stages run in processes of their own and need all of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def read_clock() -> float:
    """Seconds, after all work given to the accelerator is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def max_known(values: Iterable[float | None]) -> float | None:
    """The largest value, or None if there is none."""
    return max((value for value in values if value is not None), default=None)
