"""How fast each engine answers: questions per second, and rollouts per second where eight read one prompt.

    python perf/engines.py                        transformers and vllm, at tiny and mid size
    python perf/engines.py --sizes tiny --json

tiny is the base of the tiny recipe on its own questions; mid a random model of about 100 M parameters on questions with
four pictures of 400,000 px. Same weights, questions, limits and sampler for both; each engine in a process of its own,
after a warm-up. vLLM where there is no GPU: the environment of `nox -s vllm`.
"""

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from migrl.data.rehearsal_source import build_rehearsal, write_random_model
from migrl.data.world_source import build_world
from migrl.engines.batches import make_batches
from migrl.engines.engine import Task, open_engine
from migrl.grounding.samples import read_samples
from migrl.models.decoding import Decoding
from migrl.models.inputs import prepare_input
from migrl.models.loading import Weights, load_processor
from migrl.recipe import Recipe, RehearsalSource, WorldSource, load_recipe
from migrl.running.metering import read_clock
from migrl.running.packages import read_version
from migrl.running.worker import Rank

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "reproduce/tiny_base"
SETTINGS = ["model.threads=2", "vllm.enforce_eager=true", "vllm.max_num_seqs=64"]
DRAWN = RehearsalSource(
    kind="rehearsal",
    shapes=ROOT / "perf/shapes/qwen2_5_vl_100m.json",
    images=(4,),
    sizes=((800, 600),),
    pictures=24,
    question_tokens=48,
    thought_tokens=16,
    cot_samples=1,
    rl_samples=5,
    eval_samples=9,
)
ROLLOUTS = 8
SIZES = {
    # questions for a greedy answer, questions for rollouts, questions a static batch, new tokens, pixels a picture
    "tiny": (256, 64, 32, 64, 9600),
    "mid": (2, 2, 1, 48, 401_408),
}


def load_settings(size: str) -> Recipe:
    *_, new_tokens, pixels = SIZES[size]
    length = f"vllm.max_model_len={4096 if size == 'mid' else 1024}"
    limits = [f"{section}.max_pixels={pixels}" for section in ("grpo", "evaluate")]
    return load_recipe(ROOT / "reproduce/recipes/tiny.yaml", [*SETTINGS, length, *limits])


def make_inputs(size: str, folder: Path) -> Path:
    """The size's model, under `folder` with its questions in `data`."""
    if size == "tiny":
        source = load_settings(size).source
        assert isinstance(source, WorldSource)
        build_world(source, folder / "data")
        return BASE
    build_rehearsal(DRAWN, BASE, folder / "data")
    write_random_model(DRAWN, BASE, "float32", folder / "model")
    return folder / "model"


def measure(engine: str, size: str, model: Path, data: Path) -> dict[str, Any]:
    """Seconds and counts of greedy answers and of rollouts."""
    recipe = load_settings(size)
    greedy_count, rollout_count, batch, new_tokens, pixels = SIZES[size]
    processor = load_processor(model, min_pixels=recipe.model.min_pixels, max_pixels=pixels)
    sources = ("mini_mig", "rl") if size == "tiny" else ("rehearsal", "rl")
    asked, rolled = (
        [
            prepare_input(sample, data, processor, frame=recipe.model.frame, style="think")
            for sample in read_samples(data / f"{name}.jsonl")
        ]
        for name in sources
    )
    step = max(1, len(rolled) // (rollout_count + 1))
    warm, asked, rolled = asked[:1], asked[1 : greedy_count + 1], rolled[::step][:rollout_count]
    sampled = Decoding(new_tokens, temperature=1.0, rollouts=ROLLOUTS)
    opened = open_engine(engine, Weights(model), recipe, Task([*warm, *asked, *rolled], sampled, processor), Rank())
    opened.answer(warm, Decoding(4, temperature=1.0, rollouts=2))
    found: dict[str, Any] = {"version": read_version(engine), "device": opened.device}
    for name, items, decoding in (("answers", asked, Decoding(new_tokens)), ("rollouts", rolled, sampled)):
        # vLLM schedules by itself.
        batches = make_batches(items, batch if engine == "transformers" else len(items))
        start = read_clock()
        completions = [one for some in batches for group in opened.answer(some, decoding) for one in group]
        seconds = read_clock() - start
        tokens = sum(completion.tokens for completion in completions)
        found[name] = {"count": len(completions), "tokens": tokens, "seconds": round(seconds, 2)}
        found[name]["per_second"] = round(len(completions) / seconds, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["transformers", "vllm"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = make_inputs(size, folder)
            for engine in arguments.engines:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                    one = pool.submit(measure, engine, size, model, folder / "data").result()
                found.setdefault(size, {})[engine] = one
                if not arguments.json:
                    for what in ("answers", "rollouts"):
                        print(f"{size:5} {engine:13} {what:9}", *(f"{k} {v}" for k, v in one[what].items()), flush=True)
    if arguments.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
