"""One line of the task editor on the New run page: to the browser and back as JSON, and into the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EDITED = ("weight", "mixing_weight", "max_samples", "max_epochs")
"""Fields of a recipe's task with a widget in the editor."""
FROM_DATASETS = ("name", "path", "eval_path", "columns")
"""Those that come with the task from the Datasets page or a recipe, and go back as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChoice:
    """One line of the task editor; travels to the browser and back as JSON."""

    name: str
    path: str
    eval_path: str = ""
    kind: str = "upload"
    checked: bool = False
    weight: float | str = 1.0
    """A string only if somebody typed no number; the schema refuses it by name."""
    max_samples: int | float | str | None = None
    mixing_weight: float | str = 1.0
    max_epochs: float | str | None = None
    columns: Mapping[str, str] | None = None
    num_used: int = 0
    num_records: int = 0
    num_bytes: int = 0
    problem: str = ""
    """Why it cannot be chosen; empty if it can."""

    def as_json(self) -> dict[str, Any]:
        """Return plain values for the browser."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def read(cls, value: Any) -> TaskChoice | None:
        """Rebuild from what the browser sent; None for anything else."""
        if (
            not isinstance(value, Mapping)
            or not isinstance(value.get("name"), str)
            or not isinstance(value.get("path"), str)
        ):
            return None
        numbers = {key: _whole(value.get(key)) for key in ("num_used", "num_records", "num_bytes")}
        columns = value.get("columns")
        return cls(
            name=value["name"],
            path=value["path"],
            eval_path=str(value.get("eval_path") or ""),
            kind=str(value.get("kind") or "file"),
            checked=value.get("checked") is True,
            weight=_number(value.get("weight")),
            max_samples=_limit(value.get("max_samples")),
            mixing_weight=_number(value.get("mixing_weight", 1.0)),
            max_epochs=_limit(value.get("max_epochs")),
            columns={str(role): str(name) for role, name in columns.items()} if isinstance(columns, Mapping) else None,
            problem=str(value.get("problem") or ""),
            **numbers,
        )


def task_values(task: TaskChoice) -> dict[str, Any]:
    """Return the recipe values of a task; what is as by default is left out."""
    values: dict[str, Any] = {"name": task.name, "path": task.path, "weight": task.weight}
    if task.eval_path:
        values["eval_path"] = task.eval_path
    if task.max_samples is not None:
        values["max_samples"] = task.max_samples
    if task.mixing_weight != 1.0:
        values["mixing_weight"] = task.mixing_weight
    if task.max_epochs is not None:
        values["max_epochs"] = task.max_epochs
    if task.columns:
        values["columns"] = dict(task.columns)
    return values


def _number(value: Any) -> float | str:
    """Return a number, or what was typed instead: the schema refuses it by name."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return str(value or "")


def _limit(value: Any) -> int | float | str | None:
    """Return a number, whole where it can be; None for an empty field; else what was typed, to be refused by name."""
    if value is None or value == "":
        return None
    number = _number(value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53 else 0
