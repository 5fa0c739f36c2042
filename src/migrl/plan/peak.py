"""The peak of each stage: the largest of what it holds while it generates and while it trains."""

from dataclasses import dataclass

from migrl.models.shapes import count_parameters
from migrl.plan.machine import Machine
from migrl.plan.memory import (
    Memory,
    Part,
    list_states,
    list_weights,
    needs_copy,
    plan_generation,
    plan_training,
    plan_vllm,
)
from migrl.plan.work import Work, list_work
from migrl.plan.workload import Workload


@dataclass(frozen=True)
class Peak:
    """The largest memory of one process on its GPU, of which it may use a `share`, and of one machine's on the host."""

    device: Memory
    host: Part
    share: float = 1.0


def plan_peak(kind: str, workload: Workload, machine: Machine) -> Peak | None:
    """The peak of a stage by its kind (the module it runs); None for those that load no model here.

    What does not fit goes before what does.
    """
    work, launch = list_work(kind, workload), workload.recipe.launch
    if not work.generations and work.training is None:
        return None
    processes = launch.processes // launch.machines
    if kind == "synthesize":
        teacher = workload.recipe.local_teacher
        if teacher is None:
            return None
        workload = workload.for_teacher(teacher)
    if work.served and not work.training:
        processes //= work.served.settings.tensor_parallel_size
    if kind == "merge" or (kind == "synthesize" and work.served):
        processes = 1
    memories = list_memories(work, workload, machine)
    device, share = max(memories, key=lambda pair: (pair[0].total > pair[1] * machine.gpu_bytes, pair[0].total))
    margins, each = workload.assumptions.memory, device.total
    base, words = margins.host_overhead_cpu_gb, "in tensors"
    if machine.gpus:
        # Each process reads its own copy of the weights before they go to its GPU.
        copies = 2 if work.training and needs_copy(work.training) else 1
        each = copies * count_parameters(workload.shape).total * workload.number_bytes
        base, words = margins.host_overhead_gb, "of weights while loading"
    words = f"{each / 1e9:.1f} GB {words}"
    if work.served:
        # Pictures of all questions that vLLM was given wait as the processor prepared them.
        patches = work.served.settings.batch * max(made.prompts.mean.patches for made in work.generations)
        waiting = patches * workload.shape.vision_config.patch_values * workload.number_bytes
        each, words = each + waiting, f"{words} + {waiting / 1e9:.1f} GB of pictures that wait"
    words = f"{processes} x ({words} + {base:g} GB of Python and libraries)"
    return Peak(device, Part("host", processes * (each + base * 1e9), words), share)


def list_memories(work: Work, workload: Workload, machine: Machine) -> list[tuple[Memory, float]]:
    """What each kind of batch of a stage takes, and the share of its GPU that it may take."""
    training, memories = work.training, []
    if work.served:
        engine, share = plan_vllm(workload, work.served), work.served.settings.gpu_memory_utilization
        memories.append((engine, share))
    states = list_states(workload, training, gathered=True) if training else list_weights(workload)
    for made in work.generations if not work.served else ():
        sequences = made.count_sequences(made.prompts.longest.patches)
        memories.append((plan_generation(workload, states, made.prompts, sequences, made.tokens[1]), 1.0))
    if training:
        trained = plan_training(workload, training)
        if work.served:
            words = f"grpo.vllm_gpu_memory_utilization={share}, at least what it needs to start"
            beside = Part("vllm", max(share * machine.gpu_bytes, engine.total), words)
            if workload.recipe.grpo.vllm_enable_sleep_mode:
                own = list_states(workload, training, gathered=False)
                memories.append((Memory("rollouts beside what is trained", (*own, beside)), 1.0))
            else:
                trained = Memory(trained.phase, (*trained.parts, beside))
        memories.append((trained, 1.0))
    return memories
