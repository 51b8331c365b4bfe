"""Best-fit-decreasing packing: rows of one task side by side in packs of at most `capacity` tokens.

    longest row first -> the fullest pack that still has room -> or a new pack

Rows of equal length are placed together, so the work grows with the number of distinct lengths, not of rows, and the
number of packs follows from a histogram of lengths alone: that is what the preview shows, by this same code.

Source: best-fit decreasing as in "Fewer Truncations Improve Language Modeling" (Ding et al. 2024, arXiv:2404.10830).
R = rows, P = packs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.data.scramble import IntArray, scramble


@dataclass(frozen=True, slots=True)
class Packs:
    """Pack p holds the rows `rows[offsets[p] : offsets[p + 1]]`."""

    rows: IntArray
    """Row indices, each exactly once, shape (R,)."""
    offsets: IntArray
    """Shape (P + 1,)."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, pack: int) -> IntArray:
        """Return the rows of a pack."""
        return self.rows[self.offsets[pack] : self.offsets[pack + 1]]

    def sums(self, values: NDArray[np.int64]) -> IntArray:
        """Add up a value of each row by pack, shape (P,)."""
        total = np.zeros(len(self.rows) + 1, dtype=np.int64)
        np.cumsum(values[self.rows], out=total[1:])
        return total[self.offsets[1:]] - total[self.offsets[:-1]]


@dataclass(frozen=True, slots=True)
class Move:
    """`num_packs` packs with room for `room` tokens each get `per_pack` rows of `length` tokens."""

    length: int
    room: int
    per_pack: int
    num_packs: int
    is_new: bool
    """Whether the packs are opened for it."""


def moves(counts: Mapping[int, int], capacity: int) -> Iterator[Move]:
    """Yield what best-fit-decreasing does, step by step.

    Args:
        counts: Rows of each length, lengths from 1 to `capacity`.
        capacity: Tokens a pack may hold.

    Raises:
        ValueError: If a row is longer than a pack, or empty.
    """
    if any(not 0 < length <= capacity for length in counts):
        raise ValueError(f"rows must have 1 to {capacity} tokens")
    open_packs = dict[int, int]()  # room left -> packs with that room
    rooms = 0  # the same as a bit set, so that the tightest fit is found without a search
    for length in sorted(counts, reverse=True):
        left = counts[length]
        while left:
            fitting = rooms >> length
            is_new = fitting == 0
            room = capacity if is_new else length + (fitting & -fitting).bit_length() - 1
            # a pack that took one row is the tightest fit for the next one too, while there is room
            per_pack = min(room // length, left)
            available = left // per_pack if is_new else open_packs[room]
            num_packs = min(available, left // per_pack)
            yield Move(length, room, per_pack, num_packs, is_new)
            left -= per_pack * num_packs
            if not is_new:
                open_packs[room] -= num_packs
                if not open_packs[room]:
                    rooms ^= 1 << room
            rest = room - per_pack * length
            if rest:
                open_packs[rest] = open_packs.get(rest, 0) + num_packs
                rooms |= 1 << rest


def count_packs(counts: Mapping[int, int], capacity: int) -> int:
    """Return how many packs the rows need, from a histogram of their lengths."""
    return sum(move.num_packs for move in moves(counts, capacity) if move.is_new)


def pack(lengths: IntArray, capacity: int, *, seed: int = 0) -> Packs:
    """Pack rows; every row is in exactly one pack.

    Args:
        lengths: Tokens of each row, 1 to `capacity`, shape (R,).
        capacity: Tokens a pack may hold.
        seed: Decides which of the rows of equal length lie together.
    """
    order = np.lexsort((scramble(np.arange(len(lengths)), seed, 3), -lengths))
    distinct, counts = np.unique(lengths, return_counts=True)
    pack_of = np.empty(len(lengths), dtype=np.int64)  # of the rows in `order`
    open_packs: dict[int, deque[IntArray]] = {}
    position = num_packs = 0
    for move in moves(dict(zip(distinct.tolist(), counts.tolist(), strict=True)), capacity):
        if move.is_new:
            chosen = np.arange(num_packs, num_packs + move.num_packs)
            num_packs += move.num_packs
        else:
            chosen = _take(open_packs[move.room], move.num_packs)
        placed = move.num_packs * move.per_pack
        pack_of[position : position + placed] = np.repeat(chosen, move.per_pack)
        position += placed
        rest = move.room - move.per_pack * move.length
        if rest:
            open_packs.setdefault(rest, deque()).append(chosen)
    rows = order[np.argsort(pack_of, kind="stable")]
    offsets = np.zeros(num_packs + 1, dtype=np.int64)
    np.cumsum(np.bincount(pack_of, minlength=num_packs), out=offsets[1:])
    return Packs(rows, offsets)


def _take(groups: deque[IntArray], count: int) -> IntArray:
    """Take `count` packs from the front."""
    taken: list[IntArray] = []
    while count:
        group = groups.popleft()
        if len(group) > count:
            groups.appendleft(group[count:])
            group = group[:count]
        taken.append(group)
        count -= len(group)
    return np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
