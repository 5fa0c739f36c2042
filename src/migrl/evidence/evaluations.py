"""How each arm was evaluated, and the refusal to compare arms that were evaluated differently.

Stage evaluate writes `evaluations.json` beside its rows: one entry an arm, in a run with several training seeds one an
arm and seed. What decides a completion beside the weights has to be the same for all of them, or a difference between
two arms could be one between two machines. `migrl verify` looks for the settings in the rows themselves too.

An arm that someone serves is another machine by nature, of which little is known. It was asked what the others were, so
its scores stand beside theirs; how it answered it has for itself, and no claim is judged over it (claims/paired.py).
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from migrl.errors import UserError
from migrl.files import explain_fault, hash_json, read_jsonl
from migrl.grounding.boxes import PIXEL_FACTOR, Frame
from migrl.grounding.prompts import PromptStyle, TargetKind, hash_prompts
from migrl.recipe import Recipe
from migrl.running.progress_log import ProgressLog
from migrl.scoring.rows import name_arm

EVALUATIONS = "evaluations.json"
OWN_KEYS = ("arm", "seed", "weights")
"""What may differ between two entries; everything else must be equal."""
ASKED_KEYS = ("frame", "style", "min_pixels", "max_pixels", "pixel_factor", "max_new_tokens", "prompts")
"""What must be equal where one of the two arms is served."""
SERVER = "server"
UNTOLD = "not told"

Evaluation = dict[str, Any]
REMEDY = "evaluate all arms again in one go: `migrl evaluate --force`"
_Text = Annotated[str, Field(min_length=1)]
_Count = Annotated[int, Field(ge=1, le=2**31 - 1)]


class _Decoding(BaseModel):
    """What `decoding.Decoding.describe` writes; of a server None, too, where nobody knows (`_Server.untold`)."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)

    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    repetition_penalty: float | None
    seed: int | None
    end_tokens: list[int] | None
    suppressed_tokens: list[int] | None
    source: Literal["recipe", "checkpoint"]


class _Server(BaseModel):
    """What `engines.server.engine.ServerEngine.describe` writes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    model: _Text
    models: list[str]
    fingerprints: list[str]
    pictures: Literal["resized", "original"]
    untold: list[str]


class _Shape(BaseModel):
    """One entry of evaluations.json."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    arm: _Text
    seed: int | None
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    engine: _Text
    engine_version: _Text
    attention: _Text
    dtype: _Text
    device: _Text
    frame: Frame
    style: PromptStyle
    min_pixels: _Count
    max_pixels: _Count
    pixel_factor: _Count = PIXEL_FACTOR
    max_new_tokens: _Count
    decoding: _Decoding
    prompts: _Text
    server: _Server | None = None

    @model_validator(mode="after")
    def _check_server(self) -> Self:
        served, known = self.engine == SERVER, (self.weights is None, self.server is not None)
        if known != (served, served):
            raise ValueError(f"engine {self.engine}: a served arm has a server and no weights, any other weights alone")
        return self


SETTING_KEYS = tuple(key for key in _Shape.model_fields if key not in OWN_KEYS)
"""What has to be the same for all entries, but for those of served arms."""


def describe_evaluation(
    recipe: Recipe,
    arm: str,
    seed: int | None,
    *,
    weights: str,
    version: str,
    device: str,
    decoding: Mapping[str, Any],
    pixel_factor: int = PIXEL_FACTOR,
    kinds: Collection[TargetKind] = (),
) -> Evaluation:
    """One entry of evaluations.json.

    Args:
        seed: the training seed, None for an arm of a recipe that names only one, and for an arm that is not trained.
        weights: SHA-256 of the arm's weights.
        version: release of the engine.
        device: name of the device that answered, `cpu` or what the GPU calls itself.
        decoding: all that decides a completion beside weights, prompt and limit.
        pixel_factor: side in px of what becomes one token of a picture; written where it is not PIXEL_FACTOR.
        kinds: of the samples; the texts that ask for a list count only where they are read.
    """
    model, engine = recipe.model, recipe.evaluate.engine
    return {
        "arm": arm,
        "seed": seed,
        "weights": weights,
        "engine": engine,
        "engine_version": version,
        # vLLM has kernels of its own and chooses one.
        "attention": model.attention if engine == "transformers" else engine,
        "dtype": model.dtype,
        "device": device,
        **_describe_asking(recipe, decoding, pixel_factor, kinds),
    }


def describe_served(
    recipe: Recipe,
    arm: str,
    *,
    device: str,
    decoding: Mapping[str, Any],
    server: Mapping[str, Any],
    pixel_factor: int = PIXEL_FACTOR,
    kinds: Collection[TargetKind] = (),
) -> Evaluation:
    """The entry of an arm that someone serves.

    Args:
        device: the address, or addresses, that answered.
        decoding: as above, None where the server decides.
        server: what is known of it, as `_Server` says.
        pixel_factor: as above.
        kinds: as above.
    """
    return {
        "arm": arm,
        "seed": None,
        "weights": None,
        "engine": SERVER,
        **dict.fromkeys(("engine_version", "attention", "dtype"), UNTOLD),
        "device": device,
        **_describe_asking(recipe, decoding, pixel_factor, kinds),
        "server": dict(server),
    }


def _describe_asking(
    recipe: Recipe, decoding: Mapping[str, Any], pixel_factor: int, kinds: Collection[TargetKind]
) -> dict[str, Any]:
    model, settings = recipe.model, recipe.evaluate
    return {
        "frame": model.frame,
        "style": settings.style,
        "min_pixels": model.min_pixels,
        "max_pixels": settings.max_pixels,
        **({} if pixel_factor == PIXEL_FACTOR else {"pixel_factor": pixel_factor}),
        "max_new_tokens": settings.max_new_tokens,
        "decoding": {**decoding, "source": "recipe" if settings.decoding == "greedy" else "checkpoint"},
        "prompts": hash_prompts(kinds) if settings.form is None else hash_json(settings.form.model_dump())[:16],
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
            f"{arm!r}, which would go on here; go on where it was begun, or {REMEDY}"
        )


def read_devices(logs: Iterable[Path], arm: str) -> str:
    """The devices that answered for an arm by the logs of its processes, joined.

    Raises:
        UserError: no process noted the arm.
    """
    found = {str(row["device"]) for path in logs for row in read_jsonl(path) if row["uid"] == arm}
    if not found:
        raise UserError(f"arm {arm!r}: no process noted on which device it answered; {REMEDY}")
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
        raise UserError(f"{path}: torn or not JSON ({error}); restore it or {REMEDY}") from error
    if not isinstance(data, list):
        raise UserError(f"{path}: must be a JSON list, not {type(data).__name__}; restore it or {REMEDY}")
    if not data:
        raise UserError(f"{path}: names no arm, so nobody knows how any was evaluated; restore it or {REMEDY}")
    for number, entry in enumerate(data, 1):
        try:
            _Shape.model_validate(entry)
        except ValidationError as error:
            raise UserError(f"{path}, entry {number}: {explain_fault(error)}; restore it or {REMEDY}") from error
    check_evaluations(data)
    return data


def check_evaluations(evaluations: Sequence[Evaluation]) -> None:
    """Refuse arms that were evaluated differently.

    Raises:
        UserError: an (arm, seed) comes twice, or a key differs: of arms with weights any beside OWN_KEYS, of others
            one of ASKED_KEYS. Every such key is named with both values and both arms.
    """
    for one, other in combinations(evaluations, 2):
        if (one["arm"], one["seed"]) == (other["arm"], other["seed"]):
            raise UserError(f"{_name(one)}: evaluated twice; remove one of its two entries")
    for other in evaluations:
        one = next((entry for entry in evaluations if entry["engine"] != SERVER), evaluations[0])
        alone = SERVER in (one["engine"], other["engine"])
        keys = ASKED_KEYS if alone else sorted((one.keys() | other.keys()) - set(OWN_KEYS))
        different = [
            f"key {key!r} is {one.get(key)!r} for {_name(one)} and {other.get(key)!r} for {_name(other)}"
            for key in keys
            if one.get(key) != other.get(key) or (key in one) != (key in other)
        ]
        if different:
            raise UserError(f"arms were evaluated differently, no verdict follows: {'; '.join(different)}; {REMEDY}")


def _name(evaluation: Evaluation) -> str:
    return name_arm(evaluation["arm"], evaluation["seed"])
