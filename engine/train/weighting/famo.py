"""FAMO on validation losses: the task whose loss falls slowest gets more weight.

    z = softmax(xi),  D_k = L_k + eps        gradient weights  w_k = (z_k / D_k) / sum_j (z_j / D_j)
    after the step:  delta_k = log D_k - log D'_k,   d_k = z_k (delta_k - sum_j z_j delta_j),   xi <- Adam(xi, d)

Source: FAMO (Liu et al. 2023, arXiv:2306.03792), its official code; on validation losses as MFTCoder's Eq. 4 asks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.train.weighting.slopes import FloatArray, softmax

EPSILON = 1e-8
BETAS = (0.9, 0.999)
"""Adam's own defaults, as in the official code."""


class Famo:
    """The state of FAMO.

    Args:
        num_tasks: T.
        learning_rate: Of the logits xi.
        gamma: Weight decay of the logits: pulls the weights towards each other.
    """

    def __init__(self, num_tasks: int, *, learning_rate: float = 0.025, gamma: float = 0.01) -> None:
        self.learning_rate, self.gamma = learning_rate, gamma
        self.xi = np.zeros(num_tasks)
        self._first, self._second, self._updates = np.zeros(num_tasks), np.zeros(num_tasks), 0

    def weights(self, losses: FloatArray) -> FloatArray:
        """Return the gradient weights for validation losses before the step, shape (T,), sum 1."""
        scaled = softmax(self.xi) / (np.asarray(losses, dtype=np.float64) + EPSILON)
        return np.asarray(scaled / scaled.sum())

    def surrogate(self, losses: FloatArray) -> float:
        """Return the loss whose gradient those weights are."""
        z, distance = softmax(self.xi), np.asarray(losses, dtype=np.float64) + EPSILON
        return float((z * np.log(distance)).sum() / (z / distance).sum())

    def update(self, before: FloatArray, after: FloatArray) -> None:
        """Learn from the same validation batch before and after the step; a task not measured in both is left out.

        Args:
            before: Validation losses before the step, nats, shape (T,); not finite = not measured.
            after: The same after it.
        """
        one, two = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            delta = np.log(one + EPSILON) - np.log(two + EPSILON)
        delta = np.where(np.isfinite(delta), delta, 0.0)
        z = softmax(self.xi)
        gradient = z * (delta - (z * delta).sum()) + self.gamma * self.xi
        self._updates += 1
        self._first = BETAS[0] * self._first + (1 - BETAS[0]) * gradient
        self._second = BETAS[1] * self._second + (1 - BETAS[1]) * gradient**2
        first = self._first / (1 - BETAS[0] ** self._updates)
        second = self._second / (1 - BETAS[1] ** self._updates)
        self.xi = self.xi - self.learning_rate * first / (np.sqrt(second) + EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next weights depend on, JSON-ready."""
        moments = {"first": self._first.tolist(), "second": self._second.tolist()}
        return {"xi": self.xi.tolist(), **moments, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.xi = np.array(state["xi"], dtype=np.float64)
        self._first, self._second = np.array(state["first"]), np.array(state["second"])
        self._updates = int(state["updates"])
