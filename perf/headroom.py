"""Headroom of RL: greedy accuracy, mean and best of k rollouts of a model, by task.

RL sharpens what sampling already finds; pass@k of the start model bounds what it can win.

    python perf/headroom.py MODEL DATA.jsonl --samples 20 --rollouts 8
"""

import argparse
from collections import defaultdict
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForImageTextToText

from migrl.engines.batches import make_batches
from migrl.engines.transformers_engine import generate_batch
from migrl.grounding.samples import read_samples
from migrl.models.decoding import Decoding
from migrl.models.inputs import prepare_input
from migrl.models.loading import load_processor
from migrl.scoring.completions import score_completion
from migrl.world.tokenizer import MAX_PIXELS, MIN_PIXELS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--samples", type=int, default=20, help="per task")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--show", type=int, default=0, help="completions to print per task")
    arguments = parser.parse_args()
    processor = load_processor(arguments.model, min_pixels=MIN_PIXELS, max_pixels=MAX_PIXELS)
    model = AutoModelForImageTextToText.from_pretrained(arguments.model, attn_implementation="sdpa").eval()
    by_task = defaultdict(list)
    for sample in read_samples(arguments.data):
        by_task[sample.task].append(sample)
    samples = [s for some in by_task.values() for s in Random(0).sample(some, min(len(some), arguments.samples))]
    root = arguments.data.parent
    items = [prepare_input(s, root, processor, frame="resized_px", style="think") for s in samples]
    results = {}
    shown = defaultdict(int)
    for name, settings in {
        "greedy": Decoding(arguments.tokens),
        "sampled": Decoding(arguments.tokens, arguments.temperature, rollouts=arguments.rollouts),
    }.items():
        hits = defaultdict(list)
        for batch in make_batches(items, 32):
            with torch.inference_mode():
                completions = generate_batch(model, processor, batch, settings)
            for item, some in zip(batch, completions, strict=True):
                keys = {"frame": item.frame, "sizes": item.sizes, "resized_sizes": item.resized_sizes}
                scores = [score_completion(c.text, item.sample.target, **keys, truncated=c.truncated) for c in some]
                hits[item.sample.task].append([score.hit for score in scores])
                if name == "greedy" and shown[item.sample.task] < arguments.show:
                    shown[item.sample.task] += 1
                    score = scores[0]
                    print(item.sample.task, "|", item.sample.question, "|", some[0].text, score.status, score.iou)
        results[name] = hits
    rows = []
    for task in by_task:
        greedy, sampled = results["greedy"][task], results["sampled"][task]
        rows.append(
            (
                sum(h[0] for h in greedy) / len(greedy),
                sum(sum(h) for h in sampled) / sum(len(h) for h in sampled),
                sum(any(h) for h in sampled) / len(sampled),
            )
        )
        print(
            f"{task:20s} greedy {rows[-1][0]:.2f}  mean {rows[-1][1]:.2f}  pass@{arguments.rollouts} {rows[-1][2]:.2f}"
        )
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    print(f"{'macro':20s} greedy {means[0]:.3f}  mean {means[1]:.3f}  pass@{arguments.rollouts} {means[2]:.3f}")


if __name__ == "__main__":
    main()
