"""Writing a folder of lmms-eval tasks: one YAML a grounding benchmark, and one small module they call.

lmms-eval 0.7.3 finds external tasks by `--include_path` only (or `TaskManager(include_path=...)`): its
plugin variable is read after the tasks are indexed, and its entry points are for models.
"""

import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from migrl.errors import UserError
from migrl.files import write_text
from migrl.grounding.boxes import FRAMES, Frame
from migrl.grounding.prompts import PromptStyle, hash_prompts
from migrl.grounding.samples import Sample, read_samples
from migrl.lmms_tasks.grounding import TASK_METRIC, GroundingTask
from migrl.recipe import TRAINING_SPLITS

HEADER = "# Written by migrl; write it again rather than edit it.\n"
PREFIX = "migrl_"
TAG = "migrl_grounding"
"""`--tasks migrl_grounding` runs every written task."""
TASK_MEANS = ("macro", "acc_30", "acc_70", "mean_iou")
DOC_MEANS = ("micro", "image_accuracy", "parse_rate")

_MODULE = (
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


def write_tasks(
    data: Path,
    out: Path,
    *,
    frame: Frame,
    style: PromptStyle = "think",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    resized_twice: bool = False,
    benchmarks: Sequence[str] | None = None,
    max_new_tokens: int = 1024,
) -> list[str]:
    """Write the tasks of a data folder into `out`; tasks written there before are replaced.

    Args:
        data: folder with `<benchmark>.jsonl` and the pictures, as `migrl fetch` leaves it.
        out: folder for `lmms-eval --include_path`; created if missing.
        frame, style, min_pixels, max_pixels, resized_twice: as `GroundingTask`.
        benchmarks: names to write; None takes every file whose samples all ask for a box.
        max_new_tokens: length limit of an answer.

    Returns:
        The names of the tasks, for `lmms-eval --tasks`.

    Raises:
        UserError: a setting, file or benchmark that is missing or broken.
    """
    _check_settings(frame, style, min_pixels, max_pixels, max_new_tokens)
    data = data.resolve()
    found = _read_benchmarks(data, benchmarks)
    task = GroundingTask(data, frame, style, min_pixels, max_pixels, resized_twice)
    settings = {name: getattr(task, name) for name in ("frame", "style", "min_pixels", "max_pixels", "resized_twice")}
    texts = {"utils.py": _MODULE.format(data=str(data), **settings)}
    for name, samples in found.items():
        config = _build_config(data / f"{name}.jsonl", samples, settings, max_new_tokens)
        texts[f"{PREFIX}{name}.yaml"] = HEADER + yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=120)
    _replace_tasks(out, texts)
    return [PREFIX + name for name in found]


def _replace_tasks(out: Path, texts: Mapping[str, str]) -> None:
    """Put files in the place of those that migrl wrote into a folder; others in it stay.

    Raises:
        UserError: the folder has files and none by migrl, or one by another hand has a name that is needed.
    """
    out = out.resolve()
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is no folder; name another")
    files = [path for path in out.iterdir() if path.name[0] != "."] if out.is_dir() else []
    ours = {path.name for path in files if path.is_file() and _read_head(path) == HEADER.encode()}
    foreign = [path for path in files if path.name not in ours and (path.name in texts or "utils.py" not in ours)]
    if foreign:
        raise UserError(f"--out {out}: was not made by this command, it holds {foreign[0].name}; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # another of this command waits until all files are of one
        for name in sorted(texts, key="utils.py".__eq__):  # the one that says whose the folder is comes last
            write_text(out / name, texts[name])
        for name in ours - texts.keys():
            (out / name).unlink(missing_ok=True)
    finally:
        os.close(folder)


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(HEADER.encode()))


def _check_settings(
    frame: Frame, style: PromptStyle, min_pixels: int | None, max_pixels: int | None, max_new_tokens: int
) -> None:
    if frame not in FRAMES:
        raise UserError(f"frame {frame!r}: unknown; the frames are {', '.join(FRAMES)}")
    if style not in get_args(PromptStyle):
        raise UserError(f"style {style!r}: unknown; the styles are {', '.join(get_args(PromptStyle))}")
    if (min_pixels is None) != (max_pixels is None):
        raise UserError("min_pixels and max_pixels: one is missing; give both, as the model is loaded with")
    if min_pixels is not None and max_pixels is not None and not 0 < min_pixels <= max_pixels:
        raise UserError(f"min_pixels {min_pixels}, max_pixels {max_pixels}: need 0 < min_pixels <= max_pixels")
    if frame == "resized_px" and min_pixels is None:
        raise UserError("frame resized_px: depends on the model's pixel limits; give min_pixels and max_pixels")
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens {max_new_tokens}: an answer needs at least one token")


def _read_benchmarks(data: Path, names: Sequence[str] | None) -> dict[str, list[Sample]]:
    """Samples of each grounding benchmark; every record is checked here, where errors still read well."""
    if not data.is_dir():
        raise UserError(f"{data}: no such folder; run `migrl fetch` first")
    chosen = [path.stem for path in sorted(data.glob("*.jsonl")) if path.stem not in TRAINING_SPLITS]
    found = {}
    for name in chosen if names is None else names:
        path = data / f"{name}.jsonl"
        samples = read_samples(path)
        if samples and all(sample.kind == "box" for sample in samples):
            found[name] = samples
        elif names is not None:
            raise UserError(
                f"{path}: not a grounding benchmark, which has samples and asks for boxes only; leave it out"
            )
    if not found:
        raise UserError(f"{data}: no grounding benchmark; run `migrl fetch` with a recipe that has one")
    return found


def _build_config(
    path: Path, samples: Sequence[Sample], settings: dict[str, Any], max_new_tokens: int
) -> dict[str, Any]:
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
        "generation_kwargs": {
            "until": [],
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "temperature": 0,
        },
        "cluster_key": "cluster",
        "metric_list": metrics,
        "metadata": {"version": 1, **settings, "prompts": hash_prompts()},
    }


class _Function(str):
    """The name of a function in a task's YAML."""


class _Dumper(yaml.SafeDumper):
    """Writes `!function` names, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_function(dumper: yaml.SafeDumper, name: _Function) -> yaml.ScalarNode:
    return dumper.represent_scalar("!function", str(name))


_Dumper.add_representer(_Function, _represent_function)
