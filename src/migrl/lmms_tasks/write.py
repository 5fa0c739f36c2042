"""Writing a folder of lmms-eval tasks: one YAML a grounding benchmark, and one small module they call.

lmms-eval 0.7.3 finds external tasks by `--include_path` only (or `TaskManager(include_path=...)`): its
plugin variable is read after the tasks are indexed, and its entry points are for models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from migrl.errors import UserError
from migrl.files import write_text
from migrl.grounding.prompts import hash_prompts
from migrl.grounding.samples import Sample, read_samples
from migrl.lmms_tasks.grounding import TASK_METRIC, GroundingTask
from migrl.recipe import TRAINING_SPLITS

HEADER = "# Written by migrl; write it again rather than edit it.\n"
MODULE = "utils.py"
PREFIX = "migrl_"
TAG = "migrl_grounding"
"""`--tasks migrl_grounding` runs every written task."""
TASK_MEANS = ("macro", "acc_30", "acc_70", "mean_iou")
DOC_MEANS = ("micro", "image_accuracy", "parse_rate")
MAX_NEW_TOKENS = 1024

_MODULE_TEXT = (
    HEADER
    + '''"""Settings of the tasks beside this file, and the functions they name."""

from pathlib import Path

from migrl.lmms_tasks.grounding import GroundingTask, average_docs, average_tasks

task = GroundingTask(
    data=Path({data!r}),
    frame={frame!r},
    style={style!r},
    min_pixels={min_pixels!r},
    max_pixels={max_pixels!r},
    resized_twice={resized_twice!r},
)
prepare_docs = task.prepare_docs
load_images = task.load_images
build_messages = task.build_messages
build_text = task.build_text
describe_target = task.describe_target
score = task.score
__all__ = ["average_docs", "average_tasks"]
'''
)


def write_tasks(task: GroundingTask, out: Path) -> list[str]:
    """Write a task for each grounding benchmark of a data folder into `out`; those written there before are replaced.

    Args:
        task: its `data` has `<benchmark>.jsonl` and the pictures, as `migrl fetch` leaves them.
        out: folder for `lmms-eval --include_path`; created if missing.

    Returns:
        The names of the tasks, for `lmms-eval --tasks`.

    Raises:
        UserError: a file that is broken, no grounding benchmark, or a folder with files by another hand.
    """
    data = task.data.resolve()
    found = _read_benchmarks(data)
    settings = {key: value for key, value in asdict(task).items() if key != "data"}
    texts = {MODULE: _MODULE_TEXT.format(data=str(data), **settings)}
    for name, samples in found.items():
        config = _build_config(data / f"{name}.jsonl", samples, settings)
        texts[f"{PREFIX}{name}.yaml"] = HEADER + yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=120)
    _replace_tasks(out.resolve(), texts)
    return [PREFIX + name for name in found]


def _replace_tasks(out: Path, texts: Mapping[str, str]) -> None:
    """Put files in the place of those that migrl wrote into a folder; others in it stay.

    Raises:
        UserError: the folder has files and none by migrl, or one by another hand has a name that is needed.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is no folder; name another")
    files = [path for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []
    ours = {path.name for path in files if path.is_file() and path.read_bytes().startswith(HEADER.encode())}
    foreign = [path for path in files if path.name not in ours and (path.name in texts or MODULE not in ours)]
    if foreign:
        raise UserError(f"--out {out}: was not made by this command, it holds {foreign[0].name}; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in sorted(texts, key=MODULE.__eq__):  # the one that says whose the folder is comes last
        write_text(out / name, texts[name])
    for name in ours - texts.keys():
        (out / name).unlink(missing_ok=True)


def _read_benchmarks(data: Path) -> dict[str, list[Sample]]:
    """Samples of each grounding benchmark; every record is checked here, where errors still read well."""
    if not data.is_dir():
        raise UserError(f"{data}: no such folder; run `migrl fetch` first")
    paths = [path for path in sorted(data.glob("*.jsonl")) if path.stem not in TRAINING_SPLITS]
    read = {path.stem: read_samples(path) for path in paths}
    found = {name: some for name, some in read.items() if some and all(sample.kind == "box" for sample in some)}
    if not found:
        raise UserError(f"{data}: no grounding benchmark; run `migrl fetch` with a recipe that has one")
    return found


def _build_config(path: Path, samples: Sequence[Sample], settings: Mapping[str, Any]) -> dict[str, Any]:
    tasks = sorted({TASK_METRIC + sample.task for sample in samples})
    means = dict.fromkeys(TASK_MEANS, "utils.average_tasks") | dict.fromkeys((*DOC_MEANS, *tasks), "utils.average_docs")
    metrics = [
        {"metric": name, "aggregation": _Function(mean), "higher_is_better": True} for name, mean in means.items()
    ]
    return {
        "task": PREFIX + path.stem,
        "tag": TAG,
        "dataset_path": "text",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "process_docs": _Function("utils.prepare_docs"),
        "output_type": "generate_until",
        "doc_to_visual": _Function("utils.load_images"),
        "doc_to_text": _Function("utils.build_text"),
        "doc_to_messages": _Function("utils.build_messages"),
        "doc_to_target": _Function("utils.describe_target"),
        "process_results": _Function("utils.score"),
        # lmms-eval would cut the thinking off, and stop at the first empty line; the answer is read whole here.
        "reasoning_tags": "none",
        "generation_kwargs": {"until": [], "max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "temperature": 0},
        "cluster_key": "cluster",
        "metric_list": metrics,
        "metadata": {"version": 1, **settings, "prompts": hash_prompts()},
    }


class _Function(str):
    """The name of a function in a task's YAML."""


class _Dumper(yaml.SafeDumper):
    """Writes `!function` names."""


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))
