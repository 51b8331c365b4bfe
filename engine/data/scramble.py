"""Seeded disorder that is the same on every machine and with every version of every library.

numbers, seeds -> 64-bit numbers that look random; sorting by them is a shuffle, the smallest k are a sample
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
_MASK = (1 << 64) - 1


def scramble(values: NDArray[np.uint64] | IntArray, *seeds: int) -> NDArray[np.uint64]:
    """Return 64-bit numbers that look random and depend on the values and the seeds alone (splitmix64).

    Args:
        values: Shape (N,).
        seeds: Any whole numbers.
    """
    key = 0
    for seed in seeds:
        key = int(_mix(np.array([(key ^ seed) & _MASK], dtype=np.uint64))[0])
    return _mix(np.asarray(values).astype(np.uint64) ^ np.uint64(key))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014), modulo 2^64."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))
