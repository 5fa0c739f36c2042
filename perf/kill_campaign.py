"""Kill a run of the `test` recipe at every file event of every stage, let it go on, and compare.

    python perf/kill_campaign.py                     every kind of event, of every stage and of the publication (hours)
    python perf/kill_campaign.py --all               each of many writes of one file, too
    python perf/kill_campaign.py --only publication  one of them
    python perf/kill_campaign.py --ends              of trainings only what comes after the last step
    python perf/kill_campaign.py --most 12           at most so many events of each, spread, the last ones whole

It needs a C compiler for the library that counts file events (perf/kills/file_events.c). Ends with 1 on any fault.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kills import campaign

from migrl.recipe import load_recipe
from migrl.running import launch

ROOT = Path(__file__).resolve().parents[1]
OVERRIDES = ("model.threads=1", "sft.parallel=none", "grpo.parallel=none")
"""Threads do not outlive a fork, and DeepSpeed needs the launcher that is left out here."""
END = 0.6
"""Share of a limited number of events that are a stage's last ones, where most has been written."""


def main() -> None:
    """Run the campaign and print a line a stage."""
    options = read_options()
    preload()
    recipe = load_recipe(
        ROOT / "reproduce" / "recipes" / "test.yaml", ["model.threads=1", "grpo.parallel=none", *options.overrides]
    )
    with tempfile.TemporaryDirectory() as folder:
        launch._launch = campaign.fork_training
        before, work = Path(folder) / "before", Path(folder) / "work"
        before.mkdir()
        outcomes: list[campaign.Outcome] = []
        for step in campaign.list_steps(recipe):
            start = time.monotonic()
            chosen = options.only in ("", step.name)
            most = options.most if chosen else 0
            chooser = partial(choose, most=most, whole=options.all)
            found = campaign.run_campaign(step, before, work, chooser, print, ends_only=options.ends)
            for outcome in found:
                print(
                    f"{outcome.name}: {outcome.events} events, {outcome.kills} kills, {outcome.identical} ends "
                    f"identical, {len(outcome.faults)} faults",
                    flush=True,
                )
            print(f"  {time.monotonic() - start:.0f} s", flush=True)
            outcomes += found
            if step.name == options.only:
                break
    kills, faults = (sum(values) for values in zip(*((o.kills, len(o.faults)) for o in outcomes), strict=True))
    print(f"in all: {kills} kills, {sum(o.identical for o in outcomes)} ends identical, {faults} faults")
    sys.exit(1 if faults else 0)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="one stage, or publication")
    parser.add_argument("--ends", action="store_true", help="of trainings only what comes after the last step")
    parser.add_argument("--all", action="store_true", help="also the same event again")
    parser.add_argument("--most", type=int, help="at most so many events of each; all unless given")
    parser.add_argument("overrides", nargs="*", help="recipe keys to change")
    return parser.parse_args()


def choose(events: Sequence[str], most: int | None, *, whole: bool) -> Sequence[int]:
    """The numbers of the events that kill: without a limit all, else the last ones and a few spread over the others.

    Unless `whole`, of a row of events alike, such as the writes of one file, the first and the last.
    """
    numbers = [
        number
        for number, event in enumerate(events, 1)
        if whole or not events[max(0, number - 2)] == event == events[min(number, len(events) - 1)]
    ]
    if most is None or len(numbers) <= most:
        return numbers
    kept = round(END * most)
    last, others = numbers[len(numbers) - kept :], numbers[: len(numbers) - kept]
    return [*(others[number * len(others) // (most - kept)] for number in range(most - kept)), *last]


def preload() -> None:
    """Start this program again with the library that counts file events, unless it has it."""
    if "file_events" in os.environ.get("LD_PRELOAD", ""):
        return
    library = Path(tempfile.mkdtemp()) / "file_events.so"
    source = Path(__file__).with_name("kills") / "file_events.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    os.environ["LD_PRELOAD"] = str(library)
    os.execv(sys.executable, [sys.executable, *sys.argv])


if __name__ == "__main__":
    main()
