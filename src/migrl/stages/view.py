"""The report of a run that is still going on: what its stages have left so far, and "not run" for the rest."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from migrl.errors import UserError
from migrl.files import read_json
from migrl.grounding.samples import read_samples
from migrl.report.build import ReportLogs, write_report
from migrl.report.rollouts import build_rollouts
from migrl.running.progress_log import read_log
from migrl.running.stage import PROGRESS
from migrl.running.stage_folder import PARTIAL
from migrl.stages.report import LOGS, ROLLOUTS

VIEW = ".view"  # hidden: no stage
TRAININGS = ("grpo", "sft")


def find_report(run: Path) -> Path:
    """The page of a run: the report's own where it is finished, else one of what is there, written anew.

    Args:
        run: the folder of a recipe's stages, such as runs/tiny.

    Raises:
        UserError: no run, or one that has fetched nothing yet.
    """
    finished = run / "report" / "report.html"
    if finished.is_file():
        return finished
    data = find_stage(run, "fetch") / "data"
    if not data.is_dir():
        raise UserError(f"{run}: no run there, or nothing fetched yet; name a recipe's folder, such as runs/tiny")
    grpo = find_stage(run, "grpo")
    rollouts = grpo / PROGRESS / ROLLOUTS
    kept = read_log(rollouts) if rollouts.is_file() else {}
    pool = read_samples(data / "rl.jsonl") if kept else []
    target = run / VIEW / "report.html"
    target.parent.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        write_report(
            rows=[],
            scores={},
            claims=[],
            levels=[],
            evaluations=[],
            logs=collect_logs(run),
            images_root=data,
            facts={"recipe": f"{run.name}, not finished"},
            out=Path(folder),
            rollouts=build_rollouts(list(kept.values()), pool, data) if kept else None,
        )
        shutil.copyfile(Path(folder, "report.html"), target)
    return target


def find_stage(run: Path, name: str) -> Path:
    """A stage's folder, finished or at work."""
    return run / name if (run / name).is_dir() else run / f"{name}{PARTIAL}"


def collect_logs(run: Path) -> ReportLogs:
    """What training and selection have left so far."""
    steps = {name: read_so_far(find_stage(run, name) / "log.jsonl") for name in TRAININGS}
    parts: dict[str, Any] = {}
    for name, (stage, file) in LOGS.items():
        path = find_stage(run, stage) / file
        parts[name.removesuffix(".json")] = read_json(path) if path.is_file() else None
    return ReportLogs(training={name: rows for name, rows in steps.items() if rows}, **parts)


def read_so_far(path: Path) -> list[dict[str, Any]]:
    """Rows of a log that someone is writing: all but a last line without an end; none without the file."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
    return [json.loads(line) for line in whole.splitlines()]
