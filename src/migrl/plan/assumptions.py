"""`reproduce/plan.yaml`: what a plan takes for granted; the file has the source of each figure."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from migrl.files import ROOT, Strict
from migrl.yaml_file import load_model

PLAN_FILE = ROOT / "reproduce" / "plan.yaml"
Positive = Annotated[float, Field(gt=0)]


def _check_shares(span: tuple[float, float]) -> tuple[float, float]:
    if not span[0] <= span[1] <= 1:
        raise ValueError("write [low, high], shares of 1")
    return span


class Efficiency(Strict):
    """The share of a GPU's peak that is reached, from low to high."""

    range: Annotated[tuple[Positive, Positive], AfterValidator(_check_shares)]
    basis: Literal["assumed", "measured"] = "assumed"


class Efficiencies(Strict):
    train_lora: Efficiency
    train_full: Efficiency
    prefill: Efficiency
    decode_transformers: Efficiency
    decode_adapter: Efficiency
    decode_vllm: Efficiency


class Margins(Strict):
    """GB of a process beside its tensors, on the GPU and on the host; `margin` of what comes and goes on top."""

    overhead_gb: float
    margin: float
    host_overhead_gb: float
    host_overhead_cpu_gb: float


class TextLengths(Strict):
    """Tokens that every prompt or completion has, whatever the data set."""

    template_tokens: int
    tokens_per_image_extra: int
    completion_tokens: int
    characters_per_token: float


class VllmCosts(Strict):
    """What is taken for granted of vLLM; `prepare_seconds` are from low to high."""

    step_tokens: Annotated[int, Field(ge=1)]
    step_tokens_grpo: Annotated[int, Field(ge=1)]
    prepare_seconds: tuple[Positive, Positive]
    sync_passes: Positive


class SetLengths(Strict):
    """Pictures per question, each as large as the limit allows, and tokens of its text."""

    images: Positive
    max_images: Annotated[int, Field(ge=1)]
    text_tokens: int


class Assumptions(Strict):
    """The whole file."""

    shapes: dict[str, Path]
    gpu: str
    efficiency: Efficiencies
    network_gbit: Positive
    memory: Margins
    vllm: VllmCosts
    lengths: TextLengths
    sets: dict[str, SetLengths]


def load_assumptions(path: Path = PLAN_FILE) -> Assumptions:
    """Read the file.

    Raises:
        UserError: no such file, no YAML, an unknown key or a bad value; it names file and key.
    """
    return load_model(path, Assumptions)
