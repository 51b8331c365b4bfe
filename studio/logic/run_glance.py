"""A run at a glance: its recipe, sparkline and evaluations, without parsing every row; kept until the file grows.

Of a metrics file only the rows with an evaluation and `POINTS` others, evenly spaced, are parsed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.contract.best import best_and_stall, evaluations
from engine.contract.recipe import Recipe
from engine.contract.rundir import RunDir

POINTS = 40
KEPT = 1024


@dataclass(frozen=True, slots=True)
class Glance:
    """What a list shows of a run's metrics."""

    spark: tuple[float, ...] = ()
    """Training loss, evenly spaced over the run, at most `POINTS` values."""
    eval_loss: float | None = None
    """Newest mean evaluation loss, nats per token."""
    best: float | None = None
    """Lowest value of the metric that chooses the best checkpoint, nats per token."""
    best_step: int = 0


def glance(run: RunDir, metric: str) -> Glance:
    """Return what a list shows of a run's metrics."""
    try:
        stat = run.metrics_file.stat()
    except OSError:
        return Glance()
    return _glance(run.metrics_file, stat.st_size, stat.st_mtime_ns, metric)


def recipe_of(run: RunDir) -> Recipe:
    """Return the frozen recipe of a run, parsed once.

    Raises:
        UserError: If it is missing or unreadable.
    """
    try:
        stat = run.recipe_file.stat()
    except OSError:
        return run.recipe()
    return _recipe(run.path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=KEPT)
def _recipe(path: Path, size: int, mtime_ns: int) -> Recipe:
    return RunDir(path).recipe()


@lru_cache(maxsize=KEPT)
def _glance(path: Path, size: int, mtime_ns: int, metric: str) -> Glance:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return Glance()
    evals = [row for line in lines if b'"eval/loss"' in line and (row := _row(line))]
    train = [line for line in lines if b'"train/loss"' in line]
    every = max(1, -(-len(train) // POINTS))
    chosen = train[::-1][::every][::-1]  # the newest is always among them
    losses = (row.get("train/loss") for line in chosen if (row := _row(line)))
    values = evaluations(evals, metric)
    step, _ = best_and_stall(values)
    newest = next((row["eval/loss"] for row in reversed(evals) if isinstance(row.get("eval/loss"), float | int)), None)
    return Glance(
        spark=tuple(round(loss, 4) for loss in losses if isinstance(loss, (int, float))),
        eval_loss=newest,
        best=dict(values).get(step) if step else None,
        best_step=step,
    )


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
