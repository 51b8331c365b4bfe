"""Intervals by resampling examples, so that a difference is called one only when it is one.

    scores of n examples -> `RESAMPLES` draws of n with replacement -> sum(values) / sum(counts) of each -> quantiles

Two subjects are compared on the same draws of the same examples (paired): what is hard for both cancels out.  Quantiles
are moved outwards for small n (expanded percentile interval; Hesterberg 2015, arXiv:1411.5279, sec. 4.1), without which
few examples give intervals that are too short.  Seeded: the same numbers give the same interval, always.

Levels hold for each comparison by itself: of twenty cells without any difference one is marked by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.contract.eval_results import Scores

Verdict = Literal["better", "worse", "no difference shown"]
Transform = Callable[[NDArray[np.float64]], NDArray[np.float64]]
RESAMPLES = 4000
LEVEL = 0.95
FEWEST = 5
"""No difference is called one on fewer examples."""
_MOST_DRAWN = 20_000_000
"""Resamples times examples: beyond it fewer resamples are drawn, for the memory's sake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value and what it may be as well."""

    value: float
    low: float
    high: float


def interval(scores: Scores, transform: Transform | None = None) -> Interval | None:
    """Return a measure with its interval, None if it applies to no example."""
    values, counts = np.array(scores.values), np.array(scores.counts)
    applies = counts > 0
    if not applies.any():
        return None
    return _quantiles(_measure(values[applies], counts[applies], transform), int(applies.sum()))


def difference(scores: Scores, reference: Scores, transform: Transform | None = None) -> Interval | None:
    """Return how much a measure differs from that of a reference on the same examples, in the same order.

    Examples to which it applies in one of the two only are left out; None if none is left.

    Raises:
        ValueError: If the two are not about equally many examples.
    """
    mine, other = np.array([scores.values, scores.counts]), np.array([reference.values, reference.counts])
    if mine.shape != other.shape:
        raise ValueError(f"{mine.shape[1]} examples cannot be paired with {other.shape[1]}")
    applies = (mine[1] > 0) & (other[1] > 0)
    if not applies.any():
        return None
    (values, counts), (other_values, other_counts) = mine[:, applies], other[:, applies]
    change = _measure(values, counts, transform) - _measure(other_values, other_counts, transform)
    return _quantiles(change, int(applies.sum()))


def verdict(found: Interval | None, better: Literal["lower", "higher"], num_examples: int) -> Verdict:
    """Say what an interval of a difference shows."""
    if found is None or num_examples < FEWEST or found.low <= 0 <= found.high:
        return "no difference shown"
    return "better" if (found.low > 0) == (better == "higher") else "worse"


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t by its expansion around the normal one (Abramowitz and Stegun 26.7.5)."""
    z, v = NormalDist().inv_cdf(probability), float(freedom)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / v ** (power + 1) for power, term in enumerate(terms))


def _measure(
    values: NDArray[np.float64], counts: NDArray[np.float64], transform: Transform | None
) -> NDArray[np.float64]:
    """Return the measure of all examples, and then that of every resample."""
    draws = _draws(len(values))
    sums = np.concatenate([[values.sum()], draws @ values]), np.concatenate([[counts.sum()], draws @ counts])
    found: NDArray[np.float64] = sums[0] / sums[1]
    return transform(found) if transform else found


def _quantiles(measured: NDArray[np.float64], num_examples: int) -> Interval:
    low, high = np.quantile(measured[1:], [_tail(num_examples), 1 - _tail(num_examples)])
    return Interval(value=float(measured[0]), low=float(low), high=float(high))


def _tail(num_examples: int) -> float:
    """Return the share of resamples beyond each end of the interval."""
    if num_examples < 2:
        return 0.0
    t = student_quantile((1 + LEVEL) / 2, num_examples - 1)
    return NormalDist().cdf(-math.sqrt(num_examples / (num_examples - 1)) * t)


@lru_cache(maxsize=8)
def _draws(num_examples: int) -> NDArray[np.float64]:
    """Return how often each example is drawn in each resample, shape (resamples, N)."""
    rng = np.random.default_rng(num_examples)
    resamples = max(200, min(RESAMPLES, _MOST_DRAWN // num_examples))
    drawn = np.zeros((resamples, num_examples))
    for row in drawn:
        row += np.bincount(rng.integers(num_examples, size=num_examples), minlength=num_examples)
    return drawn
