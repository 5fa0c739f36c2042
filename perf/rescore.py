"""Time of `migrl score` on the whole revised MIG-Bench file: process start, load, parse, score, intervals.

    python perf/rescore.py FOLDER        (FOLDER holds mig_bench/revised_MIG_bench.json)

Every item gets a made-up completion, so no model output is needed. Target: below 2 s on one core.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 5


def main() -> None:
    annotations = Path(sys.argv[1]) / "mig_bench" / "revised_MIG_bench.json"
    generator = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        predictions = Path(folder) / "predictions.jsonl"
        with predictions.open("w") as file:
            for index in range(len(json.loads(annotations.read_text()))):
                x1, y1, x2, y2 = (generator.randint(0, 1000) for _ in range(4))
                text = f"the thing({min(x1, x2)},{min(y1, y2)}),({max(x1, x2)},{max(y1, y2)})"
                file.write(json.dumps({"uid": f"mig_bench:{index}", "completion": text}) + "\n")
        command = [sys.executable, "-m", "migrl", "score", "mig_bench", "--json", "--annotations", str(annotations)]
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            subprocess.run([*command, "--predictions", str(predictions)], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    print(f"{index + 1} items: best {min(seconds):.2f} s, worst {max(seconds):.2f} s of {RUNS} runs")


if __name__ == "__main__":
    main()
