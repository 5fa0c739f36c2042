"""How each arm was evaluated, and the refusal to compare arms that were evaluated differently.

Stage evaluate writes `evaluations.json` beside its rows: one entry an arm, in a run with several training seeds one an
arm and seed. What decides a completion beside the weights has to be the same for all of them, or a difference between
two arms could be one between two machines. `migrl verify` looks for the settings in the rows themselves too.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from migrl.errors import UserError
from migrl.files import explain_fault, read_jsonl
from migrl.grounding.boxes import Frame
from migrl.grounding.images import fit_size
from migrl.grounding.prompts import PromptStyle, build_messages, hash_messages, hash_prompts, quote_boxes
from migrl.recipe import Recipe
from migrl.running.progress_log import ProgressLog
from migrl.scoring.rows import EvaluationRow, name_arm

EVALUATIONS = "evaluations.json"
OWN_KEYS = ("arm", "seed", "weights")
"""What may differ between two entries; everything else must be equal."""

Evaluation = dict[str, Any]
_REMEDY = "evaluate all arms again in one go: `migrl evaluate --force`"
_Text = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Decoding(BaseModel):
    """What `decoding.Decoding.describe` writes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    do_sample: bool
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float
    seed: int | None
    end_tokens: list[int]
    suppressed_tokens: list[int]
    source: Literal["recipe", "checkpoint"]


class _Shape(BaseModel):
    """One entry of evaluations.json."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    arm: _Text
    seed: int | None
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    engine: _Text
    engine_version: _Text
    attention: _Text
    dtype: _Text
    device: _Text
    frame: Frame
    style: PromptStyle
    min_pixels: _Count
    max_pixels: _Count
    max_new_tokens: _Count
    decoding: _Decoding
    prompts: _Text


SETTING_KEYS = tuple(key for key in _Shape.model_fields if key not in OWN_KEYS)
"""What has to be the same for all entries."""


def describe_evaluation(
    recipe: Recipe,
    arm: str,
    seed: int | None,
    *,
    weights: str,
    version: str,
    device: str,
    decoding: Mapping[str, Any],
) -> Evaluation:
    """One entry of evaluations.json.

    Args:
        seed: the training seed, None for an arm of a recipe that names only one, and for an arm that is not trained.
        weights: SHA-256 of the arm's weights.
        version: release of the engine.
        device: name of the device that answered, `cpu` or what the GPU calls itself.
        decoding: all that decides a completion beside weights, prompt and limit.
    """
    model, settings = recipe.model, recipe.evaluate
    return {
        "arm": arm,
        "seed": seed,
        "weights": weights,
        "engine": settings.engine,
        "engine_version": version,
        # vLLM has kernels of its own and chooses one.
        "attention": model.attention if settings.engine == "transformers" else settings.engine,
        "dtype": model.dtype,
        "device": device,
        "frame": model.frame,
        "style": settings.style,
        "min_pixels": model.min_pixels,
        "max_pixels": settings.max_pixels,
        "max_new_tokens": settings.max_new_tokens,
        "decoding": {**decoding, "source": "recipe" if settings.decoding == "greedy" else "checkpoint"},
        "prompts": hash_prompts(),
    }


def note_device(path: Path, arm: str, device: str) -> None:
    """Append to a process's log that it goes on with an arm on a device.

    Raises:
        UserError: it went on with this or another arm elsewhere; better said now than after hours of evaluation.
    """
    log = ProgressLog(path)
    others = [row for row in log.rows.values() if row["device"] != device]
    if not others:
        log.append([{"uid": arm, "device": device}])
    log.close()
    if others:
        raise UserError(
            f"{path}: key 'device' is {others[0]['device']!r} for arm {others[0]['uid']!r} and {device!r} for arm "
            f"{arm!r}, which would go on here; go on where it was begun, or {_REMEDY}"
        )


def read_devices(logs: Iterable[Path], arm: str) -> str:
    """The devices that answered for an arm by the logs of its processes, joined.

    Raises:
        UserError: no process noted the arm.
    """
    found = {str(row["device"]) for path in logs for row in read_jsonl(path) if row["uid"] == arm}
    if not found:
        raise UserError(f"arm {arm!r}: no process noted on which device it answered; {_REMEDY}")
    return ", ".join(sorted(found))


def read_evaluations(path: Path) -> list[Evaluation]:
    """The content of evaluations.json, its arms comparable.

    Raises:
        UserError: the file is missing, torn, empty or of another form, or as `check_evaluations`.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file, so nobody knows whether all arms were evaluated alike; evidence of older code has "
            "none: run `migrl reproduce` again, or restore the file"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: torn or not JSON ({error}); restore it or {_REMEDY}") from error
    if not isinstance(data, list):
        raise UserError(f"{path}: must be a JSON list, not {type(data).__name__}; restore it or {_REMEDY}")
    if not data:
        raise UserError(f"{path}: names no arm, so nobody knows how any was evaluated; restore it or {_REMEDY}")
    for number, entry in enumerate(data, 1):
        try:
            _Shape.model_validate(entry)
        except ValidationError as error:
            raise UserError(f"{path}, entry {number}: {explain_fault(error)}; restore it or {_REMEDY}") from error
    check_evaluations(data)
    return data


def check_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Refuse arms that were evaluated differently.

    Raises:
        UserError: an (arm, seed) comes twice, or a key beside OWN_KEYS differs; every such key is named with both
            values and both arms.
    """
    for one, other in combinations(evaluations, 2):
        if (one["arm"], one["seed"]) == (other["arm"], other["seed"]):
            raise UserError(f"{_name(one)}: evaluated twice; remove one of its two entries")
    for other in evaluations[1:]:
        one = evaluations[0]
        different = [
            f"key {key!r} is {one.get(key)!r} for {_name(one)} and {other.get(key)!r} for {_name(other)}"
            for key in sorted((one.keys() | other.keys()) - set(OWN_KEYS))
            if one.get(key) != other.get(key) or (key in one) != (key in other)
        ]
        if different:
            raise UserError(f"arms were evaluated differently, no verdict follows: {'; '.join(different)}; {_REMEDY}")


def _name(evaluation: Evaluation) -> str:
    return name_arm(evaluation["arm"], evaluation["seed"])


def check_rows_fit(evaluations: Sequence[Evaluation], rows: Sequence[EvaluationRow]) -> None:
    """Refuse rows that the evaluations do not describe; what they say is looked for in every row.

    Raises:
        UserError: another set of arms and seeds, or a row whose frame, resized sizes, length or prompt do not come
            from the stated settings. Prompts are compared where the evaluation used this version's texts.
    """
    described = {(entry["arm"], entry["seed"]): entry for entry in evaluations}
    answered = dict.fromkeys((row.arm, row.seed) for row in rows)
    for pair in sorted(described.keys() ^ answered.keys(), key=str):
        where = "samples but not in evaluations.json" if pair in answered else "evaluations.json but has no samples"
        raise UserError(f"{name_arm(*pair)}: is in the {where}; {_REMEDY}")
    known_prompts = {pair: entry["prompts"] == hash_prompts() for pair, entry in described.items()}
    for row in rows:
        pair = (row.arm, row.seed)
        entry = described[pair]
        fault = _find_fault(entry, row, known_prompts[pair])
        if fault:
            raise UserError(f"{row.who}, sample {row.sample.uid!r}: {fault}, by evaluations.json; {_REMEDY}")


def _find_fault(entry: Evaluation, row: EvaluationRow, known_prompts: bool) -> str:
    """What in a row does not come from an evaluation's settings, or an empty text."""
    if row.frame != entry["frame"]:
        return f"key 'frame' is {row.frame!r}, but {entry['frame']!r}"
    for size, resized in zip(row.sample.sizes, row.resized_sizes, strict=True):
        try:
            expected = _resize(*size, entry["min_pixels"], entry["max_pixels"])
        except ValueError as error:
            return f"key 'sizes': {error}"
        if resized != expected:
            limits = f"{entry['min_pixels']} to {entry['max_pixels']} pixels"
            found = f"{list(resized)} for an image of {list(size)}"
            return f"key 'resized_sizes' has {found}, but {limits} give {list(expected)}"
    limit = entry["max_new_tokens"]
    if row.tokens > limit or (row.truncated and row.tokens < limit):
        cut = "cut at " if row.truncated else ""
        return f"key 'tokens' is {cut}{row.tokens}, but max_new_tokens {limit}"
    if known_prompts and row.prompt_hash != (expected_hash := _hash_prompt(entry["style"], row)):
        return f"key 'prompt_hash' is {row.prompt_hash!r}, but {expected_hash!r}"
    return ""


@cache
def _resize(width: int, height: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    return fit_size((width, height), min_pixels=min_pixels, max_pixels=max_pixels)


def _hash_prompt(style: PromptStyle, row: EvaluationRow) -> str:
    """The hash of the prompt that a row's question gives, by the same steps as an evaluation takes."""
    sample = row.sample
    sizes = {"original_size": sample.sizes[0], "resized_size": row.resized_sizes[0]}
    question = quote_boxes(sample.question, row.frame, **sizes)
    return hash_messages(build_messages(question, len(sample.images), style, sample.kind))
