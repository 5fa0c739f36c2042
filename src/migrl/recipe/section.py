"""What every part of a recipe is: frozen, refusing keys it does not know, and numbers that are none.

Bounds without another reason lie far beyond any use and within what the libraries take: a slip is told at once, and
not after hours.
"""

import math
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _refuse_truth(value: Any) -> Any:
    if isinstance(value, bool):  # which Python counts as 0 or 1
        raise ValueError("must be a number")
    return value


def _refuse_greedy(value: float) -> float:
    if value == 0:
        raise ValueError("0 is greedy, so that all rollouts of a sample would be one text; set it above 0")
    return value


Count = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Batch = Annotated[int, Field(strict=True, ge=1, le=10**6)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]  # numpy takes no larger one
Number = Annotated[float, BeforeValidator(_refuse_truth)]
Rate = Annotated[Number, Field(ge=0, le=1)]
Share = Annotated[Number, Field(gt=0, le=1)]
Temperature = Annotated[Number, AfterValidator(_refuse_greedy), Field(gt=0, le=2)]
LearningRate = Annotated[Number, Field(gt=0, le=1)]
Weight = Annotated[Number, Field(ge=0, le=1000)]
Seconds = Annotated[Number, Field(gt=0, le=7 * 86400)]


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


def check_divides(small_key: str, small: int, large_key: str, large: int) -> None:
    """Refuse a micro-batch that does not divide its batch, and print the legal values."""
    if large % small:
        legal = ", ".join(map(str, list_divisors(large)))
        raise ValueError(f"{small_key}={small} does not divide {large_key}={large}; legal values: {legal}")


def list_divisors(number: int) -> list[int]:
    """Every divisor of a whole number, ascending; none of 0."""
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def dump_whole(value: Any) -> Any:
    """A section as JSON data with every setting, also those that `model_dump` leaves out: no result depends on them."""
    if isinstance(value, BaseModel):
        return {name: dump_whole(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple | list):
        return [dump_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: dump_whole(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
