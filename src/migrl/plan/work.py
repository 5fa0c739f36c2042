"""What each stage does: one table for its time, its memory and its disk.

A stage generates completions, trains on sequences, or both. A process works on batches; each prompt of a batch has as
many completions in it as are made together.
"""

import math
from dataclasses import dataclass, replace

from migrl.plan.lengths import Prompts
from migrl.plan.workload import Workload
from migrl.recipe import (
    EngineName,
    LoraSettings,
    Parallel,
    PromptedTeacher,
    RehearsalSource,
    ServerTeacher,
    TransformersTeacher,
    VllmSettings,
    VllmTeacher,
)
from migrl.recipe.arithmetic import count_thought_tokens

NO_NUMBER = "the number of samples is unknown; run `migrl fetch` first"
Tokens = tuple[int, int]
"""Of a completion: the mean, and the longest that there may be."""


@dataclass(frozen=True)
class Served:
    """How vLLM is started where it answers; a step of it reads at most `step` tokens of prompts."""

    settings: VllmSettings
    step: int


@dataclass(frozen=True)
class Generation:
    """`times` completions per sample of a split, `together` of them in a batch of at most `batch` samples.

    `batch_patches` is the most patches of a batch's pictures, None for no limit. Under vLLM, which makes its own
    batches, `together` completions share a prompt that is read once.
    """

    split: str
    prompts: Prompts
    times: int
    tokens: Tokens
    together: int = 1
    batch: int = 1
    batch_patches: float | None = None

    @property
    def completions(self) -> int:
        """All of them; none of a split whose size nobody has stated."""
        return (self.prompts.samples or 0) * self.times

    @property
    def prompts_read(self) -> float:
        """Prompts that are read where completions share them."""
        return self.completions / self.together

    def count_sequences(self, patches: float) -> int:
        """Sequences of one batch, if every prompt has so many patches; one prompt always fits."""
        fitting = self.batch if self.batch_patches is None else min(self.batch, int(self.batch_patches / patches))
        return max(1, fitting) * self.together


@dataclass(frozen=True)
class Training:
    """`sequences` of a `split` in all, `batch` of them at once in each process, the pictures of `held` in memory.

    `lora` None trains all but the vision tower; `reference`: the start model reads them too. Of each prompt `packed`
    completions share one copy (training/packs.py).
    """

    prompts: Prompts
    sequences: int
    tokens: Tokens
    batch: int
    held: int
    lora: LoraSettings | None
    parallel: Parallel
    processes: int
    reference: bool = False
    packed: int = 1
    split: str = "cot"


@dataclass(frozen=True)
class Work:
    """What a stage generates and trains on; without a formula for its time, `untimed` says why.

    `served`: vLLM generates.
    """

    generations: tuple[Generation, ...] = ()
    training: Training | None = None
    untimed: str = ""
    served: Served | None = None

    @property
    def why_no_time(self) -> str:
        """Why no time is computed; empty if it is."""
        sequences = sum(made.completions for made in self.generations)
        sequences += self.training.sequences if self.training else 0
        return self.untimed or ("" if sequences else NO_NUMBER)

    @property
    def longest(self) -> dict[str, tuple[Prompts, int]]:
        """Of each split the prompts, and the tokens of the longest completion that follows one of them."""
        found = {made.split: (made.prompts, made.tokens[1]) for made in self.generations}
        trained = self.training
        return found or ({trained.split: (trained.prompts, trained.tokens[1])} if trained else {})

    def describe(self) -> str:
        """The work in words."""
        said = []
        if known := [made for made in self.generations if made.completions]:
            samples = sum(made.prompts.samples or 0 for made in known)
            tokens = sum(made.prompts.mean.tokens * (made.prompts.samples or 0) for made in known) / samples
            said.append(f"{samples:,} samples x {known[0].times} completions, {tokens:,.0f} prompt tokens on average")
        if trained := self.training:
            length = f"{trained.prompts.mean.tokens:,.0f} + {show_span(trained.tokens)}"
            said.append(f"trains {trained.sequences:,} sequences of {length} tokens")
        if unknown := [made.split for made in self.generations if made.prompts.samples is None]:
            said.append(f"not counted, their size is unknown: {', '.join(unknown)}")
        return "; ".join(said)


def list_work(kind: str, workload: Workload) -> Work:
    """The work of a stage by its kind (the module it runs)."""
    match kind:
        case "fetch":
            return Work(untimed="the network's and the disk's time")
        case "synthesize":
            return ask_teacher(workload)
        case "sft":
            return train_cold_start(workload)
        case "merge":
            # Compares logits, one prompt after the other.
            prompts = workload.measure("cot", workload.recipe.sft.max_pixels)
            return Work((Generation("cot", prompts, 0, (0, 0)),), untimed="the disk's time, minutes")
        case "select" | "pass_rates":
            return roll_out(kind, workload)
        case "grpo":
            return reinforce(workload)
        case "evaluate":
            return evaluate(workload)
    return Work(untimed="seconds to minutes on the processor")


def ask_teacher(workload: Workload) -> Work:
    """Candidates for every cold start sample."""
    settings, teacher = workload.recipe.synthesize, workload.recipe.synthesize.teacher
    mean = workload.assumptions.lengths.completion_tokens
    if not isinstance(teacher, PromptedTeacher):
        prompts = workload.measure("cot", workload.recipe.sft.max_pixels)
        made = Generation("cot", prompts, settings.candidates, (mean, mean))
        return Work((made,), untimed="no model; minutes on the processor")
    prompts, tokens = workload.measure_teacher(), (mean, teacher.max_new_tokens)
    made = Generation("cot", prompts, settings.candidates, tokens)
    if isinstance(teacher, TransformersTeacher):
        patches = workload.count_patches(teacher.batch_pixels)
        made = replace(made, together=settings.candidates, batch=teacher.batch, batch_patches=patches)
    if isinstance(teacher, VllmTeacher):
        served = Served(teacher.vllm, workload.assumptions.vllm.step_tokens)
        return Work((replace(made, together=settings.candidates),), served=served)
    server = isinstance(teacher, ServerTeacher)
    return Work((made,), untimed="a server's; migrl synthesize --dry-run prints its bill" if server else "")


def train_cold_start(workload: Workload) -> Work:
    """A pass over the cold start per epoch."""
    recipe, sft = workload.recipe, workload.recipe.sft
    prompts, longest = workload.measure("cot", sft.max_pixels), count_thought_tokens(recipe.synthesize)
    tokens = min(longest, workload.assumptions.lengths.completion_tokens), longest
    sequences = min(prompts.samples or 0, recipe.synthesize.max_samples) * sft.num_train_epochs
    batch, processes = sft.per_device_train_batch_size, recipe.launch.processes
    return Work((), Training(prompts, sequences, tokens, batch, batch, sft.lora, sft.parallel, processes))


def roll_out(kind: str, workload: Workload) -> Work:
    """Rollouts of the RL pool, or of the part that pass_rates draws from it."""
    recipe, select = workload.recipe, workload.recipe.select
    prompts, times = workload.measure("rl", recipe.grpo.max_pixels), select.rollouts
    if kind == "pass_rates" and recipe.pass_rates and prompts.samples:
        prompts = replace(prompts, samples=min(recipe.pass_rates.samples, prompts.samples))
    patches = workload.count_patches(select.batch_pixels)
    made = Generation("rl", prompts, times, count_new_tokens(workload), times, select.batch, patches)
    return Work((made,), served=serve(select.engine, workload))


def reinforce(workload: Workload) -> Work:
    """Steps of rollouts, unless other GPUs serve them, the start model's log-probabilities, and training."""
    grpo, processes, tokens = workload.recipe.grpo, workload.recipe.launch.processes, count_new_tokens(workload)
    prompts = replace(workload.measure("rl", grpo.max_pixels), samples=grpo.max_steps * grpo.prompts_per_step)
    times, each = grpo.num_generations, max(1, grpo.prompts_per_step // processes)
    made, batch = Generation("rl", prompts, times, tokens, times, each), grpo.per_device_train_batch_size
    trained = Training(prompts, made.completions, tokens, batch, each * times, grpo.lora, grpo.parallel, processes)
    packed = min(batch, times) if grpo.group_prefix else 1
    trained = replace(trained, reference=grpo.beta > 0, packed=packed, split="rl")
    if grpo.engine != "vllm":
        return Work((made,), trained)
    if grpo.vllm_mode == "server":
        return Work((), trained)
    # trl gives an engine a step's prompts at once, with room for as many sequences.
    parts = grpo.vllm_tensor_parallel_size
    vllm = VllmSettings(
        tensor_parallel_size=parts,
        gpu_memory_utilization=grpo.vllm_gpu_memory_utilization,
        max_model_len=math.ceil(prompts.longest.tokens) + tokens[1],
        max_num_seqs=parts * each * times,
        batch=parts * each,
    )
    return Work((made,), trained, served=Served(vllm, workload.assumptions.vllm.step_tokens_grpo))


def evaluate(workload: Workload) -> Work:
    """Every arm whose weights run here on every benchmark; `migrl evaluate --dry-run` tells what served arms cost."""
    settings, mean = workload.recipe.evaluate, count_new_tokens(workload)[0]
    tokens = min(mean, settings.max_new_tokens), settings.max_new_tokens
    arms = len(workload.recipe.local_arms)
    if not arms:
        return Work(untimed="a server's; migrl evaluate --dry-run prints its bill")
    patches = workload.count_patches(settings.batch_pixels)
    measured = {split: workload.measure(split, settings.max_pixels) for split in workload.benchmarks}
    made = (Generation(split, each, arms, tokens, 1, settings.batch, patches) for split, each in measured.items())
    return Work(tuple(made), served=serve(settings.engine, workload))


def serve(engine: EngineName, workload: Workload) -> Served | None:
    """vLLM as select, pass_rates and evaluate start it, if that is their engine."""
    return Served(workload.recipe.vllm, workload.assumptions.vllm.step_tokens) if engine == "vllm" else None


def count_new_tokens(workload: Workload) -> Tokens:
    """Tokens of a rollout; a rehearsal's random weights never end theirs before the limit."""
    limit = workload.recipe.grpo.max_new_tokens
    if isinstance(workload.recipe.source, RehearsalSource):
        return limit, limit
    return min(workload.assumptions.lengths.completion_tokens, limit), limit


def show_span(span: tuple[float, float]) -> str:
    """Whole numbers from low to high."""
    low, high = (f"{value:,.0f}" for value in span)
    return low if low == high else f"{low}-{high}"
