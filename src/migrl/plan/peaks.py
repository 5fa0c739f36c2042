"""The peak memory of each stage's processes, on the GPU and on the host, with the recipe's own batches."""

from dataclasses import dataclass

from migrl.plan.checks import count_thought_tokens
from migrl.plan.lengths import Prompts
from migrl.plan.machine import Machine
from migrl.plan.memory import Batch, Memory, Part, Training, plan_generation, plan_states, plan_training
from migrl.plan.shapes import ModelShape, count_kv_bytes, count_lora_parameters, count_parameters
from migrl.plan.workload import Workload
from migrl.recipe import TransformersTeacher, VllmTeacher

MERGE_SAMPLES, MERGE_TOKENS = 8, 256  # stages/merge.py: CHECKED_SAMPLES, CHECKED_TOKENS
MERGE_COPIES = 3  # logits of base, adapter and merged model, float32 on the host


@dataclass(frozen=True)
class Peak:
    """The largest memory of one process on its GPU, of which it may use a `share`, and of one machine's on the host."""

    device: Memory | None
    host: Part
    share: float = 1.0


def plan_peak(kind: str, workload: Workload, machine: Machine) -> Peak | None:
    """The peak of a stage by its kind (the module it runs); None for those that load no model."""
    peak = _plan_peak(kind, workload, machine)
    if peak is None or peak.device is None or machine.gpus:
        return peak
    processes = 1 if kind == "merge" else workload.recipe.launch.processes // workload.recipe.launch.machines
    tensors, base = peak.device.total, workload.extras.host_overhead_gb * 1e9
    words = f"{processes} x ({tensors / 1e9:.1f} GB in tensors + {base / 1e9:g} GB of Python and libraries)"
    return Peak(peak.device, Part("host", processes * (tensors + base), words))


def _plan_peak(kind: str, workload: Workload, machine: Machine) -> Peak | None:
    recipe, shape = workload.recipe, workload.shape
    local = recipe.launch.processes // recipe.launch.machines
    weights = count_parameters(shape).total * workload.number_bytes
    match kind:
        case "sft" | "grpo":
            copies = 2 if kind == "grpo" and recipe.grpo.lora is None and recipe.grpo.beta else 1
            device = plan_sft(workload) if kind == "sft" else plan_grpo(workload, machine)
            return Peak(device, plan_host(workload, local, weights * copies))
        case "select" | "pass_rates" | "evaluate":
            return Peak(plan_generating(kind, workload), plan_host(workload, local, weights))
        case "merge":
            return plan_merge(workload, weights)
        case "synthesize":
            return plan_teacher(workload, local)
    return None


def plan_host(workload: Workload, processes: int, bytes_each: float) -> Part:
    """Each process reads its own copy of the weights before they go to its GPU."""
    base = workload.extras.host_overhead_gb * 1e9
    words = f"{processes} x ({bytes_each / 1e9:.1f} GB of weights while loading + {base / 1e9:g} GB)"
    return Part("host", processes * (bytes_each + base), words)


def plan_sft(workload: Workload) -> Memory:
    """A micro-batch of the longest cold start samples."""
    settings, model = workload.recipe.sft, workload.recipe.model
    prompts = workload.measure("cot", settings.max_pixels)
    batch = make_batch(prompts, settings.per_device_train_batch_size, count_thought_tokens(workload))
    processes = workload.recipe.launch.processes
    training = Training(settings.lora, settings.parallel, processes, workload.number_bytes, model.attention)
    return plan_training(workload.shape, training, batch, workload.extras)


def plan_grpo(workload: Workload, machine: Machine) -> Memory:
    """The larger one of generating a process's share of a step, and of training on a micro-batch of it."""
    recipe, settings, extras = workload.recipe, workload.recipe.grpo, workload.extras
    prompts = workload.measure("rl", settings.max_pixels)
    share = max(1, settings.completions_per_step // recipe.launch.processes)
    training = Training(
        settings.lora,
        settings.parallel,
        recipe.launch.processes,
        workload.number_bytes,
        recipe.model.attention,
        reference=settings.lora is None and settings.beta > 0,
    )
    held = share * prompts.longest_patches
    batch = make_batch(prompts, settings.per_device_train_batch_size, settings.max_new_tokens, held)
    trained = plan_training(workload.shape, training, batch, extras)
    if settings.engine == "vllm":
        return Memory(trained.phase, (*trained.parts, plan_rollout_engine(workload, prompts, machine)))
    states = plan_states(workload.shape, training, gathered=True)
    rollouts = make_batch(prompts, share, settings.max_new_tokens, held)
    attention, size = recipe.model.attention, workload.number_bytes
    generated = plan_generation(workload.shape, states, rollouts, size, attention, extras)
    return max(trained, generated, key=lambda memory: memory.total)


def plan_rollout_engine(workload: Workload, prompts: Prompts, machine: Machine) -> Part:
    """vLLM beside the trainer: its share of the device, but never less than weights and the cache of one sequence."""
    settings, shape = workload.recipe.grpo, workload.shape
    each = count_kv_bytes(shape, workload.number_bytes) * (prompts.longest_tokens + settings.max_new_tokens)
    least = count_parameters(shape).total * workload.number_bytes + each
    key = f"grpo.vllm_gpu_memory_utilization={settings.vllm_gpu_memory_utilization}"
    words = f"{key} of the device, at least its own weights and one sequence"
    return Part("vllm", max(settings.vllm_gpu_memory_utilization * machine.gpu_bytes, least), words)


def plan_generating(kind: str, workload: Workload) -> Memory:
    """The largest batch of select, pass_rates or evaluate: as many of the longest prompts as it may hold."""
    recipe = workload.recipe
    if kind != "evaluate":
        prompts = workload.measure("rl", recipe.grpo.max_pixels)
        questions = count_fitting(workload, prompts, recipe.select.batch, recipe.select.batch_pixels)
        batch = make_batch(prompts, questions * recipe.select.rollouts, recipe.grpo.max_new_tokens)
        return generate(workload, workload.shape, batch)
    memories = []
    for split in workload.list_benchmarks():
        prompts = workload.measure(split, recipe.evaluate.max_pixels)
        sequences = count_fitting(workload, prompts, recipe.evaluate.batch, recipe.evaluate.batch_pixels)
        batch = make_batch(prompts, sequences, recipe.evaluate.max_new_tokens)
        memories.append(generate(workload, workload.shape, batch))
    return max(memories, key=lambda memory: memory.total)


def generate(workload: Workload, shape: ModelShape, batch: Batch, parts: int = 1) -> Memory:
    """Generation by a model without training states, its weights cut into `parts`."""
    total, size = count_parameters(shape).total, workload.number_bytes
    weights = Part("weights", total * size / parts, f"{total:,} x {size} bytes" + (f" / {parts}" if parts > 1 else ""))
    attention, extras = workload.recipe.model.attention, workload.extras
    return plan_generation(shape, [weights], batch, size, attention, extras)


def count_fitting(workload: Workload, prompts: Prompts, most: int, pixels: int | None) -> int:
    """Prompts of the longest kind in a batch of at most `most` and so many pixels; a prompt always fits alone."""
    if pixels is None:
        return most
    patch = workload.shape.vision_config.patch_size**2
    return max(1, min(most, pixels // (prompts.longest_patches * patch)))


def plan_merge(workload: Workload, weights: float) -> Peak:
    """One prompt at a time, and one model after the other."""
    prompts = workload.measure("cot", workload.recipe.sft.max_pixels)
    vocabulary, size = workload.shape.text_config.vocab_size, workload.number_bytes
    memory = generate(workload, workload.shape, make_batch(prompts, 1, 0))
    logits = MERGE_TOKENS * vocabulary
    adapter = count_lora_parameters(workload.shape, workload.recipe.sft.lora.rank)
    more = (
        Part("adapter", adapter * 4.0, f"{adapter:,} x 4 bytes"),
        Part("all logits", logits * (size + 4.0), f"{MERGE_TOKENS} tokens x {vocabulary:,}, twice"),
    )
    waiting = MERGE_COPIES * MERGE_SAMPLES * logits * 4
    host = weights + waiting + workload.extras.host_overhead_gb * 1e9
    words = f"weights while loading, and {MERGE_COPIES} x {MERGE_SAMPLES} x {MERGE_TOKENS} x {vocabulary:,} logits x 4"
    return Peak(Memory("comparing logits", (*memory.parts, *more)), Part("host", host, words))


def plan_teacher(workload: Workload, local: int) -> Peak | None:
    """A teacher whose weights run here; the scripted one and a server need none of our GPUs."""
    settings, teacher = workload.recipe.synthesize, workload.recipe.synthesize.teacher
    if not isinstance(teacher, TransformersTeacher | VllmTeacher):
        return None
    workload, shape = workload.with_teacher_precision(teacher), workload.find_shape(teacher.model, "teacher")
    prompts = workload.measure_teacher()
    weights = count_parameters(shape).total * workload.number_bytes
    if isinstance(teacher, VllmTeacher):
        # vLLM takes its share of each device and fills what the weights leave with cache; one sequence has to fit.
        batch = make_batch(prompts, 1, teacher.max_new_tokens)
        memory = generate(workload, shape, batch, teacher.tensor_parallel)
        return Peak(memory, plan_host(workload, 1, weights), teacher.memory)
    sequences = count_fitting(workload, prompts, teacher.batch, teacher.batch_pixels) * settings.candidates
    memory = generate(workload, shape, make_batch(prompts, sequences, teacher.max_new_tokens))
    return Peak(memory, plan_host(workload, local, weights))


def make_batch(prompts: Prompts, sequences: int, completion: int, held_patches: int | None = None) -> Batch:
    """A batch in which every prompt is the longest."""
    held = sequences * prompts.longest_patches if held_patches is None else held_patches
    return Batch(sequences, prompts.longest_tokens, completion, prompts.longest_patches, held)
