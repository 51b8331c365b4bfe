"""Metric rows -> the series of a chart, thinned so that nothing that matters is lost.

Thinning cuts the rows into equal runs and keeps, of each, the first and last row and those where the total loss is
lowest and highest: first, last, minimum and maximum survive, and all tasks keep one common x axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.contract.metrics import task_key

MAX_POINTS = 800

Row = dict[str, Any]


def thin(rows: Sequence[Row], key: str, *, limit: int = MAX_POINTS) -> list[Row]:
    """Return at most `limit` of the rows, in order.

    Args:
        rows: Rows sorted by step.
        key: Metric whose extremes are kept.
        limit: At least 4.
    """
    if len(rows) <= limit:
        return list(rows)
    runs = max(1, limit // 4)
    width = -(-len(rows) // runs)
    kept: list[Row] = []
    for start in range(0, len(rows), width):
        part = range(start, min(start + width, len(rows)))
        known = [i for i in part if rows[i].get(key) is not None]
        chosen = {part[0], part[-1]}
        if known:
            chosen |= {min(known, key=lambda i: rows[i][key]), max(known, key=lambda i: rows[i][key])}
        kept += [rows[i] for i in sorted(chosen)]
    return kept


def train_series(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, Any]:
    """Return the training curves of rows with `train/loss`: one x, one y per task; None where a task was absent."""
    return {
        "step": [row["step"] for row in rows],
        "total": [row.get("train/loss") for row in rows],
        "tasks": [[row.get(task_key(name, "loss")) for row in rows] for name in tasks],
    }


def eval_series(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, Any]:
    """Return the evaluation curves of rows that hold `eval/loss`."""
    return {
        "step": [row["step"] for row in rows],
        "total": [row.get("eval/loss") for row in rows],
        "tasks": [[row.get(task_key(name, "eval_loss")) for row in rows] for name in tasks],
    }
