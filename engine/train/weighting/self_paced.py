"""Self-paced weights of MFTCoder v0.3: from the slopes of the validation losses, without normalising their size.

a_k = T alpha_k / sum_j |alpha_j|      s = softmax(a) * (-a)      w = softmax(F s)
"""

from __future__ import annotations

import numpy as np

from engine.train.weighting.slopes import FloatArray, relative, slope, softmax


def self_paced_weights(
    history: FloatArray, times: FloatArray | None = None, *, scale_factor: float = 50.0
) -> FloatArray:
    """Return the task weights, shape (T,), sum 1; uniform while nothing moves.

    Args:
        history: Validation losses, newest last, shape (K, T); 0 = not measured.
        times: Optimizer step of each row, shape (K,); 0, 1, 2 ... by default.
        scale_factor: F: how sharply the weights tell tasks apart.
    """
    values = np.asarray(history, dtype=np.float64)
    x = np.arange(len(values), dtype=np.float64) if times is None else np.asarray(times, dtype=np.float64)
    alpha = np.array([slope(column[column != 0], x[column != 0]) for column in values.T])
    paced = len(alpha) * relative(alpha)
    return softmax(scale_factor * softmax(paced) * -paced)
