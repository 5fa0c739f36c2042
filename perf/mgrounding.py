"""Time and memory of turning a file of MGrounding-630k's size and form into training samples.

    python perf/mgrounding.py [RECORDS]

The file is made up, in the published form. Targets at 630,000 records: below 3 minutes, below 1 GB.
"""

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from migrl.data.mgrounding import TASKS, PoolSizes, choose_samples

MARK = "<image>\n"


def write_file(path: Path, records: int) -> None:
    generator = random.Random(0)
    with path.open("w") as file:
        for index in range(records):
            task = TASKS[index % len(TASKS)]
            images = [f"./MGrounding-630k/{task}/set/{index}_{number}_0123456789.jpg" for number in range(4)]
            turns = []
            for turn in range(3):
                x, y = generator.randint(0, 500), generator.randint(0, 500)
                question = f"Find the thing that sentence number {turn} speaks of: " + "words " * 40
                answer = f"It's in the third image. <|box_start|>({x},{y}),({x + 99},{y + 99})<|box_end|>"
                turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
            turns[0]["value"] = MARK * 4 + turns[0]["value"]
            record = {"id": str(index), "type": "t", "images": images, "conversations": turns}
            file.write(("[" if index == 0 else ",\n") + json.dumps(record))
        file.write("]")


def main() -> None:
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 630_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "MGrounding-630k.json"
        write_file(path, records)
        start = time.perf_counter()
        chosen, facts = choose_samples(path, PoolSizes(cot=3000, rl=1500, seed=0))
        seconds = time.perf_counter() - start
        size = path.stat().st_size / 1e9
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    samples = {split: len(some) for split, some in chosen.items()}
    print(f"{facts['records']} records, {size:.2f} GB: {seconds:.0f} s, {memory:.0f} MB, {samples}")


if __name__ == "__main__":
    main()
