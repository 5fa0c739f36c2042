"""What every part of a recipe is: frozen, and refusing keys it does not know."""

from typing import Annotated

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
