"""CoBa: tasks that converge too fast get less weight, tasks that diverge are held back.

    validation losses / their start -> ratios over time -> slopes alpha
    RCS = softmax_k( T alpha_k / sum |alpha| )                 who converges slower than the others
    ACS = softmax_k( -n alpha_k / sum_s |alpha_k(s)| )         who has begun to diverge, against its own past
    DF  = n softmax_s( -tau n a(s) / sum_s |a(s)| )[now]       whether anybody diverges: then ACS takes over
    w   = DF RCS + (1 - DF) ACS

Two variants.  `paper` (arXiv:2410.06741) with DF clipped to 1, absolute values in its denominator, the true time axis
for missing observations, uniform weights until every task has been seen twice.  `mftcoder` computes what that program
does, for comparison: an outer softmax and a floor, no clipping, compressed time.  T = tasks, n = slopes so far.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from engine.train.weighting.slopes import FloatArray, relative, slope, softmax

Variant = Literal["paper", "mftcoder"]


class Coba:
    """The state of CoBa; `record` what was measured, ask for `weights` at a step.

    Args:
        num_tasks: T.
        warmup_steps: Uniform weights before this optimizer step, at least 3.
        history_length: Observations in the window of the slopes, at least `warmup_steps`.
        tau: How quickly a divergence is reacted to.
        update_interval: Optimizer steps between observations.
        variant: See the module's header.

    Raises:
        ValueError: If the numbers do not fit together.
    """

    def __init__(
        self,
        num_tasks: int,
        *,
        warmup_steps: int = 100,
        history_length: int = 200,
        tau: float = 5.0,
        update_interval: int = 1,
        variant: Variant = "paper",
    ) -> None:
        if warmup_steps < 3 or history_length < warmup_steps:
            raise ValueError("warmup_steps must be at least 3, and history_length at least warmup_steps")
        self.num_tasks, self.warmup_steps, self.history_length = num_tasks, warmup_steps, history_length
        self.tau, self.update_interval, self.variant = tau, update_interval, variant
        self._ratios: list[FloatArray] = []
        self._slopes: list[FloatArray] = []
        self._diverging: list[float] = []
        self.last_df = 1.0
        """Divergence factor of the last weights: 1 while all tasks converge, towards 0 when one diverges."""

    def record(self, ratios: FloatArray) -> None:
        """Add an observation: each task's validation loss relative to its start, shape (T,), 0 = not measured."""
        self._ratios.append(np.nan_to_num(np.asarray(ratios, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0))

    def weights(self, step: int) -> FloatArray:
        """Return the task weights at an optimizer step, shape (T,), sum 1; call once per update."""
        if step < self.warmup_steps or not self._ratios:
            return np.full(self.num_tasks, 1.0 / self.num_tasks)
        return self._mftcoder(step) if self.variant == "mftcoder" else self._paper()

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next weights depend on, JSON-ready."""
        return {
            "ratios": [row.tolist() for row in self._ratios],
            "slopes": [row.tolist() for row in self._slopes],
            "diverging": list(self._diverging),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._ratios = [np.array(row, dtype=np.float64) for row in state["ratios"]]
        self._slopes = [np.array(row, dtype=np.float64) for row in state["slopes"]]
        self._diverging = [float(value) for value in state["diverging"]]

    def _paper(self) -> FloatArray:
        window = np.stack(self._ratios[-self.history_length :])
        seen = window != 0
        alpha = np.array([slope(window[seen[:, k], k], np.flatnonzero(seen[:, k])) for k in range(self.num_tasks)])
        self._slopes.append(alpha)
        self._diverging.append(float(alpha.max()))
        if (np.stack(self._ratios) != 0).sum(axis=0).min() < 2:
            return np.full(self.num_tasks, 1.0 / self.num_tasks)
        past = np.stack(self._slopes[-self.history_length :])
        self.last_df = min(self._divergence_factor(), 1.0)
        return self.last_df * self._rcs(alpha) + (1.0 - self.last_df) * self._acs(alpha, past)

    def _mftcoder(self, step: int) -> FloatArray:
        # the window mixes steps with updates, and the slopes' list begins at the warm-up: kept as they are
        start = max(0, step // self.update_interval - self.history_length)
        window = np.stack(self._ratios[-(step - start) :])
        alpha = np.array([slope(column[column != 0]) for column in window.T])
        self._slopes.append(alpha)
        self._diverging.append(slope(window.max(axis=1)))
        self.last_df = self._divergence_factor()
        mixed = self.last_df * self._rcs(alpha) + (1.0 - self.last_df) * self._acs(
            alpha, np.stack(self._slopes[start:])
        )
        weights = softmax(self.num_tasks * mixed)
        floor = 1.0 / (10 * self.num_tasks)
        return (1 - self.num_tasks * floor) * weights + floor if weights.min() < floor else weights

    def _rcs(self, alpha: FloatArray) -> FloatArray:
        return softmax(self.num_tasks * relative(alpha))

    def _acs(self, alpha: FloatArray, past: FloatArray) -> FloatArray:
        total = np.abs(past).sum(axis=0)
        return softmax(-len(past) * np.divide(alpha, total, out=np.zeros_like(alpha), where=total > 0))

    def _divergence_factor(self) -> float:
        history = np.array(self._diverging)
        return float(len(history) * softmax(-self.tau * len(history) * relative(history))[-1])
