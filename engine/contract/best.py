"""Which evaluation was the best, and which checkpoint holds it; pure arithmetic over rows of metrics.

rows with `eval/loss` -> (step, value) of the chosen metric -> best step, evaluations since then
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.contract.metrics import task_key
from engine.contract.rundir import RunDir

Row = Mapping[str, Any]


def metric_key(metric: str) -> str:
    """Return the key of `record.metric_for_best_model`: a task's evaluation loss, or the mean of all."""
    return "eval/loss" if metric == "mean" else task_key(metric, "eval_loss")


def evaluations(rows: Iterable[Row], metric: str) -> list[tuple[int, float]]:
    """Return (step, nats per token) of every evaluation, in the order of the steps; the later row of a step wins.

    The evaluation of the base model (step 0) is left out: no checkpoint holds it. So is what is not a number.
    """
    key = metric_key(metric)
    found = {int(row["step"]): row[key] for row in rows if isinstance(row.get(key), (int, float)) and row["step"] > 0}
    return sorted((step, float(value)) for step, value in found.items())


def best_and_stall(values: Iterable[tuple[int, float]], threshold: float = 0.0) -> tuple[int, int]:
    """Return the step of the lowest value, the first of equals, and the evaluations since the last improvement.

    Args:
        values: Of `evaluations`.
        threshold: An evaluation improves if it is lower than all before by more than this.

    Returns:
        (0, 0) if there is none.
    """
    best_step, lowest, mark, stall = 0, float("inf"), float("inf"), 0
    for step, value in values:
        if value < lowest:
            best_step, lowest = step, value
        if value < mark - threshold:
            mark, stall = value, 0
        else:
            stall += 1
    return best_step, stall


def best_checkpoint(run: RunDir) -> Path | None:
    """Return the saved checkpoint with the best evaluation, or None if none was evaluated."""
    saved = {int(path.name[5:]): path for path in run.checkpoint_dirs()}
    values = evaluations(run.metrics()[0], run.recipe().record.metric_for_best_model)
    step, _ = best_and_stall((step, value) for step, value in values if step in saved)
    return saved.get(step)
