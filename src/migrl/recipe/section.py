"""What every part of a recipe is: frozen, and refusing keys it does not know."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A frozen part of a recipe; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def check_divides(small_key: str, small: int, large_key: str, large: int) -> None:
    """Refuse a micro-batch that does not divide its batch, and print the legal values."""
    if large % small:
        legal = ", ".join(str(n) for n in range(1, large + 1) if large % n == 0)
        raise ValueError(f"{small_key}={small} does not divide {large_key}={large}; legal values: {legal}")


def dump_whole(value: Any) -> Any:
    """A section as JSON data with every setting, also those that `model_dump` leaves out: no result depends on them."""
    if isinstance(value, BaseModel):
        return {name: dump_whole(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, tuple | list):
        return [dump_whole(item) for item in value]
    if isinstance(value, dict):
        return {key: dump_whole(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value
