"""State files back into dataclasses: what is broken, missing or of another version takes its default.

{"state": "running", "step": "many", "new": 1}  ->  Status(state="running", step=0)
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


def restore(kind: type[T], value: Any) -> T | None:
    """Return a dataclass with the fields of a JSON object that are what they should be.

    Args:
        kind: A dataclass with a default for what may be missing.
        value: What was read.

    Returns:
        None if the value is no object, or a field without default is missing or wrong.
    """
    if not isinstance(value, dict):
        return None
    found = {}
    hashable: Any = kind
    for name, (adapter, required) in _adapters(hashable).items():
        try:
            found[name] = adapter.validate_python(value[name])
        except (KeyError, ValidationError):
            if required:
                return None
    return kind(**found)


@cache
def _adapters(kind: Any) -> dict[str, tuple[TypeAdapter[Any], bool]]:
    hints = get_type_hints(kind)
    return {
        field.name: (TypeAdapter(hints[field.name]), field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }
