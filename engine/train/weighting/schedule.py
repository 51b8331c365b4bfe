"""The weighting of a run: when validation losses are measured, and which task weights follow from them.

    start       observe(0)                                     the losses that ratios are taken to
    step ends   is_due(step) -> measure -> observe(step, losses)      on all ranks with the same numbers
    next step   factors                                        each task's weight is multiplied by its factor

A task without held-out examples cannot be measured: it keeps the average factor and the others are weighed among
themselves.  T = tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.contract.recipe import WeightingSection
from engine.train.weighting.coba import Coba
from engine.train.weighting.famo import Famo
from engine.train.weighting.self_paced import self_paced_weights
from engine.train.weighting.slopes import FloatArray


class TaskWeighting:
    """Factors on the task weights over time.

    Args:
        section: Method and numbers of the recipe.
        is_measured: Whether each task has held-out examples, length T.
    """

    def __init__(self, section: WeightingSection, is_measured: Sequence[bool]) -> None:
        self.section = section
        self.measured = np.flatnonzero(np.array(is_measured, dtype=bool))
        self.num_tasks, size = len(is_measured), len(self.measured)
        self.factors: FloatArray = np.ones(self.num_tasks)
        """What each task's weight is multiplied by in the next step, mean 1."""
        self._start: FloatArray | None = None
        self._last: FloatArray | None = None
        self._history: list[list[float]] = []
        self._times: list[int] = []
        self._coba = Coba(
            size,
            warmup_steps=section.warmup_steps,
            history_length=section.history_length,
            tau=section.tau,
            update_interval=section.update_interval,
            variant=section.variant,
        )
        self._famo = Famo(size, learning_rate=section.famo_learning_rate, gamma=section.famo_gamma)

    @property
    def is_active(self) -> bool:
        """Whether there is anything to measure: a method, and at least two tasks it can compare."""
        return self.section.method != "static" and len(self.measured) > 1

    def is_due(self, step: int) -> bool:
        """Whether validation losses are wanted after so many optimizer steps."""
        return self.is_active and (step == 0 or step % self.section.update_interval == 0)

    def observe(self, step: int, losses: Sequence[float]) -> None:
        """Take validation losses, nats per token, length T; what is not finite counts as not measured."""
        values = np.nan_to_num(np.array(losses, dtype=np.float64)[self.measured], nan=0.0, posinf=0.0, neginf=0.0)
        if self._start is None:
            self._start, self._last = values, values
            return
        found = self._weights(step, values)
        self._last = values
        if found is not None and np.isfinite(found).all() and found.sum() > 0:
            self.factors = np.ones(self.num_tasks)
            self.factors[self.measured] = found / found.mean()

    def _weights(self, step: int, values: FloatArray) -> FloatArray | None:
        """Return the weights of the measured tasks, or None to keep those of before."""
        assert self._start is not None and self._last is not None
        if self.section.method == "coba":
            ratios = np.divide(values, self._start, out=np.zeros_like(values), where=self._start > 0)
            self._coba.record(ratios)
            return self._coba.weights(step)
        if self.section.method == "famo":
            known = (values > 0) & (self._last > 0)
            self._famo.update(np.where(known, self._last, np.nan), np.where(known, values, np.nan))
            return self._famo.weights(np.where(values > 0, values, values[values > 0].mean())) if known.any() else None
        self._history = [*self._history, values.tolist()][-self.section.history_length :]
        self._times = [*self._times, step][-self.section.history_length :]
        if step < self.section.warmup_steps:
            return None
        times = np.array(self._times, dtype=np.float64)
        return self_paced_weights(np.array(self._history), times, scale_factor=self.section.scale_factor)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next factors depend on, JSON-ready."""
        return {
            "method": self.section.method,
            "factors": self.factors.tolist(),
            "start": None if self._start is None else self._start.tolist(),
            "last": None if self._last is None else self._last.tolist(),
            "history": self._history,
            "times": self._times,
            "coba": self._coba.state_dict(),
            "famo": self._famo.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: If it belongs to another method or other tasks.
        """
        if state.get("method") != self.section.method or len(state["factors"]) != self.num_tasks:
            raise ValueError("the state of the weighting belongs to another recipe")
        self.factors = np.array(state["factors"], dtype=np.float64)
        self._start = None if state["start"] is None else np.array(state["start"], dtype=np.float64)
        self._last = None if state["last"] is None else np.array(state["last"], dtype=np.float64)
        self._history = [[float(value) for value in row] for row in state["history"]]
        self._times = [int(time) for time in state["times"]]
        self._coba.load_state_dict(state["coba"])
        self._famo.load_state_dict(state["famo"])
