"""The problems of HumanEval as text; nothing of them is run here."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "assets" / "humaneval" / "HumanEval.jsonl.gz"
MAX_BYTES = 4 << 20
"""The file decodes to a quarter of a megabyte."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; the names of the fields are the benchmark's own."""

    task_id: str
    prompt: str
    """Imports, signature and docstring."""
    canonical_solution: str
    test: str
    entry_point: str


@lru_cache(maxsize=1)
def load_humaneval() -> tuple[Problem, ...]:
    """Return the 164 problems in their order."""
    with gzip.open(FILE, "rb") as file:
        lines = file.read(MAX_BYTES).decode("utf-8").splitlines()
    return tuple(Problem(**json.loads(line)) for line in lines if line.strip())
