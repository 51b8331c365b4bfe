"""What the numbers of a run say while it learns: the best evaluation so far, tasks that spike or break.

Pure arithmetic over rows; `engine.train.callbacks` acts on it.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from engine.contract.metrics import task_key
from engine.train.weighting.slopes import slope

SLOPE_EVALUATIONS = 5
"""Evaluations that a task's convergence slope is taken over."""
RECENT = 20
"""Logged rows that a spike stands out from."""
SPIKE_DEVIATIONS, SPIKE_RATIO = 6.0, 1.5
"""A spike is above the recent median by so many median deviations, and by this factor."""


class LossWatch:
    """Tells spikes of a task's training loss."""

    def __init__(self) -> None:
        self._recent: dict[str, deque[float]] = {}

    def spikes(self, losses: Mapping[str, float]) -> list[str]:
        """Take the losses of a row and return the tasks that are far above what they were.

        Args:
            losses: Mean nll of the tasks that were present, nats per token.
        """
        found = []
        for name, loss in losses.items():
            past = self._recent.setdefault(name, deque(maxlen=RECENT))
            if not math.isfinite(loss):
                continue
            if len(past) == RECENT:
                usual = statistics.median(past)
                spread = statistics.median(abs(value - usual) for value in past)
                if loss > usual + SPIKE_DEVIATIONS * spread and loss > SPIKE_RATIO * usual:
                    found.append(name)
            past.append(loss)
        return found


def convergence(history: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """Return how a task's held-out loss moves: its share of the start, and the slope of that share.

    Args:
        history: Evaluation rows, oldest first; the last one is now.
        name: The task.

    Returns:
        `relative_loss` (1 = as at the start) and, after two evaluations, `slope` (change of it per 100 steps, by least
        squares over the last `SLOPE_EVALUATIONS`); nothing if the task is not measured.
    """
    key = task_key(name, "eval_loss")
    seen = [(row["step"], row[key]) for row in history if isinstance(row.get(key), float) and math.isfinite(row[key])]
    if not seen or seen[0][1] <= 0:
        return {}
    relative = [(step, value / seen[0][1]) for step, value in seen]
    told = {task_key(name, "relative_loss"): relative[-1][1]}
    if len(relative) > 1:
        times, values = (np.array(part, dtype=np.float64) for part in zip(*relative[-SLOPE_EVALUATIONS:], strict=True))
        told[task_key(name, "slope")] = 100 * slope(values, times)
    return told
