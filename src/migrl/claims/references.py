"""Reference runs: raw results of earlier runs of a recipe with other seeds, and where a new run's deltas must lie.

They are kept under `results/reference_runs/<recipe>`: `recipe.json`, the settings they were made with, and for each
seed `scores.json`, `claims.json`, and with `samples.jsonl.gz` the completions, so that a later rule can be applied.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from scipy.special import stdtrit

from migrl.errors import UserError
from migrl.files import ROOT, explain_fault
from migrl.recipe import SEEDED_SECTIONS, Recipe

REFERENCE_RUNS = ROOT / "results" / "reference_runs"
RECIPE_FILE = "recipe.json"
DECISIVE_SECTIONS = ("model", "source", "synthesize", "sft", "sampling", "select", "grpo", "arms", "evaluate")
ROUNDING = (
    *("model.threads", "select.batch", "select.batch_pixels", "evaluate.batch", "evaluate.batch_pixels"),
    "grpo.group_prefix",
)
"""How work is put together for speed: that changes no answer and no gradient but by rounding."""
_DECIMALS = 4
_MOST_POINTS = 100  # two percentages differ by no more
_Delta = Annotated[float, Field(ge=-_MOST_POINTS, le=_MOST_POINTS, strict=True, allow_inf_nan=False)]
_DELTAS = TypeAdapter(dict[str, list[_Delta]])


def load_references(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """What a run of `recipe` is compared with, the content of `references.json`: `deltas` by claim and a `note`.

    No deltas where there are no runs, or where they were made with other settings; seeds may differ, for they are
    what reference runs vary. A reference run with this run's own seed is this run again, and left out.

    Raises:
        UserError: as `read_reference_deltas`, or the runs' `recipe.json` is missing or broken.
    """
    runs = [name for name in list_runs(folder) if name != name_own_run(recipe)]
    deltas = read_reference_deltas(folder, runs)
    if not deltas:
        return {"deltas": {}, "note": "no reference runs of this recipe are kept"}
    path = folder / RECIPE_FILE
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
        differing = find_differences(recipe.model_dump(mode="json"), theirs)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; restore it, or run `make seeds`") from error
    except (OSError, AttributeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not a recipe's settings ({error!r}); restore it, or run `make seeds`") from error
    if differing:
        return {"deltas": {}, "note": f"the reference runs had another {', '.join(differing)}"}
    return {"deltas": deltas, "note": f"runs of the same recipe with other seeds: {', '.join(runs)}"}


def find_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Dotted keys of the sections that decide a delta whose values differ; seeds and ROUNDING are left out."""
    return [
        f"{section}.{key}"
        for section in DECISIVE_SECTIONS
        for key, value in ours[section].items()
        if key != "seed" and f"{section}.{key}" not in ROUNDING and theirs.get(section, {}).get(key) != value
    ]


def name_own_run(recipe: Recipe) -> str | None:
    """The reference run that a recipe would be, which draws everything with one seed; None if it has several."""
    sections = [getattr(recipe, name) for name in SEEDED_SECTIONS]
    seeds = {section.seed for section in sections if hasattr(section, "seed")}
    return f"seed_{seeds.pop()}" if len(seeds) == 1 else None


def list_runs(folder: Path) -> list[str]:
    """Names of the reference runs in `folder`, by seed."""
    return [run.name for run in sorted(folder.glob("seed_*"), key=lambda run: (len(run.name), run.name))]


def compare_with_reference(delta: float, reference: Sequence[float]) -> dict[str, Any]:
    """Whether a delta lies where a new run is expected, given the reference runs' deltas (all in points).

    The 95 % prediction interval of one new run: mean +- t(n - 1) * sd * sqrt(1 + 1/n). It needs two runs.
    """
    low, high, inside = None, None, None
    count = len(reference)
    if count > 1:
        spread = float(stdtrit(count - 1, 0.975)) * stdev(reference) * math.sqrt(1 + 1 / count)
        low, high = round(fmean(reference) - spread, _DECIMALS), round(fmean(reference) + spread, _DECIMALS)
        inside = low <= delta <= high
    return {"deltas": list(reference), "prediction_low": low, "prediction_high": high, "inside": inside}


def check_deltas(data: Any, where: str) -> dict[str, list[float]]:
    """`data` as the deltas of reference runs by claim id, in points.

    Raises:
        UserError: it is of another form, or a delta is no difference of percentages.
    """
    try:
        return _DELTAS.validate_python(data)
    except ValidationError as error:
        raise UserError(f"{where}: {explain_fault(error, 'deltas')}; restore it") from error


def read_reference_deltas(folder: Path, runs: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Claim id -> deltas of the reference runs in `folder` (`seed_<n>/claims.json`), by seed; none if no folder.

    Args:
        runs: the names of those to read; all unless given.

    Raises:
        UserError: a run without a readable `claims.json`, or with a delta that is none.
    """
    deltas: dict[str, list[float]] = {}
    for name in list_runs(folder) if runs is None else runs:
        path = folder / name / "claims.json"
        try:
            for entry in json.loads(path.read_text(encoding="utf-8")):
                if entry["delta"] is None:
                    continue
                if not abs(entry["delta"]) <= _MOST_POINTS:
                    raise ValueError(f"claim {entry['id']!r}: delta {entry['delta']} is no difference of percentages")
                deltas.setdefault(entry["id"], []).append(float(entry["delta"]))
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such file; restore it or remove the run's folder") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}: not a list of judged claims ({error!r}); restore it") from error
    return deltas
