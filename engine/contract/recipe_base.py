"""What all sections of the recipe are made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _strict_number(value: object) -> object:
    """Refuse booleans where a number belongs: `true` would silently become 1."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true/false")
    return value


Number = Annotated[float, BeforeValidator(_strict_number)]
Count = Annotated[int, BeforeValidator(_strict_number)]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values are frozen, docstrings are help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class MisplacedValue(ValueError):
    """A value that is wrong because of another one; `field` is the one to change."""

    def __init__(self, problem: str, field: str) -> None:
        super().__init__(problem)
        self.field = field
