"""`reproduce/plan.yaml`: efficiencies and lengths that a plan takes for granted, each with its source."""

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from migrl.errors import UserError
from migrl.files import ROOT, Strict, explain_fault
from migrl.yaml_file import read_yaml

PLAN_FILE = ROOT / "reproduce" / "plan.yaml"
Positive = Annotated[float, Field(gt=0)]
_Model = TypeVar("_Model", bound=BaseModel)


class Efficiency(Strict):
    """The share of a peak that is reached, from low to high, where that is from, and whether somebody measured it."""

    range: tuple[Positive, Positive]
    source: str
    basis: Literal["assumed", "measured"] = "assumed"

    @model_validator(mode="after")
    def check_order(self) -> Self:
        low, high = self.range
        if not low <= high <= 1:
            raise ValueError("range: [low, high], shares of 1")
        return self


class Efficiencies(Strict):
    train_lora: Efficiency
    train_full: Efficiency
    prefill: Efficiency
    decode_transformers: Efficiency
    decode_adapter: Efficiency
    decode_vllm: Efficiency


class MachineChoice(Strict):
    """The GPU that is planned for where none is found and none is given."""

    gpu: str
    source: str


class MemoryExtras(Strict):
    overhead_gb: float
    fragmentation: float
    host_overhead_gb: float
    host_overhead_cpu_gb: float


class TextLengths(Strict):
    """Tokens that every prompt or completion has, whatever the data set."""

    template_tokens: int
    tokens_per_image_extra: int
    tokens_per_word: float
    answer_tokens: int
    completion_tokens: int
    characters_per_token: float


class SetLengths(Strict):
    """Pictures a question and tokens of its text; `pixels` a picture, null for as many as the limit allows."""

    images: Positive
    max_images: Annotated[int, Field(ge=1)]
    text_tokens: int
    pixels: int | None = None
    source: str


class Assumptions(Strict):
    """The whole file."""

    shapes: dict[str, Path]
    machine: MachineChoice
    efficiency: Efficiencies
    network_gbit: Positive
    memory: MemoryExtras
    lengths: TextLengths
    sets: dict[str, SetLengths]


def load_assumptions(path: Path = PLAN_FILE) -> Assumptions:
    """Read the file.

    Raises:
        UserError: no such file, no YAML, an unknown key or a bad value; it names file and key.
    """
    try:
        return Assumptions.model_validate(read_yaml(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; restore it from the repository") from error
    except ValidationError as error:
        raise UserError(f"{path}: {explain_fault(error)}; correct the file") from error
