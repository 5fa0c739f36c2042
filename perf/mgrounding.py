"""Time and memory of turning files of MGrounding-630k's and UniVG-R1's size and form into training samples.

    python perf/mgrounding.py [RECORDS]

The files are made up, in the published forms; UniVG-R1's stages have 90,000 and 10,000 records over a seventh of the
pool's images. Targets at 630,000 records: below 3 minutes, below 1 GB. Memory is the largest so far.
"""

import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from migrl.data.mgrounding import TASKS, choose_samples
from migrl.data.pool import PoolSizes
from migrl.data.univg import STAGES
from migrl.data.univg_samples import choose_stages

MARK = "<image>\n"
SIZES = PoolSizes(cot=3000, rl=1500, seed=0, tasks=TASKS)


def write_list(path: Path, records: Iterator[dict[str, Any]]) -> float:
    """Write a JSON list; return its size in GB."""
    with path.open("w") as file:
        for index, record in enumerate(records):
            file.write(("[" if index == 0 else ",\n") + json.dumps(record))
        file.write("]")
    return path.stat().st_size / 1e9


def name_images(index: int) -> list[str]:
    task = TASKS[index % len(TASKS)]
    return [f"./MGrounding-630k/{task}/set/{index}_{number}_0123456789.jpg" for number in range(4)]


def make_pool(records: int) -> Iterator[dict[str, Any]]:
    generator = random.Random(0)
    for index in range(records):
        turns = []
        for turn in range(3):
            x, y = generator.randint(0, 500), generator.randint(0, 500)
            thing = f"<|object_ref_start|>thing number {turn}<|object_ref_end|>"
            question = f"Find {thing}, which this sentence speaks of: " + "words " * 40
            answer = f"It's in the third image. <|box_start|>({x},{y}),({x + 99},{y + 99})<|box_end|>"
            turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        turns[0]["value"] = MARK * 4 + turns[0]["value"]
        yield {"id": str(index), "type": "t", "images": name_images(index), "conversations": turns}


def make_stage(split: str, records: int, spread: int) -> Iterator[dict[str, Any]]:
    for number in range(records):
        images, question = (
            name_images(number * spread),
            MARK * 4 + "Find the thing in the third image. " + "words " * 40,
        )
        if split == "rl":
            yield {"images": images, "question": question, "answer": [1, 2, 300, 400]}
            continue
        answer = f"<think>{'The third image shows what no other shows. ' * 25}</think><answer>(1,2),(300,400)</answer>"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        yield {"images": images, "conversations": turns}


def measure(what: str, choose: Callable[[], tuple[dict[Any, list[Any]], dict[str, Any]]]) -> None:
    start, worked = time.perf_counter(), time.process_time()
    chosen, _ = choose()
    seconds, busy = time.perf_counter() - start, time.process_time() - worked
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    counts = {split: len(samples) for split, samples in chosen.items()}
    print(f"{what}: {seconds:.0f} s ({busy:.0f} s of CPU), {memory:.0f} MB, {counts}")


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 630_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = folder / "MGrounding-630k.json"
        size = write_list(pool, make_pool(records))
        measure(f"MGrounding-630k, {records} records, {size:.2f} GB", lambda: choose_samples(pool, SIZES))
        counts = {"cot": records // 7, "rl": records // 63}
        for split, stage in STAGES.items():
            write_list(folder / stage, make_stage(split, counts[split], spread=records // counts[split] - 1))
        measure(f"UniVG-R1, {counts} records", lambda: choose_stages(folder, pool, SIZES))


if __name__ == "__main__":
    main()
