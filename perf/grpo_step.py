"""One GRPO step, stock trl against `grpo.group_prefix`: seconds by part, peak memory, and the largest difference.

    python perf/grpo_step.py                        tiny and mid, three measurements each, alternating; paper by FLOPs
    python perf/grpo_step.py --shapes tiny --repeats 5 --json out.json

    tiny    the tiny recipe on the committed base: 16 prompts, groups of 8, micro batches of 64
    mid     about 100 M parameters, random: one prompt of 4 pictures and about 800 tokens, completions of 40 to 88
    paper   a prompt of the paper recipe, counted: nothing is run

Each measurement is a process of its own that trains the real trainer from the same weights on the same data. Its first
step's rollouts are the same on both sides, and so are compared: log-probabilities of the reference pass, and the norm
of the gradient. Mid takes random completions in place of rollouts unless `--rollouts`; `step_ratio` leaves rollouts
out. Ratios are ours by stock, of medians. Memory is that of the step, above what the process held before it (Linux; on
a GPU torch's own peaks); `process_memory_ratio` is that of the whole.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, TrainerCallback

from migrl.data.world_source import build_world
from migrl.files import ROOT
from migrl.grounding.samples import BoxTarget, Sample, read_samples
from migrl.models.flops import count_forward
from migrl.models.inputs import prepare_input
from migrl.models.loading import load_model, load_processor
from migrl.recipe import load_recipe
from migrl.running.metering import read_clock
from migrl.stages import grpo
from migrl.world.model import build_config

BASE = ROOT / "reproduce" / "tiny_base"
TINY = ROOT / "reproduce" / "recipes" / "tiny.yaml"
QUICK = ("grpo.parallel=none", "source.cot_per_task=1", "source.eval_per_task={mini_mig: 1}")
PARTS = ("rollouts", "reference", "training", "other")
MID_SIDE, MID_PICTURES, MID_NEW = 392, 4, (40, 88)
MID_TEXT = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 14, "num_attention_heads": 12}
MID_TEXT |= {"num_key_value_heads": 4, "max_position_embeddings": 4096}
MID_VISION = {"depth": 6, "hidden_size": 256, "intermediate_size": 768, "num_heads": 4, "out_hidden_size": 768}
# Of reproduce/plan.yaml: pictures at the pixel limit, each with 6 more tokens; 90 tokens of text, 20 of template.
PAPER_PICTURES, PAPER_PATCHES, PAPER_TEXT, PAPER_NEW = 4, 640_000 // 14**2, 110, 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=("tiny", "mid"), default=["tiny", "mid"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", action="store_true", help="count the processor's seconds, on a machine in other use")
    parser.add_argument("--rollouts", action="store_true", help="real rollouts at mid size too")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=3, metavar=("SHAPE", "PREFIX", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        shape, prefix, file = arguments.one
        torch.set_num_threads(arguments.threads)
        clock = time.process_time if arguments.busy else read_clock
        measure(shape, prefix, Path(file), clock, rollouts=arguments.rollouts)
        return
    found: dict[str, Any] = {shape: compare(shape, arguments) for shape in arguments.shapes}
    found["paper"] = count_paper()
    for shape, figures in found.items():
        print(shape, json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def compare(shape: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides in turn."""
    runs: dict[str, list[Any]] = {"false": [], "true": []}
    for _ in range(arguments.repeats):
        for prefix, some in runs.items():
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "found.pt"
                command = [sys.executable, __file__, "--one", shape, prefix, str(file)]
                command += ["--threads", str(arguments.threads)]
                command += [f"--{name}" for name in ("busy", "rollouts") if getattr(arguments, name)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                some.append(torch.load(file))
            print(shape, "ours" if prefix == "true" else "stock", some[-1]["seconds"], file=sys.stderr)
    stock, ours = (
        {
            **{part: median(run["seconds"][part] for run in some) for part in PARTS},
            "memory": median(run["memory"] for run in some),
            "process": median(run["process"] for run in some),
        }
        for some in runs.values()
    )
    pairs = list(zip(*runs.values(), strict=True))
    norms = [one["grad_norm"] / max(other["grad_norm"], 1e-30) - 1 for one, other in pairs]
    ratios = {f"{part}_ratio": ours[part] / stock[part] for part in PARTS if stock[part] > 0.1}
    return {
        "step_ratio": sum(ours[part] for part in PARTS[1:]) / sum(stock[part] for part in PARTS[1:]),
        "step_with_rollouts_ratio": sum(ours[part] for part in PARTS) / sum(stock[part] for part in PARTS),
        "memory_ratio": ours["memory"] / stock["memory"],
        "process_memory_ratio": ours["process"] / stock["process"],
        **ratios,
        "logp_difference": max(float((one["logps"] - other["logps"]).abs().max()) for one, other in pairs),
        "grad_norm_difference": max(map(abs, norms)),
        "stock": stock,
        "ours": ours,
    }


def measure(shape: str, prefix: str, file: Path, clock: Callable[[], float], *, rollouts: bool) -> None:
    """Train a few steps and write seconds of each part, bytes, and what the first step computed."""
    trainer = (build_tiny if shape == "tiny" else build_mid)(file.parent, prefix)
    if shape == "mid":
        trainer.reward_funcs = [reward_sum for _ in trainer.reward_funcs]
        if not rollouts:
            trainer.model.generate = draw_completions
    timer = StepTimer(trainer, clock)
    trainer.add_callback(timer)
    held = reset_memory()
    trainer.train()
    warm = timer.steps[1:] or timer.steps
    peak = read_memory()
    torch.save(
        {
            "seconds": {part: median(step[part] for step in warm) for part in PARTS},
            "memory": peak - held,
            "process": peak,
            "logps": torch.cat(timer.logps) if timer.logps else torch.zeros(1),
            "grad_norm": trainer.state.log_history[0]["grad_norm"],
        },
        file,
    )


class StepTimer(TrainerCallback):
    """Seconds of each part of every step; the reference's log-probabilities of the first, completion by completion."""

    def __init__(self, trainer: Any, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.steps: list[dict[str, float]] = []
        self.logps: list[torch.Tensor] = []
        self.parts: dict[str, float] = defaultdict(float)
        self.mark = 0.0
        self.forward: float | None = None
        base = trainer.model.get_base_model()
        generate = trainer.model.generate

        def time_generate(**given: Any) -> torch.Tensor:
            start = clock()
            made = generate(**given)
            self.parts["rollouts"] += clock() - start
            return made

        trainer.model.generate = time_generate
        base.register_forward_pre_hook(self.before, with_kwargs=True)
        base.register_forward_hook(self.after, with_kwargs=True)

    def before(self, model: Any, given: Any, named: dict[str, Any]) -> None:
        if named.get("fused_lm_head") and self.forward is None:
            self.forward = self.clock()

    def after(self, model: Any, given: Any, named: dict[str, Any], output: Any) -> None:
        if named.get("fused_lm_head") and not torch.is_grad_enabled():
            self.parts["reference"] += self.clock() - self.forward
            self.forward = None
            if not self.steps:
                self.logps.append(output.log_probs[output.label_mask])

    def end_training(self) -> None:
        self.parts["training"] += self.clock() - self.forward
        self.forward = None

    def on_step_begin(self, *given: Any, **named: Any) -> None:
        self.mark, self.parts = self.clock(), defaultdict(float)

    def on_substep_end(self, *given: Any, **named: Any) -> None:
        self.end_training()

    def on_pre_optimizer_step(self, *given: Any, **named: Any) -> None:
        self.end_training()

    def on_step_end(self, *given: Any, **named: Any) -> None:
        self.parts["other"] = self.clock() - self.mark - sum(self.parts.values())
        self.steps.append({part: self.parts[part] for part in PARTS})


def build_tiny(folder: Path, prefix: str) -> Any:
    """The tiny recipe on a few samples of each task."""
    recipe = load_recipe(TINY, [*QUICK, "source.rl_per_task=8", "grpo.max_steps=4", f"grpo.group_prefix={prefix}"])
    build_world(recipe.source, folder)
    processor = load_processor(BASE, min_pixels=recipe.model.min_pixels, max_pixels=recipe.grpo.max_pixels)
    samples = read_samples(folder / "rl.jsonl")
    items = [prepare_input(sample, folder, processor, frame=recipe.model.frame, style="think") for sample in samples]
    config = grpo.make_config(recipe, folder / "checkpoints", grpo.suppress_vision(processor))
    config.save_strategy = "no"
    return grpo.build_trainer(recipe, config, load_model(BASE, recipe.model), processor, items, [])


def build_mid(folder: Path, prefix: str) -> Any:
    """One prompt a step, on a larger model with random weights."""
    side, pictures = MID_SIDE, [f"{number}.png" for number in range(MID_PICTURES)]
    settings = ["grpo.prompts_per_step=1", "grpo.per_device_train_batch_size=8", f"grpo.max_new_tokens={MID_NEW[1]}"]
    settings += [f"grpo.max_pixels={side * side}", "grpo.max_steps=1", f"grpo.group_prefix={prefix}"]
    recipe = load_recipe(TINY, [*QUICK, *settings])
    random = np.random.default_rng(0)
    for name in pictures:
        Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(folder / name)
    processor = load_processor(BASE, min_pixels=recipe.model.min_pixels, max_pixels=recipe.grpo.max_pixels)
    target, sizes = BoxTarget(1, (0.0, 0.0, 0.5, 0.5)), ((side, side),) * MID_PICTURES
    sample = Sample("rl:0", "rl", "t", tuple(pictures), "Where is the red circle?", target, "c", sizes=sizes)
    items = [prepare_input(sample, folder, processor, frame="resized_px", style="think")]
    torch.manual_seed(0)
    data = build_config(processor).to_dict()
    data["text_config"] |= MID_TEXT
    data["text_config"]["rope_parameters"]["mrope_section"] = [8, 12, 12]
    data["text_config"]["layer_types"] = ["full_attention"] * MID_TEXT["num_hidden_layers"]
    data["vision_config"] |= MID_VISION
    config = AutoConfig.for_model(**data)
    model = AutoModelForImageTextToText.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    print(f"mid: {sum(weight.numel() for weight in model.parameters()) / 1e6:.0f} M parameters", file=sys.stderr)
    trained = grpo.make_config(recipe, folder / "checkpoints", grpo.suppress_vision(processor))
    trained.save_strategy = "no"
    return grpo.build_trainer(recipe, trained, model, processor, items, [])


def draw_completions(input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
    """Random tokens in place of a rollout, each sequence ended after another length."""
    random = torch.Generator().manual_seed(0)
    new = torch.randint(10, 400, (len(input_ids), MID_NEW[1]), generator=random)
    lengths = torch.linspace(*MID_NEW, len(input_ids)).long()
    ends = torch.arange(MID_NEW[1]) == lengths[:, None] - 1
    end = given["generation_config"].eos_token_id
    new[ends] = end[0] if isinstance(end, list) else end
    return torch.cat([input_ids, new.to(input_ids.device)], 1)


def reward_sum(completion_ids: list[list[int]], **given: Any) -> list[float]:
    """A reward that random completions differ in, so that there is a gradient."""
    return [float(sum(ids) % 7) for ids in completion_ids]


def count_paper() -> dict[str, float]:
    """FLOPs of a group of the paper recipe, ours by stock; those that are needed, not those under a dense mask."""
    recipe = load_recipe(ROOT / "reproduce" / "recipes" / "paper.yaml", [])
    shape = json.loads((ROOT / "reproduce" / "shapes" / "qwen2_5_vl_7b.json").read_text())
    config, group, lora = AutoConfig.for_model(**shape), recipe.grpo.num_generations, recipe.grpo.lora
    prompt = PAPER_PICTURES * (PAPER_PATCHES // 4 + 6) + PAPER_TEXT
    lengths, new = [prompt + PAPER_NEW] * group, group * PAPER_NEW
    patches, shared = [PAPER_PATCHES] * PAPER_PICTURES, [prompt] * (group - 1)
    rank = lora.rank if lora else 0
    stock = count_forward(config, lengths, new, patches * group, lora_rank=rank)
    rollouts = count_forward(config, lengths, new, patches, lora_rank=rank, shared=shared)
    known = count_forward(config, lengths, new, [], lora_rank=rank, shared=shared)  # reads features of the rollouts
    trained, ours = (some.train(lora=lora is not None) for some in (stock, known))
    return {
        "step_ratio": (known.total + ours) / (stock.total + trained),
        "step_with_rollouts_ratio": (rollouts.total + known.total + ours) / (2 * stock.total + trained),
        "rollouts_ratio": rollouts.total / stock.total,
        "reference_ratio": known.total / stock.total,
        "training_ratio": ours / trained,
    }


def reset_memory() -> int:
    """Forget the peak so far; what is held now, in bytes."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return read_status("VmRSS")


def read_memory() -> int:
    """The peak since, in bytes."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else read_status("VmHWM")


def read_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
