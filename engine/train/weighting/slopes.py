"""Least-squares slopes and the softmax that the weightings share.  float64 throughout; T = tasks, K = observations."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


def slope(values: FloatArray, times: FloatArray | None = None) -> float:
    """Return the slope of the least-squares line, 0 for fewer than two points.

    Args:
        values: Observations, shape (K,).
        times: When they were made, shape (K,); 0, 1, 2 ... by default. Centered first, so large times cost no digits.
    """
    if len(values) < 2:
        return 0.0
    x = np.arange(len(values), dtype=np.float64) if times is None else np.asarray(times, dtype=np.float64)
    x = x - x.mean()
    spread = float(x @ x)
    return float(x @ values) / spread if spread > 0 else 0.0


def softmax(values: FloatArray) -> FloatArray:
    """Return exp(values) / sum, computed without overflow, shape (T,)."""
    shifted = np.exp(values - values.max())
    return np.asarray(shifted / shifted.sum())


def relative(values: FloatArray) -> FloatArray:
    """Return values / sum of their absolute values, 0 if all are 0: a task that stands still is no division by 0."""
    total = np.abs(values).sum()
    return np.asarray(values / total) if total > 0 else np.zeros_like(values)
