"""What others published of HumanEval, as rows to stand beside what was measured here."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from engine.contract.eval_matrix import Matrix, shown

FILE = Path(__file__).resolve().parents[2] / "assets" / "humaneval" / "published.yaml"
BENCHMARK = "humaneval"
MEASURE = "pass@1"


def beside(matrix: Matrix) -> dict[str, Any] | None:
    """Return this run's greedy pass@1 and the published ones in one order, best first; None if it was not measured."""
    row = next((r for r in matrix.rows if (r.dataset, r.measure.name) == (BENCHMARK, MEASURE)), None)
    if row is None:
        return None
    source, rows = _published()
    mine = [
        {"model": label, "value": shown(row.measure, cell.found.value), "date": "", "published": False}
        for label, cell in zip(matrix.columns, row.cells, strict=True)
        if cell is not None
    ]
    ordered = sorted([*mine, *rows], key=lambda r: (-float(r["value"]), r["published"]))
    return {"source": source, "rows": ordered, "num_examples": row.num_examples}


@lru_cache(maxsize=1)
def _published() -> tuple[str, list[dict[str, Any]]]:
    told = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    rows = [
        {"model": r["model"], "value": f"{r['pass_at_1']:.1f}", "date": r["date"], "published": True}
        for r in told["rows"]
    ]
    return told["source"], rows
