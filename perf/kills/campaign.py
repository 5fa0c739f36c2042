"""Kills a small run at file events, one after the other, lets it go on, and compares its end with an undisturbed one's.

Every attempt is a fork of a process that has imported everything, so that a kill costs the stage's own seconds and not
the imports'. Trainings are forked from it too, without accelerate's launcher between; all else is the pipeline itself.
"""

import ctypes
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from migrl.cli.pipeline import publish_report
from migrl.errors import UserError
from migrl.evidence.seal import check_results, list_files, make_file_hashes, seal
from migrl.files import hash_file, read_json, write_json
from migrl.pipeline import plan_stages, run_pipeline
from migrl.recipe import Recipe
from migrl.running import launch, worker
from migrl.running.ending import ENDING, read_ending
from migrl.running.stage import StageContext, read_manifest
from migrl.running.watch.trackers import keep_local

PUBLICATION = "publication"
TRAININGS = ("sft", "grpo")
RUN_DEPENDENT = ("manifest.json", "evidence.json", "report.html")
"""Files of the report that hold times or the machine's state, or a hash of one that does."""


@dataclass(frozen=True)
class Attempt:
    """How one forked run ended: by the kill, or with an exit code."""

    killed: bool
    code: int
    events: int


@dataclass
class Outcome:
    """What a campaign over one stage found."""

    name: str
    events: int
    kills: int = 0
    identical: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """A stage or the publication: how it is run in a folder, and what its end looks like.

    `begins` is part of the first event's path after the last step of a training: from there on all is tried from the
    last checkpoint, which takes seconds. `check` is what must hold right after a kill.
    """

    name: str
    run: Callable[[Path], None]
    read_end: Callable[[Path], Any]
    begins: str | None = None
    check: Callable[[Path], list[str]] = lambda folder: []


def run_forked(work: Callable[[], None], root: Path, *, at: int = 0, log: Path | None = None) -> Attempt:
    """Do `work` in a process group of its own, killed at event `at` below `root`, if that is not 0."""
    with tempfile.NamedTemporaryFile() as counter:
        counter.write(bytes(8))
        counter.flush()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            output = os.open(root.parent / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ |= {"KILL_ROOT": str(root.resolve()), "KILL_COUNTER": counter.name, "KILL_AT": str(at)}
            os.environ |= {"KILL_GROUP": str(os.getpid())} | ({"KILL_LOG": str(log)} if log else {})
            ctypes.CDLL(None).file_events_start()
            try:
                work()
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        await_end(pid)
        events = int.from_bytes(Path(counter.name).read_bytes(), sys.byteorder)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return Attempt(killed, os.waitstatus_to_exitcode(status), events)


def await_end(group: int) -> None:
    """Wait until a process group is gone: who dies last may still hold a lock."""
    with suppress(ProcessLookupError):
        while True:
            os.killpg(group, 0)
            time.sleep(0.01)


def fork_training(module: str, context: StageContext, *others: Any) -> None:
    """What `launch` does for one process, without accelerate's launcher between.

    Raises:
        UserError: the training's own.
    """
    (context.folder / ENDING).unlink(missing_ok=True)
    path = context.folder.resolve() / worker.CONTEXT
    write_json(path, launch.describe_context(context))
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.environ.update(keep_local({}, context.folder.resolve(), context.recipe.trackers))
        sys.argv = [module, "--context", str(path), "--launcher", str(parent)]
        worker.run_child(importlib.import_module(module).train)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    ending = UserError(f"ended with {status}") if status else read_ending(context.folder, context.name)
    if ending is not None:
        raise ending


def list_steps(recipe: Recipe) -> Iterator[Step]:
    """Every stage of a recipe in a folder's `runs`, then the publication into its `results`."""
    for stage in plan_stages(recipe):

        def run(folder: Path, name: str = stage.name) -> None:
            run_pipeline(recipe, folder / "runs", only=name)

        def read_end(folder: Path, place: str = stage.place) -> Any:
            home = folder / "runs" / recipe.name
            outputs = read_manifest(home / place)["outputs"]
            there = {path.name for path in home.rglob("*") if path.name.endswith((".partial", ".rest", ".tmp"))}
            kept = {name: output["sha256"] for name, output in outputs.items() if name not in RUN_DEPENDENT}
            return kept, sorted(outputs), sorted(there)

        trained = stage.name in TRAININGS
        yield Step(stage.name, run, read_end, f"{stage.place}.partial/progress/performance.json" if trained else None)

    def publish(folder: Path) -> None:
        publish_report(folder / "runs" / recipe.name / "report", folder / "results" / recipe.name)

    def publish_older(folder: Path) -> None:
        report = folder / "runs" / recipe.name / "report"
        with tempfile.TemporaryDirectory() as place:
            older = Path(shutil.copytree(report, Path(place) / "report"))
            write_json(older / "levels.json", ["of an earlier run"])
            hashes = {name: value for name, value in make_file_hashes(older).items() if name in list_named(report)}
            write_json(older / "evidence.json", seal({"files": hashes}))
            publish_report(older, folder / "results" / recipe.name)

    def read_results(folder: Path) -> Any:
        files = list_files(folder / "results")
        return {name: hash_file(path) for name, path in files.items() if name.rpartition("/")[2] != "tree.json"}

    yield Step("first publication", publish_older, read_results, check=check_published)
    yield Step(PUBLICATION, publish, read_results, check=check_published)


def list_named(report: Path) -> list[str]:
    """The files that a report's evidence names."""
    return list(read_json(report / "evidence.json")["files"])


def check_published(folder: Path) -> list[str]:
    """What `verify` would say of the hashes; nothing of results that are not there yet."""
    results = folder / "results"
    return check_results(results) if (results / "tree.json").exists() else []


def run_campaign(
    step: Step,
    before: Path,
    work: Path,
    choose: Callable[[list[str]], Sequence[int]],
    tell: Callable[[str], None],
    *,
    ends_only: bool = False,
) -> list[Outcome]:
    """Kill one step at the chosen events and at events of the resume; compare each end with the undisturbed one's.

    Args:
        before: the state that the step begins from; afterwards that of its undisturbed end.
        work: a folder to work in, made anew for every kill.
        choose: the numbers of the events that kill, from a line an event: what is done to which file.
        ends_only: of trainings, only what comes after their last step.
    """
    _copy(before, work)  # every run in the same place, for adapters name their base's
    events = _run_undisturbed(step, work)
    end = step.read_end(work)
    reference = work.rename(work.with_name("reference"))
    outcomes = [Outcome(step.name, len(events))]
    if step.begins is None or not ends_only:
        _try_events(step, before, work, choose(events), end, outcomes[0], tell)
    if step.begins is not None and choose(events):
        first = next(number for number, event in enumerate(events, 1) if step.begins in event)
        trained = work.with_name("trained")
        _copy(before, work)
        run_forked(lambda: step.run(work), work, at=first)
        _copy(work, trained)
        events = _run_undisturbed(step, work)
        outcomes.append(Outcome(f"{step.name}, trained", len(events)))
        _try_events(step, trained, work, choose(events), end, outcomes[1], tell)
        shutil.rmtree(trained)
    shutil.rmtree(before)
    reference.rename(before)
    return outcomes


def _run_undisturbed(step: Step, work: Path) -> list[str]:
    """Run a step to its end; a line for each file event."""
    log = work.with_name("events.txt")
    log.unlink(missing_ok=True)
    if run_forked(lambda: step.run(work), work, log=log).code:
        raise UserError(f"{step.name}: fails undisturbed: {(work.parent / 'output.txt').read_text()[-2000:]}")
    return [line.partition(" ")[2] for line in log.read_text().splitlines()]


def _try_events(
    step: Step,
    before: Path,
    work: Path,
    chosen: Sequence[int],
    end: Any,
    outcome: Outcome,
    tell: Callable[[str], None],
) -> None:
    for at in chosen:
        fault = _kill_and_resume(step, before, work, at, end, outcome)
        if fault:
            outcome.faults.append(f"{outcome.name}, event {at}: {fault}")
            tell(outcome.faults[-1])


def _kill_and_resume(step: Step, before: Path, work: Path, at: int, end: Any, outcome: Outcome) -> str | None:
    """Kill, kill the resume at some event, go on; the fault, if any."""
    folder = _copy(before, work)
    # The second kill is early in one resume, late in another: any number that spreads will do.
    for kill in (at, 1 + at * 7919 % max(2, outcome.events)):
        outcome.kills += run_forked(lambda: step.run(folder), folder, at=kill).killed
        wrong = step.check(folder)
        if wrong:
            return f"after the kill: {wrong[0]}"
    last = run_forked(lambda: step.run(folder), folder)
    if last.code:
        return f"does not go on: {(folder.parent / 'output.txt').read_text()[-400:]}"
    found = step.read_end(folder)
    if found != end:
        return f"another end: {_compare(end, found)}"
    outcome.identical += 1
    return None


def _compare(expected: Any, found: Any) -> str:
    """Where two ends first differ."""
    for one, other in zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]:
        names = set(one) ^ set(other)
        if isinstance(one, dict):
            names |= {name for name in set(one) & set(other) if one[name] != other[name]}
        if names:
            return ", ".join(sorted(names))
    return "the order of its files"


def _copy(source: Path, target: Path) -> Path:
    if target.exists():
        shutil.rmtree(target)
    return Path(shutil.copytree(source, target, symlinks=True))
