"""Training of the tiny base: Qwen2.5-VL's architecture at about 1.4 M parameters, from scratch.

Five phases, from one seed. `see` trains the vision tower alone: a head on every visual
token names the colour, the shape and the box digits of the thing in that cell, as dense a signal
as there is. `speak` trains the whole model on lessons, loss on the completion, with the vision
head kept at a low weight. `bind` drops the head and goes on with lessons whose images show the
same things in other places, so that the number of the image counts as much as the name. Then the
tower is frozen, and the language model learns to look up what was listed (`look-up`) and to answer
choices by it (`choose`). What was
tried, with figures: reproduce/tiny_base/LOG.md.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file, save_model
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import IterableDataset

from migrl.world.batches import LessonBatches, SceneBatches
from migrl.world.corpus import draw_corpus
from migrl.world.lessons import Crowd, Lesson, draw_lesson
from migrl.world.look_ups import draw_choice, draw_look_up
from migrl.world.model import build_model
from migrl.world.see import IGNORED, SeeHead, find_word_ids
from migrl.world.tokenizer import build_processor

WARMUP_STEPS = 100
LOG_EVERY = 50


@dataclass(frozen=True)
class BaseTraining:
    """Sizes of the training; the defaults are the committed base's."""

    seed: int = 0
    batch: int = 32
    see_steps: int = 400
    speak_steps: int = 4000
    bind_steps: int = 1200
    look_up_steps: int = 2000
    choose_steps: int = 3000
    lr: float = 4e-3
    bind_lr: float = 2e-3
    see_weight: float = 0.2
    threads: int = 1


@dataclass(frozen=True)
class Phase:
    """One part of the training."""

    name: str
    compute_loss: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    batches: IterableDataset[dict[str, torch.Tensor]]
    parameters: list[nn.Parameter]
    steps: int
    lr: float


def train_base(training: BaseTraining, folder: Path, *, stop_after: int | None = None) -> dict[str, list[float]]:
    """Train from scratch in `folder`, phase by phase; return the loss of every step of the phases run now.

    A phase that a killed training finished is not run again. `stop_after` ends each phase after so many
    steps of its unchanged schedule: for the invariant test.
    """
    torch.set_num_threads(training.threads)
    torch.manual_seed(training.seed)
    processor = build_processor(draw_corpus(training.seed), folder)
    model = build_model(processor)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    head = SeeHead(embeddings, find_word_ids(processor))
    state = folder / "phases"
    done = load_phases(state, model, head)
    seen: list[torch.Tensor] = []
    tower = model.get_submodule("model.visual")
    tower.register_forward_hook(lambda module, args, output: seen.append(output.pooler_output))

    def see(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.clear()
        tower(batch["pixel_values"], grid_thw=batch["image_grid_thw"])
        return head.compute_loss(seen[0], batch["cells"])

    def answer(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        seen.clear()
        inputs = {key: value for key, value in batch.items() if key not in ("cells", "labels")}
        logits = model(**inputs, logits_to_keep=batch["labels"].shape[1] + 1).logits[:, :-1]
        return F.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten(), ignore_index=IGNORED)

    def speak(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return answer(batch) + training.see_weight * head.compute_loss(seen[0], batch["cells"])

    vision = [*tower.parameters(), *embeddings.parameters(), *head.parameters()]
    every = [*model.parameters(), *head.parameters()]
    seed, size = training.seed, training.batch
    scenes = SceneBatches(processor, seed=f"see-{seed}", size=size)
    easy_steps = training.speak_steps // 10
    lessons = LessonBatches(processor, seed=f"speak-{seed}", size=size, crowd=Crowd(3), easy_steps=easy_steps)

    def draw_batches(name: str, draw: Callable[[Random, Crowd], Lesson]) -> LessonBatches:
        return LessonBatches(processor, seed=f"{name}-{seed}", size=size, crowd=Crowd(3, related=0.7), draw=draw)

    language = [*model.get_submodule("model.language_model").parameters()]
    bind, look_up = draw_batches("bind", draw_lesson), draw_batches("look-up", draw_look_up)
    choose = draw_batches("choose", draw_choice)
    phases = (
        Phase("see", see, scenes, vision, training.see_steps, training.lr),
        Phase("speak", speak, lessons, every, training.speak_steps, training.lr),
        Phase("bind", answer, bind, list(model.parameters()), training.bind_steps, training.bind_lr),
        Phase("look-up", answer, look_up, language, training.look_up_steps, training.bind_lr),
        Phase("choose", answer, choose, language, training.choose_steps, training.bind_lr),
    )
    losses = {}
    for phase in phases:
        if phase.name not in done:
            trained = {id(parameter) for parameter in phase.parameters}
            for parameter in every:
                parameter.requires_grad_(id(parameter) in trained)
            optimizers = build_optimizers(phase.parameters, embeddings, phase.lr)
            losses[phase.name] = train_phase(phase, optimizers, stop_after)
            done.append(phase.name)
            save_phases(state, model, head, done)
    model.save_pretrained(folder)
    shutil.rmtree(state)
    return losses


def load_phases(folder: Path, model: nn.Module, head: nn.Module) -> list[str]:
    """Names of the finished phases of a killed training, its weights loaded; empty for a new one."""
    if not (folder / "done.json").exists():
        return []
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)  # tied weights are stored once
    head.load_state_dict(load_file(folder / "head.safetensors"))
    done: list[str] = json.loads((folder / "done.json").read_text())
    return done


def save_phases(folder: Path, model: nn.Module, head: nn.Module, done: list[str]) -> None:
    """Keep the weights after a finished phase."""
    folder.mkdir(exist_ok=True)
    save_model(model, str(folder / "model.safetensors"))
    save_file(head.state_dict(), folder / "head.safetensors")
    (folder / "done.json").write_text(json.dumps(done))


def build_optimizers(parameters: list[nn.Parameter], embeddings: nn.Embedding, lr: float) -> list[Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings, convolutions, gains and biases.

    After 400 steps of `speak` the loss is 0.20, with AdamW alone 0.32 (reproduce/tiny_base/LOG.md). Muon's
    updates are scaled to AdamW's size, so that one learning rate serves both.
    """
    matrices = [p for p in parameters if p.dim() == 2 and p is not embeddings.weight]
    others = [p for p in parameters if p.dim() != 2 or p is embeddings.weight]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def train_phase(phase: Phase, optimizers: list[Optimizer], stop_after: int | None) -> list[float]:
    """Train with warm-up and linear decay; returns the losses."""
    steps = phase.steps
    warmup = min(WARMUP_STEPS, max(1, steps // 10))
    schedules = [
        LambdaLR(optimizer, lambda step: min((step + 1) / warmup, max(0.0, (steps - step) / (steps - warmup))))
        for optimizer in optimizers
    ]
    batches = islice(iter(phase.batches), stop_after)
    losses: list[float] = []
    start = time.monotonic()
    for step, batch in zip(range(1, steps + 1), batches, strict=False):
        with torch.autocast("cpu", dtype=torch.bfloat16):  # a fifth faster here; weights stay float32
            loss = phase.compute_loss(batch)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(phase.parameters, 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        losses.append(loss.item())
        if step % LOG_EVERY == 0 or step == steps:
            recent, rate = losses[-LOG_EVERY:], (time.monotonic() - start) / step
            left = f"{rate * (steps - step) / 60:.1f} min left"
            print(
                f"{phase.name} {step}/{steps} loss {sum(recent) / len(recent):.4f} {rate:.3f} s/step, {left}",
                flush=True,
            )
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Rebuild the tiny base model from its seed (a little over an hour; one thread)."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for weights, tokenizer and processor")
    sizes = [field.name for field in fields(BaseTraining) if field.name.endswith("_steps")]
    for name in sizes:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(BaseTraining, name))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="end each phase early, and record its losses beside the weights")
    arguments = parser.parse_args()
    training = BaseTraining(seed=arguments.seed, **{name: getattr(arguments, name) for name in sizes})
    losses = train_base(training, arguments.out, stop_after=arguments.stop_after)
    if arguments.stop_after is not None:
        trajectory = {phase: [round(value, 5) for value in values] for phase, values in losses.items()}
        (arguments.out / "first_losses.json").write_text(json.dumps(trajectory, indent=1) + "\n")


if __name__ == "__main__":
    main()
