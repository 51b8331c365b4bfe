"""Metric rows -> the series of a chart, thinned so that nothing that matters is lost.

Thinning cuts the rows into equal runs and keeps, of each, the first and last row and those where the total loss is
lowest and highest: first, last, minimum and maximum survive, and all tasks keep one common x axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.contract.metrics import task_key

MAX_POINTS = 800
RUN_SERIES = {
    "total": "train/loss",
    "learning_rate": "optim/learning_rate",
    "grad_norm": "optim/grad_norm",
    "speed": "perf/tokens_per_second",
    "memory": "perf/memory_bytes",
}
"""Curves of the run as a whole, and their metric."""

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
    """Return the training curves of rows with `train/loss`: three x, one y per task; None where a task was absent.

    `time` is s since 1970 and `tokens` those seen until then, prompts included.
    """
    return {
        "step": [row["step"] for row in rows],
        "time": [row.get("time") for row in rows],
        "tokens": [row.get("tokens_seen") for row in rows],
        "run": {name: [row.get(key) for row in rows] for name, key in RUN_SERIES.items()},
        "tasks": [[row.get(task_key(name, "loss")) for row in rows] for name in tasks],
    }


def eval_series(rows: Sequence[Row], tasks: Sequence[str]) -> dict[str, Any]:
    """Return the evaluation curves of rows that hold `eval/loss`."""
    return {
        "step": [row["step"] for row in rows],
        "tasks": [[row.get(task_key(name, "eval_loss")) for row in rows] for name in tasks],
    }
