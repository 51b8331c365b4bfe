"""The problems of HumanEval, or of a file of the same form, as text; nothing of them is run here."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.contract.errors import UserError

FILE = Path(__file__).resolve().parents[2] / "assets" / "humaneval" / "HumanEval.jsonl.gz"
MAX_BYTES = 256 << 20
"""Of a decoded file; that of HumanEval has a quarter of a megabyte."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; the names of the fields are the benchmark's own."""

    task_id: str
    prompt: str
    """Imports, signature and docstring."""
    canonical_solution: str
    test: str
    """Defines `check(candidate)`."""
    entry_point: str
    """Name of the function."""


@lru_cache(maxsize=1)
def load_humaneval() -> tuple[Problem, ...]:
    """Return the 164 problems in their order."""
    return read_problems(FILE)


def read_problems(path: Path) -> tuple[Problem, ...]:
    """Return the problems of a JSONL file, plain or gzip; further fields of a line are left alone.

    Raises:
        UserError: If it cannot be read, or a line is no problem of this form.
    """
    fix = f"each line needs {', '.join(field.name for field in fields(Problem))}, as texts."
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        lines = raw.decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"The problems in {path} cannot be read: {why}.", fix="give a JSONL file in UTF-8.") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path} holds more than {MAX_BYTES >> 20} MiB.", fix="give fewer problems.")
    found: dict[str, Problem] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        problem = _problem(line)
        if problem is None or problem.task_id in found:
            what = "is no problem of HumanEval's form" if problem is None else "has the task_id of another line"
            raise UserError(f"{path}: line {number} {what}.", fix=fix)
        found[problem.task_id] = problem
    if not found:
        raise UserError(f"{path} holds no problem.", fix=fix)
    return tuple(found.values())


def _problem(line: str) -> Problem | None:
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    values = [row.get(field.name) for field in fields(Problem)] if isinstance(row, dict) else []
    if not values or not all(isinstance(value, str) for value in values):
        return None
    problem = Problem(*values)
    return problem if problem.task_id and problem.prompt.strip() and problem.entry_point.isidentifier() else None
